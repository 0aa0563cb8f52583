// SPDX-License-Identifier: Apache-2.0
#include "workspace.h"

#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace keras_seq {

// The head of an allocation; what the call sees begins `kHead` further on.
struct Buffer {
  Buffer* next;
  size_t size;
};

namespace {

constexpr size_t kHugePage = size_t{1} << 21;
constexpr size_t kHead = 128;     // keeps the data aligned to cache lines
constexpr size_t kPadding = 256;  // vectors at the end of a buffer may be read whole
constexpr size_t kMostKept = size_t{64} << 20;

// What earlier calls left, the latest first.
struct Kept {
  std::mutex mutex;
  Buffer* first = nullptr;
  size_t size = 0;
};

Kept& TheKept() {
  static Kept* kept = new Kept;  // outlives every thread
  return *kept;
}

// A buffer of at least `size`, and not much more; null where there is none.
Buffer* TakeKept(size_t size) {
  Kept& kept = TheKept();
  std::lock_guard<std::mutex> lock(kept.mutex);
  for (Buffer** link = &kept.first; *link != nullptr; link = &(*link)->next) {
    Buffer* buffer = *link;
    if (buffer->size < size || buffer->size / 2 > size) continue;
    *link = buffer->next;
    kept.size -= buffer->size;
    return buffer;
  }
  return nullptr;
}

void KeepOrFree(Buffer* buffer) {
  Kept& kept = TheKept();
  Buffer* excess = nullptr;
  {
    std::lock_guard<std::mutex> lock(kept.mutex);
    buffer->next = kept.first;
    kept.first = buffer;
    kept.size += buffer->size;
    Buffer** link = &kept.first;
    for (size_t size = 0; *link != nullptr; link = &(*link)->next) {  // the latest stay
      size += (*link)->size;
      if (size > kMostKept) break;
    }
    excess = *link;
    *link = nullptr;
    for (Buffer* rest = excess; rest != nullptr; rest = rest->next) kept.size -= rest->size;
  }
  while (excess != nullptr) {
    Buffer* next = excess->next;
    std::free(excess);
    excess = next;
  }
}

Buffer* NewBuffer(size_t size) {
  const size_t attention_weights = size >= kHugePage ? kHugePage : 64;
  size = (size + attention_weights - 1) / attention_weights * attention_weights;
  void* memory = std::aligned_alloc(attention_weights, size);
  if (memory == nullptr) return nullptr;
#if defined(__linux__)
  if (attention_weights == kHugePage) madvise(memory, size, MADV_HUGEPAGE);  // fewer page faults, fewer TLB misses
#endif
  return new (memory) Buffer{nullptr, size};
}

}  // namespace

Workspace::~Workspace() {
  while (buffers_ != nullptr) {
    Buffer* next = buffers_->next;
    KeepOrFree(buffers_);
    buffers_ = next;
  }
}

void* Workspace::AllocateBytes(size_t bytes) {
  const size_t size = kHead + bytes + kPadding;
  Buffer* buffer = TakeKept(size);
  if (buffer == nullptr) buffer = NewBuffer(size);
  if (buffer == nullptr) {
    ok_ = false;
    return nullptr;
  }
  buffer->next = buffers_;
  buffers_ = buffer;
  return reinterpret_cast<char*>(buffer) + kHead;
}

void Workspace::Clear(void* data, size_t bytes) {
  if (data != nullptr) std::memset(data, 0, bytes);
}

}  // namespace keras_seq
