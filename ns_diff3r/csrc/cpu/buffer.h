// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <cstdlib>
#include <new>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace ns_diff3r {

// Uninitialised, 64-byte aligned memory that grows and keeps what it has between uses. Contents do not survive growth.
// Also of nothing it gives a valid pointer, as memset and its like demand.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { std::free(data_); }

  T* reserve(size_t count) {
    if (count == 0) count = 1;
    if (count > capacity_) {
      std::free(data_);
      data_ = nullptr;
      capacity_ = 0;
      const size_t wanted = (count + count / 8) * sizeof(T);
      const size_t alignment = wanted >= kHugePage ? kHugePage : 64;
      const size_t bytes = (wanted + alignment - 1) / alignment * alignment;
      data_ = static_cast<T*>(std::aligned_alloc(alignment, bytes));
      if (data_ == nullptr) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
      // Kernels jump about in these buffers; with pages of 4 KiB they would wait for address translation. Only a hint.
      if (alignment == kHugePage) madvise(static_cast<void*>(data_), bytes, MADV_HUGEPAGE);
#endif
      capacity_ = bytes / sizeof(T);
    }
    return data_;
  }
  T* data() const { return data_; }
  size_t bytes() const { return capacity_ * sizeof(T); }

 private:
  static constexpr size_t kHugePage = size_t(1) << 21;
  T* data_ = nullptr;
  size_t capacity_ = 0;
};

}  // namespace ns_diff3r
