// SPDX-License-Identifier: Apache-2.0
// How a block of 256 threads works through the list of one tile. Half a warp has the 4x4 pixels of a cell, a pixel a
// thread, and walks through those entries only that can reach its cell: of the Gaussians of a few pixels that feed-forward
// networks predict, three quarters of the tile's pixels see nothing. Entries come in batches through shared memory. Sums
// over pixels are made in two steps of fixed order, hence deterministic: over the cell by shuffles, into a partial sum of
// its own for every (entry, cell) of the batch, and over the cells of an entry when the batch is done, into its slot.
#pragma once
#include "pair.h"

namespace ns_diff3r {
namespace cuda {

template <class T>
struct TilePixel {
  int warp, lane, cell;
  bool inside;
  int64_t tile, view, pixel;  // the pixel's index in [V, H, W]
  T x, y;                     // its centre
  int64_t first;              // the tile's list
  int count;
};

template <class T>
NS_KERNEL TilePixel<T> tile_pixel(const Scene<T>& scene, int64_t tile, int thread) {
  TilePixel<T> p;
  p.tile = tile;
  p.warp = thread / kWarp;
  p.lane = thread % kWarp;
  p.cell = thread / (kCell * kCell);
  const int64_t per_view = scene.tiles_per_view();
  p.view = tile / per_view;
  const int in_view = int(tile % per_view), l = thread % (kCell * kCell);
  const int x = in_view % scene.tiles_x * kTile + p.cell % 4 * kCell + l % kCell;
  const int y = in_view / scene.tiles_x * kTile + p.cell / 4 * kCell + l / kCell;
  p.inside = x < scene.width && y < scene.height;
  p.pixel = (p.view * scene.height + y) * scene.width + x;
  p.x = T(x) + T(0.5);
  p.y = T(y) + T(0.5);
  p.first = scene.tile_offsets[tile];
  p.count = int(scene.tile_offsets[tile + 1] - scene.tile_offsets[tile]);
  return p;
}

// Entries of a batch; Sums > 0: with room for Capacity partial sums of that many numbers. An entry has at most sixteen.
template <class T, int Entries, int Sums, int Capacity, bool Tangents, bool Frozen>
struct Batch {
  static_assert(Entries <= kTileThreads && Entries % kWarp == 0, "an entry is read by a thread");
  static_assert(Sums == 0 || Capacity >= kCells, "at least one entry must fit");
  static constexpr int kEntries = Entries, kSums = Sums, kCapacity = Capacity;
  static constexpr bool kTangents = Tangents, kFrozen = Frozen;
  static constexpr int kSlot = (Sums + 3) / 4 * 4;  // numbers a slot

  Record<T> records[Entries];
  Record<T> origins[Frozen ? Entries : 1];
  TangentRecord<T> tangents[Tangents ? Entries : 1];
  T partial[Sums > 0 ? Capacity * Sums : 1];
  uint32_t slots[Sums > 0 ? Entries : 1];
  uint16_t first_partial[Sums > 0 ? Entries : 1];
  uint16_t masks[Entries];
  uint8_t lists[kCells][Entries];  // for every cell the batch's entries that can reach it, in the batch's order
  int warp_totals[kTileThreads / kWarp];

  NS_KERNEL const Record<T>& origin(int j) const { return origins[Frozen ? j : 0]; }
};

// Reads the entries first, first + step, ... (at most `available`) into the batch and returns how many fitted. Position j
// of the batch is entry first + j * step. Two barriers, one of them in front: the last batch may still be in use.
template <class B, class Block, class T>
NS_KERNEL int load_batch(Block& block, B& batch, const Scene<T>& scene, const TangentRecord<T>* tangents, int64_t first,
                         int step, int available) {
  const int t = block.thread();
  const int wanted = smaller(B::kEntries, available);
  block.sync();
  uint32_t mask = 0;
  if (t < wanted) {
    const Entry entry = scene.entries[first + int64_t(step) * t];
    mask = scene.masks[first + int64_t(step) * t];
    batch.records[t] = scene.records[entry.record];
    if constexpr (B::kFrozen) batch.origins[t] = scene.origin_records[entry.record];
    if constexpr (B::kSums > 0) batch.slots[t] = entry.slot;
    if constexpr (B::kTangents && 2 * B::kEntries > kTileThreads) batch.tangents[t] = tangents[entry.record];
  }
  if constexpr (B::kTangents && 2 * B::kEntries <= kTileThreads) {  // threads without a record of their own fetch them
    const int j = t - B::kEntries;
    if (j >= 0 && j < wanted) batch.tangents[j] = tangents[scene.entries[first + int64_t(step) * j].record];
  }
  if (t < B::kEntries) batch.masks[t] = uint16_t(mask);
  int count = wanted;
  if constexpr (B::kSums > 0) {
    int through = popcount(mask);
    for (int delta = 1; delta < kWarp; delta *= 2) {
      const int below = block.shuffle_up(through, delta);
      if (t % kWarp >= delta) through += below;
    }
    if (t % kWarp == kWarp - 1) batch.warp_totals[t / kWarp] = through;
    block.sync();
    for (int w = 0; w < t / kWarp; ++w) through += batch.warp_totals[w];
    if (t < wanted) batch.first_partial[t] = uint16_t(smaller(through - popcount(mask), 65535));
    count = block.sync_count(t < wanted && through <= B::kCapacity);
  } else {
    block.sync();
  }
  return count;
}

// What half a warp has to do of a batch.
struct CellList {
  int own;    // entries of this half's cell
  int turns;  // the longer of the two halves' lists
};

// The lists of a warp's two cells; only this warp reads them.
template <class B, class Block>
NS_KERNEL CellList list_cells(Block& block, B& batch, int count, int warp, int lane) {
  const uint32_t below = (1u << lane) - 1u;
  const int low = 2 * warp, high = low + 1;
  int num_low = 0, num_high = 0;
  for (int base = 0; base < count; base += kWarp) {
    const int j = base + lane;
    const uint32_t mask = j < count ? batch.masks[j] : 0;
    const bool in_low = (mask >> low) & 1, in_high = (mask >> high) & 1;
    const uint32_t all_low = block.ballot(in_low), all_high = block.ballot(in_high);
    if (in_low) batch.lists[low][num_low + popcount(all_low & below)] = uint8_t(j);
    if (in_high) batch.lists[high][num_high + popcount(all_high & below)] = uint8_t(j);
    num_low += popcount(all_low);
    num_high += popcount(all_high);
  }
  block.sync_warp();
  return {lane < kWarp / 2 ? num_low : num_high, larger(num_low, num_high)};
}

// Sums N numbers over the 16 lanes of a cell so that each lane ends with about N / 16 of them: first, first + 1, ... below
// `end`, in values[0], values[1], .... Every step halves the numbers instead of repeating the sum in all lanes.
template <int N, int Mask, class Block, class T>
struct HalfWarpSums {
  static constexpr int kHalf = (N + 1) / 2;
  static constexpr int kLeft = HalfWarpSums<kHalf, Mask / 2, Block, T>::kLeft;
  NS_KERNEL static void run(Block& block, int lane, T* values, int& first, int& end) {
    const bool upper = (lane & Mask) != 0;
    NS_UNROLL for (int i = 0; i < kHalf; ++i) {
      const T high = kHalf + i < N ? values[kHalf + i < N ? kHalf + i : 0] : T(0);
      const T low = values[i];
      values[i] = (upper ? high : low) + block.shuffle_xor(upper ? low : high, Mask);
    }
    if (upper)
      first += kHalf;
    else
      end = smaller(end, first + kHalf);
    HalfWarpSums<kHalf, Mask / 2, Block, T>::run(block, lane, values, first, end);
  }
};
template <int N, class Block, class T>
struct HalfWarpSums<N, 0, Block, T> {
  static constexpr int kLeft = N;
  NS_KERNEL static void run(Block&, int, T*, int&, int&) {}
};

// Adds up `values` over the pixels of the cell into the partial sum of (entry j, cell). All lanes of the warp come here; a
// half without an entry says j < 0. `some`: whether any pixel of the warp has anything to add.
template <class B, class Block, class T>
NS_KERNEL void sum_cell(Block& block, B& batch, int j, int cell, int lane, bool some, T (&values)[B::kSums]) {
  constexpr int kLanes = kWarp / 2;
  T* const to = j < 0 ? nullptr
                      : batch.partial + (batch.first_partial[j] + popcount(batch.masks[j] & ((1u << cell) - 1u))) * B::kSums;
  if (!some) {
    if (to)
      for (int k = lane % kLanes; k < B::kSums; k += kLanes) to[k] = T(0);
    return;
  }
  using Sums = HalfWarpSums<B::kSums, kLanes / 2, Block, T>;
  int first = 0, end = B::kSums;
  Sums::run(block, lane, values, first, end);
  if (to)
    NS_UNROLL for (int k = 0; k < Sums::kLeft; ++k) if (first + k < end) to[first + k] = values[k];
}

// Adds up the partial sums of every entry of the batch, into the slots. One barrier in front. Slots are written to their
// end, since they are read sixteen bytes at a time.
template <class B, class Block, class T>
NS_KERNEL void write_slots(Block& block, const B& batch, int count, T* slots) {
  block.sync();
  for (int k = block.thread(); k < count * B::kSlot; k += kTileThreads) {
    const int j = k / B::kSlot, number = k % B::kSlot;
    const T* const partial = batch.partial + batch.first_partial[j] * B::kSums + number;
    const int cells = number < B::kSums ? popcount(batch.masks[j]) : 0;
    T sum = T(0);
    for (int c = 0; c < cells; ++c) sum += partial[c * B::kSums];
    slots[int64_t(batch.slots[j]) * B::kSlot + number] = sum;
  }
}

// Slots of the entries that no pixel comes to: behind position `reached` of the tile's list.
template <class B, class Block, class T>
NS_KERNEL void clear_slots(Block& block, const Scene<T>& scene, const TilePixel<T>& p, int reached, T* slots) {
  for (int64_t k = block.thread(); k < int64_t(p.count - reached) * B::kSlot; k += kTileThreads) {
    const Entry entry = scene.entries[p.first + reached + k / B::kSlot];
    slots[int64_t(entry.slot) * B::kSlot + k % B::kSlot] = T(0);
  }
}

// The largest of the pixels' stops. No barrier at the end: the memory may be used again behind the next one.
template <class Block>
NS_KERNEL int largest_in_block(Block& block, int value, int* warp_values) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2) value = larger(value, block.shuffle_xor(value, mask));
  if (block.thread() % kWarp == 0) warp_values[block.thread() / kWarp] = value;
  block.sync();
  int largest = warp_values[0];
  for (int w = 1; w < kTileThreads / kWarp; ++w) largest = larger(largest, warp_values[w]);
  return largest;
}

}  // namespace cuda
}  // namespace ns_diff3r
