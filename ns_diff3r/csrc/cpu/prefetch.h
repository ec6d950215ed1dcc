// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>

#include "../math/scalar.h"

namespace ns_diff3r {
namespace NS_ISA {

// Asks for `count` bytes. Always inlined: GCC takes a function that only prefetches for one without effect, and drops calls.
NS_HD void prefetch_bytes(const void* begin, size_t count) {
  for (size_t i = 0; i < count; i += 64) __builtin_prefetch(static_cast<const char*>(begin) + i);
}

}  // namespace NS_ISA
}  // namespace ns_diff3r
