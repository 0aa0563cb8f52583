// SPDX-License-Identifier: Apache-2.0
#include "workspace.h"

#include <cstdlib>
#include <cstring>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace keras_seq {
namespace {

constexpr size_t kHugePage = size_t{1} << 21;
constexpr size_t kPadding = 256;  // vectors at the end of a buffer may be read whole

}  // namespace

Workspace::~Workspace() {
  while (buffers_ != nullptr) {
    Buffer* buffer = buffers_;
    buffers_ = buffer->next;
    std::free(buffer->data);
    std::free(buffer);
  }
}

void* Workspace::AllocateBytes(size_t bytes) {
  auto* buffer = static_cast<Buffer*>(std::malloc(sizeof(Buffer)));
  if (buffer == nullptr) {
    ok_ = false;
    return nullptr;
  }
  const size_t alignment = bytes >= 2 * kHugePage ? kHugePage : 64;
  const size_t size = (bytes + kPadding + alignment - 1) / alignment * alignment;
  buffer->data = std::aligned_alloc(alignment, size);
  buffer->next = buffers_;
  buffers_ = buffer;
  if (buffer->data == nullptr) {
    ok_ = false;
    return nullptr;
  }
#if defined(__linux__)
  if (alignment == kHugePage) madvise(buffer->data, size, MADV_HUGEPAGE);  // fewer page faults, fewer TLB misses
#endif
  return buffer->data;
}

void Workspace::Clear(void* data, size_t bytes) {
  if (data != nullptr) std::memset(data, 0, bytes);
}

}  // namespace keras_seq
