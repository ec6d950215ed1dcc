// SPDX-License-Identifier: Apache-2.0
// The data that the kernels of one linearisation share: plain pointers into memory that the caller owns.
#pragma once
#include "../cpu/plan_view.h"
#include "block.h"

namespace ns_diff3r {
namespace cuda {

constexpr int kTile = 16;      // pixels a side; part of the renderers' semantics
constexpr int kCell = 4;       // a cell is 4x4 pixels, half a warp
constexpr int kCells = 16;     // of a tile, row-major
constexpr int kTileThreads = 256;
constexpr float kLog2E = 1.4426950408889634f;

// What the pixels see of one Gaussian in one view. a, b, c: the conic times -log2(e)/2, -log2(e), -log2(e)/2, so that
// alpha = opacity * 2^(a dx² + b dx dy + c dy²) with (dx, dy) = mean - pixel. tau = ln(opacity / alpha_min), not negative.
template <class T>
struct alignas(16) Record {
  T mean_x, mean_y, a, b;
  T c, opacity, tau, depth;
  T red, green, blue, unused;
};

// d(alpha)/alpha = q0 + q1 dx + q2 dy + q3 dx² + q4 dx dy + q5 dy², and the tangents of the colour.
template <class T>
struct alignas(16) TangentRecord {
  T q[6], color[3], unused[3];
};

// Clamps that hold (or colours above theirs), one bit each.
enum RecordFlags : uint8_t {
  kXLow = 1, kXHigh = 2, kYLow = 4, kYHigh = 8, kRedShows = 16, kGreenShows = 32, kBlueShows = 64, kVisible = 128
};

struct alignas(8) Tiles {  // end exclusive
  uint16_t x0, y0, x1, y1;
};

// A tile's list names records; a slot is where the tile's sums for that record go. Slots lie by record.
struct alignas(8) Entry {
  uint32_t record, slot;
};

// The number of intersections where there are 2^32 of them or more.
constexpr uint32_t kTooMany = 0xffffffffu;

template <class T>
struct Scene {
  int64_t num_gaussians;
  int32_t num_views, width, height, tiles_x, tiles_y, num_sh_bases;
  RasterizationConfig<T> config;
  const Camera<T>* cameras;
  const T* background;  // [V, 3]
  GaussianPointers<T> params;

  // Record r = view * num_gaussians + Gaussian.
  Record<T>* records;
  uint8_t* flags;
  Tiles* tiles;
  uint32_t* counts;        // intersections of a record; [V * N + 1], the last 0
  uint32_t* record_slots;  // [V * N + 1]: the first slot of a record, then their number
  int64_t room;            // for so many intersections: as many as there are, or more where their number is not waited for
  uint32_t* tile_offsets;  // [V * tiles + 1]
  Entry* entries;          // by tile and in a tile by depth
  uint16_t* masks;         // the cells of the tile that an entry can reach
  // Pixels: the list position after the last contributing pair, and the transmittance behind it.
  int32_t* stops;
  T* transmittances;
  uint8_t* contributes;  // [N]
  // Where all decisions were taken; null if that is here.
  const Record<T>* origin_records;
  const int32_t* origin_stops;

  NS_HD int64_t num_records() const { return num_views * num_gaussians; }
  NS_KERNEL int64_t num_intersections() const { return record_slots[num_records()]; }
  NS_HD int64_t tiles_per_view() const { return int64_t(tiles_x) * tiles_y; }
  NS_HD int64_t num_tiles() const { return num_views * tiles_per_view(); }
};

// The six leaves in a flat vector, one group behind the other.
template <class Pointers, class T, class Number>
Pointers leaves(const Scene<T>& scene, Number* flat) {
  const int64_t n = scene.num_gaussians;
  return {flat, flat + 3 * n, flat + 7 * n, flat + 10 * n, flat + 11 * n, flat + 14 * n};
}

// Below this a pixel's transmittance ends the pixel, whatever the configuration says: it is walked back by divisions.
template <class T>
struct Smallest;
template <>
struct Smallest<float> {
  static constexpr float transmittance = 1e-30f, factor = 1e-6f;
};
template <>
struct Smallest<double> {
  static constexpr double transmittance = 1e-280, factor = 1e-14;
};

}  // namespace cuda
}  // namespace ns_diff3r
