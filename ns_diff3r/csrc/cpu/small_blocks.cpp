// SPDX-License-Identifier: Apache-2.0
#include "small_blocks.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "parallel.h"
#include "solver_kernels.h"

namespace ns_diff3r {
namespace {

constexpr int L = kBlockLanes;
constexpr int64_t kTilesPerItem = 32;

// The blocks of one tile: where each of them lies in the flat vector.
struct TileBlocks {
  int lanes;
  int64_t outer[L], inner[L];

  TileBlocks(int64_t tile, const BlockLayout& layout)
      : lanes(static_cast<int>(std::min<int64_t>(L, layout.num_blocks - tile * L))) {
    for (int l = 0; l < lanes; ++l) {
      outer[l] = (tile * L + l) / layout.inner;
      inner[l] = (tile * L + l) % layout.inner;
    }
  }
  int64_t operator()(const BlockRow& row, int lane) const { return row.base + outer[lane] * row.stride + inner[lane]; }
};

// Σ fn(tile, scratch), in index order within and across items of fixed size.
template <class Number, class T, class Fn>
Number sum_tiles(int threads, int64_t num_blocks, size_t scratch_size, const Fn& fn) {
  const int64_t tiles = (num_blocks + L - 1) / L, items = (tiles + kTilesPerItem - 1) / kTilesPerItem;
  std::vector<Number> partial(items, Number(0));
  parallel_for(threads, items, [&](int64_t item) {
    std::vector<T> scratch(scratch_size);
    for (int64_t tile = item * kTilesPerItem; tile < std::min(tiles, (item + 1) * kTilesPerItem); ++tile)
      partial[item] += fn(tile, scratch.data());
  });
  Number total = 0;
  for (Number value : partial) total += value;
  return total;
}

}  // namespace

template <class T>
int64_t invert_blocks(int threads, const BlockLayout& layout, double scale, bool square_root, const T* blocks,
                      const T* strength, T* inverse) {
  const int size = layout.size;
  const T factor = static_cast<T>(scale);
  const size_t square = static_cast<size_t>(size) * size * L;
  return sum_tiles<int64_t, T>(threads, layout.num_blocks, 2 * square + size * L, [&](int64_t tile, T* scratch) {
    const TileBlocks at(tile, layout);
    T *matrix = scratch, *vectors = scratch + square, *scaling = scratch + 2 * square;
    // Frozen rows, and lanes beyond the last block, are rows of zeros with scaling 1.
    for (int i = 0; i < size; ++i)
      for (int l = 0; l < L; ++l) {
        scaling[i * L + l] = T(1);
        if (l >= at.lanes || layout.rows[i].frozen) continue;
        const T diagonal = strength ? strength[at(layout.rows[i], l)]
                                    : factor * blocks[((tile * L + l) * size + i) * size + i];
        if (diagonal > 0) scaling[i * L + l] = 1 / std::sqrt(diagonal);
      }
    for (int i = 0; i < size; ++i)
      for (int j = 0; j < size; ++j) {
        const bool cut = layout.rows[i].frozen || layout.rows[j].frozen;
        T* element = matrix + (i * size + j) * L;
        const T* block = blocks + (tile * L * size + i) * size + j;
        for (int l = 0; l < L; ++l)
          element[l] = l < at.lanes && !cut
                           ? factor * block[l * size * size] * (scaling[i * L + l] * scaling[j * L + l])
                           : T(0);
      }
    return solver_kernels<T>().invert_blocks(size, strength != nullptr, square_root, at.lanes, matrix, vectors, scaling,
                                             inverse + tile * packed_size(size) * L);
  });
}

template <class T>
double apply_blocks(int threads, const BlockLayout& layout, const T* inverse, const T* r, T* z) {
  const int size = layout.size;
  return sum_tiles<double, T>(threads, layout.num_blocks, 2 * size * L, [&](int64_t tile, T* scratch) {
    const TileBlocks at(tile, layout);
    T *right = scratch, *x = scratch + size * L;
    for (int i = 0; i < size; ++i)
      for (int l = 0; l < L; ++l)
        right[i * L + l] = l < at.lanes && !layout.rows[i].frozen ? r[at(layout.rows[i], l)] : T(0);
    solver_kernels<T>().apply_blocks(size, inverse + tile * packed_size(size) * L, right, x);
    for (int i = 0; i < size; ++i)
      for (int l = 0; l < at.lanes; ++l) z[at(layout.rows[i], l)] = x[i * L + l];
    return solver_kernels<T>().dot(size * L, right, x);
  });
}

#define NS_INSTANTIATE(T)                                                                                           \
  template int64_t invert_blocks(int, const BlockLayout&, double, bool, const T*, const T*, T*);                    \
  template double apply_blocks(int, const BlockLayout&, const T*, const T*, T*);
NS_INSTANTIATE(float)
NS_INSTANTIATE(double)

}  // namespace ns_diff3r
