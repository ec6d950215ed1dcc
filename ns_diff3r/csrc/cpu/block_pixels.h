// SPDX-License-Identifier: Apache-2.0
// A 4x4 block of pixels as one vector: where it lies, and images in and out of it.
#pragma once
#include "../math/dual.h"
#include "plan_view.h"
#include "prefetch.h"
#include "transpose.h"

namespace ns_diff3r {
namespace NS_ISA {

template <class T>
struct BlockPixels {
  Lanes<T> x, y;  // pixel centres
  uint32_t valid;
  int64_t first;  // pixel index of lane 0 in [V, H, W]
  int columns, rows;
};

template <class T>
inline BlockPixels<T> block_pixels(const PlanView<T>& plan, int64_t tile, int block) {
  const int64_t tiles = int64_t(plan.tiles_x) * plan.tiles_y;
  const int64_t view = tile / tiles;
  const int in_view = int(tile % tiles);
  const int x0 = (in_view % plan.tiles_x) * kTileSize + (block % 4) * kBlockSize;
  const int y0 = (in_view / plan.tiles_x) * kTileSize + (block / 4) * kBlockSize;
  BlockPixels<T> pixels;
  alignas(64) T x[kLanes], y[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) {
    x[lane] = T(x0 + lane % 4) + T(0.5);
    y[lane] = T(y0 + lane / 4) + T(0.5);
  }
  pixels.x = Lanes<T>::load(x);
  pixels.y = Lanes<T>::load(y);
  const int columns = plan.width - x0, rows = plan.height - y0;
  pixels.columns = columns < 0 ? 0 : (columns > 4 ? 4 : columns);
  pixels.rows = rows < 0 ? 0 : (rows > 4 ? 4 : rows);
  pixels.valid = 0;
  for (int r = 0; r < pixels.rows; ++r) pixels.valid |= ((1u << pixels.columns) - 1u) << (4 * r);
  pixels.first = (view * plan.height + y0) * plan.width + x0;
  return pixels;
}

// An image [V, H, W, Channels] at the block's pixels, 0 outside the image.
template <int Channels, class T>
inline void load_pixels(const PlanView<T>& plan, const BlockPixels<T>& pixels, const T* image, Lanes<T> (&out)[Channels]) {
  alignas(64) T lane[kLanes * Channels];
  if (pixels.rows == 4 && pixels.columns == 4) {
    for (int row = 0; row < 4; ++row)
      std::memcpy(lane + row * 4 * Channels, image + (pixels.first + int64_t(row) * plan.width) * Channels,
                  4 * Channels * sizeof(T));
  } else {
    std::memset(lane, 0, sizeof(lane));
    for (int row = 0; row < pixels.rows; ++row)
      for (int i = 0; i < pixels.columns * Channels; ++i)
        lane[row * 4 * Channels + i] = image[(pixels.first + int64_t(row) * plan.width) * Channels + i];
  }
  deinterleave<Channels>(lane, out);
}
// Asks for an image's pixels of one tile: its rows lie scattered.
template <int Channels, class T>
NS_HD void prefetch_tile_pixels(const PlanView<T>& plan, const T* image, int64_t tile) {
  const int64_t tiles = int64_t(plan.tiles_x) * plan.tiles_y;
  if (tile >= plan.num_views * tiles) return;
  const int64_t in_view = tile % tiles, x0 = in_view % plan.tiles_x * kTileSize, y0 = in_view / plan.tiles_x * kTileSize;
  const int64_t end_y = y0 + kTileSize < plan.height ? y0 + kTileSize : plan.height;
  for (int64_t y = y0; y < end_y; ++y)
    prefetch_bytes(image + ((tile / tiles * plan.height + y) * plan.width + x0) * Channels, kTileSize * Channels * sizeof(T));
}
template <int Channels, class T>
inline void store_pixels(const PlanView<T>& plan, const BlockPixels<T>& pixels, const Lanes<T> (&x)[Channels], T* image) {
  alignas(64) T lane[kLanes * Channels];
  interleave<Channels>(x, lane);
  if (pixels.rows == 4 && pixels.columns == 4) {
    for (int row = 0; row < 4; ++row)
      std::memcpy(image + (pixels.first + int64_t(row) * plan.width) * Channels, lane + row * 4 * Channels,
                  4 * Channels * sizeof(T));
    return;
  }
  for (int row = 0; row < pixels.rows; ++row)
    for (int i = 0; i < pixels.columns * Channels; ++i)
      image[(pixels.first + int64_t(row) * plan.width) * Channels + i] = lane[row * 4 * Channels + i];
}

// How many pairs ahead a sweep asks for its records, which lie scattered.
constexpr int64_t kRecordsAhead = 16;

template <class T>
NS_HD void prefetch_record(const T* records, uint32_t record) {
  const char* p = reinterpret_cast<const char*>(records + int64_t(record) * kRecord);
  __builtin_prefetch(p);
  if (sizeof(T) == 8) __builtin_prefetch(p + 64);
}

template <class T>
NS_HD Lanes<T> exponent(const T* record, const Lanes<T>& dx, const Lanes<T>& dy) {
  return dx * (dx * Lanes<T>(record[kExpA]) + dy * Lanes<T>(record[kExpB])) + dy * dy * Lanes<T>(record[kExpC]);
}

template <class T>
inline const T* background_of(const PlanView<T>& plan, int64_t tile) {
  return plan.background + 3 * (tile / (int64_t(plan.tiles_x) * plan.tiles_y));
}

}  // namespace NS_ISA
}  // namespace ns_diff3r
