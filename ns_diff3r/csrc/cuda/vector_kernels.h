// SPDX-License-Identifier: Apache-2.0
// Operations on flat parameter vectors. Every sum is made in two stages of fixed order: a partial sum a block over
// kElements consecutive numbers, in double, then one block over the partial sums. Scalars stay on the device.
#pragma once
#include "queue.h"

namespace ns_diff3r {
namespace cuda {

constexpr int kVectorThreads = 256, kEach = 4;
constexpr int kElements = kVectorThreads * kEach;  // of a block
constexpr int kMaxRanges = 8;

struct SumShared {
  double partial[kVectorThreads / kWarp];
};

// visit(i) for the block's numbers below `count`.
template <class Block, class Visit>
NS_KERNEL void for_elements(Block& block, int64_t count, const Visit& visit) {
  NS_UNROLL for (int k = 0; k < kEach; ++k) {
    const int64_t i = (block.index() * kEach + k) * kVectorThreads + block.thread();
    if (i < count) visit(i);
  }
}

// The sum of `count` partial sums; every thread of the block gets it.
template <class Block>
NS_KERNEL double sum_partials(Block& block, SumShared& shared, const double* partial, int64_t count) {
  double own = 0.0;
  for (int64_t i = block.thread(); i < count; i += kVectorThreads) own += partial[i];
  return block_sum<kVectorThreads>(block, own, shared.partial);
}

template <class Block>
NS_KERNEL void store_partial(Block& block, SumShared& shared, double own, double* partial) {
  const double sum = block_sum<kVectorThreads>(block, own, shared.partial);
  if (block.thread() == 0) partial[block.index()] = sum;
}

constexpr int kMaxSums = 2 * kMaxRanges + 2;

// out[r] = Σ partial[first[r] … first[r + 1]), a block a range. With `row` the sums are that row of a table.
struct SumKernel {
  static constexpr int kThreads = kVectorThreads, kBlocksPerMultiprocessor = 1;
  using Shared = SumShared;
  const double* partial;
  double* out;
  int64_t first[kMaxSums + 1];
  const int32_t* row;
  int32_t columns;

  template <class Block>
  NS_KERNEL void operator()(Block& block, Shared& shared) const {
    const int64_t begin = first[block.index()], end = first[block.index() + 1];
    const double sum = sum_partials(block, shared, partial + begin, end - begin);
    if (block.thread() == 0) out[(row ? int64_t(*row) * columns : 0) + block.index()] = sum;
  }
};

// Attribute groups of the flat layout. A block works in one of them: first_block[r] … first_block[r + 1].
struct Ranges {
  int32_t count;
  int64_t begin[kMaxRanges], end[kMaxRanges], first_block[kMaxRanges + 1];
  double learning_rate[kMaxRanges];
  bool frozen[kMaxRanges];
};

}  // namespace cuda
}  // namespace ns_diff3r
