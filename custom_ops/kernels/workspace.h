// SPDX-License-Identifier: Apache-2.0
// Scratch buffers of one call.
#ifndef KERAS_SEQ_KERNELS_WORKSPACE_H_
#define KERAS_SEQ_KERNELS_WORKSPACE_H_

#include <cstddef>
#include <cstdint>

namespace keras_seq {

// Buffers that live as long as the workspace. If memory runs out, `Allocate` returns null and `ok` becomes false.
//
// Up to 64 MiB are kept for later calls, because the system needs longer to clear fresh pages than the kernels need for
// a short sequence.
class Workspace {
 public:
  Workspace() = default;
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  ~Workspace();

  template <class T>
  T* Allocate(int64_t count) {
    return static_cast<T*>(AllocateBytes(static_cast<size_t>(count < 0 ? 0 : count) * sizeof(T)));
  }

  template <class T>
  T* AllocateZeros(int64_t count) {
    T* buffer = Allocate<T>(count);
    Clear(buffer, static_cast<size_t>(count) * sizeof(T));
    return buffer;
  }

  bool ok() const { return ok_; }

 private:
  void* AllocateBytes(size_t bytes);
  static void Clear(void* data, size_t bytes);

  struct Buffer* buffers_ = nullptr;
  bool ok_ = true;
};

}  // namespace keras_seq

#endif  // KERAS_SEQ_KERNELS_WORKSPACE_H_
