// SPDX-License-Identifier: Apache-2.0
// Many small symmetric positive definite systems at once: the block-Jacobi preconditioner. Tiles of kCholeskyLanes
// blocks are stored lane-innermost, so that they are worked on in step whatever the block size.
#pragma once
#include <cstdint>

namespace ns_diff3r {

constexpr int kCholeskyLanes = 16;
constexpr int kMaxBlockSize = 25;  // one colour channel of spherical harmonics of degree 4

// Where the rows of block b lie in a flat vector: row j is element base + (b / inner) · stride + b % inner.
// A frozen row is cut out of the block: its solution is 0.
struct BlockRow {
  int64_t base, stride;
  bool frozen;
};

struct BlockLayout {
  int64_t num_blocks;
  int size;   // rows of a block
  int inner;  // blocks that lie side by side in a row of the flat layout (the colour channels)
  const BlockRow* rows;
};

inline int64_t cholesky_factor_size(int64_t num_blocks, int size) {
  return (num_blocks + kCholeskyLanes - 1) / kCholeskyLanes * kCholeskyLanes * (size * (size + 1) / 2);
}

// Factors scale·block + diag(Λ at the block's rows); strength may be null. blocks [num_blocks, size, size] row-major;
// factor has cholesky_factor_size() elements. A pivot that rounding has made useless is replaced (the row falls back to
// Jacobi); returns how many were.
template <class T>
int64_t cholesky_factor_blocks(int threads, const BlockLayout& layout, double scale, const T* blocks, const T* strength,
                               T* factor);

// z = (L Lᵀ)⁻¹ r at the rows of all blocks; returns r·z over these rows, in double.
template <class T>
double cholesky_solve_blocks(int threads, const BlockLayout& layout, const T* factor, const T* r, T* z);

}  // namespace ns_diff3r
