// SPDX-License-Identifier: Apache-2.0
// The threads that help with calls. All calls of the process share them.
//
// They are not those of TensorFlow or XLA because they wait differently: a thread that has no task spins for a while
// before it sleeps, and gives way to any other thread of its core. Training calls a kernel every few hundred
// microseconds. To wake a thread takes tens of them, and some schedulers first put a thread that wakes on the core of
// the one that woke it, where it helps nobody for some milliseconds. In the pool of a framework a spinning thread would
// keep other work waiting.
#ifndef KERAS_SEQ_KERNELS_THREADS_H_
#define KERAS_SEQ_KERNELS_THREADS_H_

#include "recurrence.h"

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

namespace keras_seq {

// Tells the core that this thread spins.
inline void Pause() {
#if defined(__x86_64__) || defined(__i386__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// The number of the core that this thread runs on, or -1 if the system does not tell.
int CurrentCore();

// Moves the calling thread to another core, if it may run on one. The system may move it back.
void LeaveCore();

// Returns an executor of `threads` threads, including the caller; 0 is as good as 1, and no more than there are cores.
// There are as many helpers as the largest executor needs; they start when they are needed first.
Executor SharedThreads(int threads);

}  // namespace keras_seq

#endif  // KERAS_SEQ_KERNELS_THREADS_H_
