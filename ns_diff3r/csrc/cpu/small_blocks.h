// SPDX-License-Identifier: Apache-2.0
// Many small symmetric positive semi-definite blocks at once: the block preconditioners. Tiles of kBlockLanes blocks are
// stored lane-innermost, so that they are worked on in step whatever the block size.
//
// With B = scale·block, Λ the diagonal prior of its rows and the spectral decomposition Λ^-½ B Λ^-½ = V diag(b) Vᵀ, the
// preconditioner is
//     M⁻¹ = Λ^-½ V diag(1 + b)^-p Vᵀ Λ^-½,
// for p = 1 the inverse of B + Λ, for p = ½ that of the geometric mean of Λ and B + Λ. Without a prior Λ is the diagonal
// of B and 1 + b becomes b, of which what rounding leaves undetermined is replaced by 1.
#pragma once
#include <cstdint>

namespace ns_diff3r {

constexpr int kBlockLanes = 16;
constexpr int kMaxBlockSize = 25;  // one colour channel of spherical harmonics of degree 4

// Where the rows of block b lie in a flat vector: row j is element base + (b / inner) · stride + b % inner.
// A frozen row is cut out of the block; right-hand sides are taken to be 0 there, and so are solutions.
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

constexpr int packed_size(int size) { return size * (size + 1) / 2; }

// M⁻¹ of every block, packed lower triangles in tiles: ceil(num_blocks / kBlockLanes) · kBlockLanes · packed_size(size)
// elements. blocks [num_blocks, size, size] row-major; strength (Λ, flat) may be null. Returns how many eigenvalues
// rounding has made useless (clamped).
template <class T>
int64_t invert_blocks(int threads, const BlockLayout& layout, double scale, bool square_root, const T* blocks,
                      const T* strength, T* inverse);

// z = M⁻¹ r at the rows of all blocks; returns r·z over these rows, in double.
template <class T>
double apply_blocks(int threads, const BlockLayout& layout, const T* inverse, const T* r, T* z);

}  // namespace ns_diff3r
