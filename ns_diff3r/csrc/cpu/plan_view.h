// SPDX-License-Identifier: Apache-2.0
// The data that the kernels of one linearisation share: plain pointers into buffers that Plan owns.
#pragma once
#include <cstdint>

#include "../math/camera.h"

namespace ns_diff3r {

constexpr int kTileSize = 16;       // pixels a side; part of the renderers' semantics
constexpr int kBlockSize = 4;       // a block is 4x4 pixels, the lanes of one vector
constexpr int kBlocksPerTile = 16;  // row-major within the tile
constexpr int kGroup = 16;          // Gaussians a vector
constexpr int kChunk = 1024;        // Gaussians a work item; a multiple of a group
constexpr int kRecord = 16;         // numbers a record, a tangent record and a slot

enum RecordField { kMeanX, kMeanY, kExpA, kExpB, kExpC, kOpacity, kRed, kGreen, kBlue, kDepth, kTau };
// kExpA..C: the conic times -log2(e)/2, -log2(e), -log2(e)/2, so that alpha = opacity * 2^(A dx² + B dx dy + C dy²).
// kTau: ln(opacity / alpha_min), the largest exponent that still contributes; used while listing only.

// Which clamps are active, for sixteen Gaussians in one view: one word a decision, one bit a Gaussian.
struct GroupDecisions {
  uint16_t bits[7];  // x held at its low limit, high; y low, high; red, green, blue above 0
};

enum class Extent : int32_t { circular = 0, opacity_aware = 1 };

template <class T>
struct RasterizationConfig {
  T alpha_max, alpha_min, transmittance_min, eps2d, near_plane, far_plane, radius_clip, eigenvalue_floor,
      min_compensation, tile_offset, perspective_epsilon;
  Extent extent;
  bool gradient_through_cap, antialiased;
};

template <class T>
struct GaussianPointers {
  const T *means, *quats, *scales, *opacities, *sh0, *shN;
};
template <class T>
struct GaussianOutputs {
  T *means, *quats, *scales, *opacities, *sh0, *shN;
};

// A Gaussian that may contribute to a 4x4 block.
struct Candidate {
  uint32_t record, slot;
};
// One that does at the linearisation point: the pixels (bits) it contributes to, and those where alpha is at its cap.
struct Active {
  uint32_t record, slot;
  uint16_t mask, capped;
};
struct BlockRect {
  int16_t x0, y0, x1, y1;  // in blocks, end exclusive, not empty
};
struct TileRect {
  int x0, y0, x1, y1;
};
inline TileRect tile_rect(const BlockRect& b) {
  constexpr int n = kTileSize / kBlockSize;
  return {b.x0 / n, b.y0 / n, (b.x1 + n - 1) / n, (b.y1 + n - 1) / n};
}
inline int64_t num_tiles_of(const BlockRect& b) {
  const TileRect t = tile_rect(b);
  return int64_t(t.x1 - t.x0) * (t.y1 - t.y0);
}

// What a linearisation decides, whatever the precision it was decided in.
struct PlanDecisions {
  int64_t num_gaussians;
  int32_t num_views, width, height, tiles_x, tiles_y, blocks_x, blocks_y, num_sh_bases;
  int64_t num_chunks;   // of one view
  int64_t view_stride;  // records between views, a multiple of kGroup

  // Record r = view * view_stride + Gaussian; only those of visible Gaussians hold anything. Sixteen consecutive ones
  // are a group.
  uint16_t* group_visible;
  GroupDecisions* group_decisions;
  BlockRect* record_blocks;

  // Intersections of tiles and records, by tile and in a tile by depth. Each has a slot; the slots of a tile lie together
  // too, but in the order of the records, since neighbours are gathered together.
  int64_t* tile_offsets;  // [V * tiles + 1]
  uint32_t* tile_records;
  uint16_t* tile_block_masks;
  int64_t* record_slot_offsets;  // [V * view_stride + 1], into record_slots; none for invisible records
  uint32_t* record_slots;
  // blocks of a tile lie together: block = tile * kBlocksPerTile + b
  int64_t* block_offsets;  // [V * tiles * kBlocksPerTile + 1]
  Candidate* candidates;
  Active* active;           // the block's first active_counts entries from block_offsets[block]
  uint32_t* active_counts;
  uint8_t* record_contributes;
};

template <class T>
struct PlanView : PlanDecisions {
  RasterizationConfig<T> config;
  const Camera<T>* cameras;
  const T* background;  // [V, 3]
  GaussianPointers<T> params;
  T* records;
  const T* frozen_records;  // where the pairs were frozen; null if that is here
};

template <class T>
struct RenderOutputs {
  T *rgb, *alpha, *depth;  // alpha and depth may be null
};

template <class T>
struct ImageCotangents {
  const T *rgb, *alpha, *depth_sum;  // the last two may be null; depth_sum: of the sum of weight * depth
};

}  // namespace ns_diff3r
