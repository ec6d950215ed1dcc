// SPDX-License-Identifier: Apache-2.0
#include "small_cholesky.h"

#include <algorithm>
#include <vector>

#include "parallel.h"
#include "solver_kernels.h"

namespace ns_diff3r {
namespace {

constexpr int L = kCholeskyLanes;
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

// Σ fn(tile), in index order within and across items of fixed size.
template <class Number, class Fn>
Number sum_tiles(int threads, int64_t num_blocks, const Fn& fn) {
  const int64_t tiles = (num_blocks + L - 1) / L, items = (tiles + kTilesPerItem - 1) / kTilesPerItem;
  std::vector<Number> partial(items, Number(0));
  parallel_for(threads, items, [&](int64_t item) {
    for (int64_t tile = item * kTilesPerItem; tile < std::min(tiles, (item + 1) * kTilesPerItem); ++tile)
      partial[item] += fn(tile);
  });
  Number total = 0;
  for (Number value : partial) total += value;
  return total;
}

}  // namespace

template <class T>
int64_t cholesky_factor_blocks(int threads, const BlockLayout& layout, double scale, const T* blocks, const T* strength,
                               T* factor) {
  const int size = layout.size, entries = size * (size + 1) / 2;
  const T factor_of_block = static_cast<T>(scale);
  return sum_tiles<int64_t>(threads, layout.num_blocks, [&](int64_t tile) {
    const TileBlocks at(tile, layout);
    T* element = factor + tile * entries * L;
    T* const first = element;
    for (int i = 0; i < size; ++i) {
      for (int j = 0; j <= i; ++j, element += L) {
        const bool cut = layout.rows[i].frozen || layout.rows[j].frozen;
        for (int l = 0; l < L; ++l) {
          element[l] = i == j ? T(1) : T(0);  // the identity in frozen rows and beyond the last block
          if (l >= at.lanes || cut) continue;
          element[l] = factor_of_block * blocks[((tile * L + l) * size + i) * size + j];
          if (i == j && strength != nullptr) element[l] += strength[at(layout.rows[i], l)];
        }
      }
    }
    return solver_kernels<T>().cholesky_factor(size, first, at.lanes);
  });
}

template <class T>
double cholesky_solve_blocks(int threads, const BlockLayout& layout, const T* factor, const T* r, T* z) {
  const int size = layout.size, entries = size * (size + 1) / 2;
  return sum_tiles<double>(threads, layout.num_blocks, [&](int64_t tile) {
    const TileBlocks at(tile, layout);
    T right[kMaxBlockSize * L], x[kMaxBlockSize * L];
    for (int i = 0; i < size; ++i)
      for (int l = 0; l < L; ++l)
        right[i * L + l] = l < at.lanes && !layout.rows[i].frozen ? r[at(layout.rows[i], l)] : T(0);
    solver_kernels<T>().cholesky_solve(size, factor + tile * entries * L, right, x);
    for (int i = 0; i < size; ++i)
      for (int l = 0; l < at.lanes; ++l) z[at(layout.rows[i], l)] = x[i * L + l];
    return solver_kernels<T>().dot(size * L, right, x);
  });
}

#define NS_INSTANTIATE(T)                                                                                            \
  template int64_t cholesky_factor_blocks(int, const BlockLayout&, double, const T*, const T*, T*);                  \
  template double cholesky_solve_blocks(int, const BlockLayout&, const T*, const T*, T*);
NS_INSTANTIATE(float)
NS_INSTANTIATE(double)

}  // namespace ns_diff3r
