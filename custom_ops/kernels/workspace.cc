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

// The head of an allocation. The data begin `kHead` bytes further on.
struct Buffer {
  Buffer* next;
  size_t size;
};

namespace {

constexpr size_t kHugePage = size_t{1} << 21;
constexpr size_t kHead = 128;     // keeps the data aligned to cache lines
constexpr size_t kPadding = 256;  // the kernels may read whole vectors at the end of a buffer
constexpr size_t kPoolLimit = size_t{64} << 20;

// Buffers of earlier calls, the latest first.
struct BufferPool {
  std::mutex mutex;
  Buffer* first = nullptr;
  size_t size = 0;
};

BufferPool& Pool() {
  static BufferPool* pool = new BufferPool;  // outlives every thread
  return *pool;
}

// Takes a buffer of at least `size` bytes and at most about twice that; null if there is none.
Buffer* TakeFromPool(size_t size) {
  BufferPool& pool = Pool();
  std::lock_guard<std::mutex> lock(pool.mutex);
  for (Buffer** link = &pool.first; *link != nullptr; link = &(*link)->next) {
    Buffer* buffer = *link;
    if (buffer->size < size || buffer->size / 2 > size) continue;
    *link = buffer->next;
    pool.size -= buffer->size;
    return buffer;
  }
  return nullptr;
}

// Puts a buffer into the pool, and frees the oldest ones beyond its limit.
void ReturnToPool(Buffer* buffer) {
  BufferPool& pool = Pool();
  Buffer* excess = nullptr;
  {
    std::lock_guard<std::mutex> lock(pool.mutex);
    buffer->next = pool.first;
    pool.first = buffer;
    pool.size += buffer->size;
    Buffer** link = &pool.first;
    for (size_t size = 0; *link != nullptr; link = &(*link)->next) {
      size += (*link)->size;
      if (size > kPoolLimit) break;
    }
    excess = *link;
    *link = nullptr;
    for (Buffer* rest = excess; rest != nullptr; rest = rest->next) pool.size -= rest->size;
  }
  while (excess != nullptr) {
    Buffer* next = excess->next;
    std::free(excess);
    excess = next;
  }
}

Buffer* NewBuffer(size_t size) {
  const size_t alignment = size >= kHugePage ? kHugePage : 64;
  size = (size + alignment - 1) / alignment * alignment;
  void* memory = std::aligned_alloc(alignment, size);
  if (memory == nullptr) return nullptr;
#if defined(__linux__)
  if (alignment == kHugePage) madvise(memory, size, MADV_HUGEPAGE);  // fewer page faults, fewer TLB misses
#endif
  return new (memory) Buffer{nullptr, size};
}

}  // namespace

Workspace::~Workspace() {
  while (buffers_ != nullptr) {
    Buffer* next = buffers_->next;
    ReturnToPool(buffers_);
    buffers_ = next;
  }
}

void* Workspace::AllocateBytes(size_t bytes) {
  const size_t size = kHead + bytes + kPadding;
  Buffer* buffer = TakeFromPool(size);
  if (buffer == nullptr) buffer = NewBuffer(size);
  if (buffer == nullptr) {
    ok_ = false;
    return nullptr;
  }
  buffer->next = buffers_;
  buffers_ = buffer;
  char* data = reinterpret_cast<char*>(buffer) + kHead;
#if defined(KERAS_SEQ_POISON)
  std::memset(data, 0xFF, bytes + kPadding);  // NaN, so that tests see what is read before it is written
#endif
  return data;
}

void Workspace::Clear(void* data, size_t bytes) {
  if (data != nullptr) std::memset(data, 0, bytes);
}

}  // namespace keras_seq
