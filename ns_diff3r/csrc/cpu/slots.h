// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "simd.h"

namespace ns_diff3r {
namespace NS_ISA {

// A slot holds what the pixels of one tile say about one Gaussian: the moments 1, dx, dy, dx², dx dy, dy² of
// s = alpha ∂(u·I)/∂alpha, then Σ w u for red, green, blue and (after a sweep with depth only) depth; number i lies where
// sum_lanes leaves it. The order is the same for nine sums and for ten.
constexpr int slot_lane(int i) { return sum_lane(i, 10); }
static_assert(sum_lane(8, 9) == sum_lane(8, 10), "nine sums lie as the first nine of ten");

}  // namespace NS_ISA
}  // namespace ns_diff3r
