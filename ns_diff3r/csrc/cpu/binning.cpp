// SPDX-License-Identifier: Apache-2.0
// From records to lists: tiles hold their records by depth, blocks the part of their tile's list that can reach them.
#include <algorithm>
#include <cstring>

#include "parallel.h"
#include "plan.h"

namespace ns_diff3r {
namespace {

constexpr int kMaxGroups = 16;  // of chunks of one view; fixed, so that lists do not depend on the number of threads

// Depths are positive, so their bit patterns sort as they do; equal depths keep the order of the Gaussians.
struct SingleKey {
  uint64_t bits;
  SingleKey() = default;
  SingleKey(float depth, uint32_t record) {
    uint32_t d;
    std::memcpy(&d, &depth, sizeof(d));
    bits = uint64_t(d) << 32 | record;
  }
  uint32_t record() const { return uint32_t(bits); }
  bool operator<(const SingleKey& other) const { return bits < other.bits; }
};
struct DoubleKey {
  double depth;
  uint32_t index;
  DoubleKey() = default;
  DoubleKey(double d, uint32_t record) : depth(d), index(record) {}
  uint32_t record() const { return index; }
  bool operator<(const DoubleKey& other) const {
    return depth != other.depth ? depth < other.depth : index < other.index;
  }
};
template <class T>
struct KeyOf;
template <>
struct KeyOf<float> {
  using type = SingleKey;
};
template <>
struct KeyOf<double> {
  using type = DoubleKey;
};

}  // namespace

template <class T>
void Plan<T>::bin(int num_threads) {
  using Key = typename KeyOf<T>::type;
  PlanView<T>& v = view_;
  const int64_t tiles = int64_t(v.tiles_x) * v.tiles_y, total_tiles = num_tiles(), chunks = v.num_chunks;
  const int64_t groups = std::min<int64_t>(chunks, kMaxGroups);
  const auto for_each_record = [&](int64_t item, auto&& fn) {
    const int64_t view = item / groups, group = item % groups;
    for (int64_t chunk = group * chunks / groups; chunk < (group + 1) * chunks / groups; ++chunk) {
      const int64_t end = view * v.view_stride + std::min((chunk + 1) * kChunk, v.view_stride);
      for (int64_t base = view * v.view_stride + chunk * kChunk; base < end; base += kGroup)
        for (uint32_t visible = v.group_visible[base / kGroup]; visible; visible &= visible - 1)
          fn(view, chunk, base + __builtin_ctz(visible));
    }
  };

  // positions: first the number of intersections of (view, group, tile), then where the group's first one goes
  int64_t* positions = positions_.reserve(size_t(v.num_views * groups * tiles));
  int64_t* chunk_slots = chunk_slots_.reserve(size_t(v.num_views * chunks));
  parallel_for(num_threads, v.num_views * groups, [&](int64_t item) {
    int64_t* count = positions + item * tiles;
    std::fill(count, count + tiles, 0);
    const int64_t view = item / groups, group = item % groups;
    std::fill(chunk_slots + view * chunks + group * chunks / groups,
              chunk_slots + view * chunks + (group + 1) * chunks / groups, 0);
    for_each_record(item, [&](int64_t view_, int64_t chunk, int64_t r) {
      const TileRect rect = tile_rect(v.record_blocks[r]);
      for (int y = rect.y0; y < rect.y1; ++y)
        for (int x = rect.x0; x < rect.x1; ++x) ++count[y * v.tiles_x + x];
      chunk_slots[view_ * chunks + chunk] += num_tiles_of(v.record_blocks[r]);
    });
  });
  v.tile_offsets = lists_->tile_offsets.reserve(size_t(total_tiles + 1));
  int64_t running = 0;
  for (int64_t tile = 0; tile < total_tiles; ++tile) {
    v.tile_offsets[tile] = running;
    for (int64_t g = 0; g < groups; ++g) {
      int64_t& position = positions[((tile / tiles) * groups + g) * tiles + tile % tiles];
      const int64_t count = position;
      position = running;
      running += count;
    }
  }
  v.tile_offsets[total_tiles] = lists_->num_intersections = running;
  running = 0;
  for (int64_t c = 0; c < v.num_views * chunks; ++c) {
    const int64_t count = chunk_slots[c];
    chunk_slots[c] = running;
    running += count;
  }

  Key* keys = reinterpret_cast<Key*>(sort_keys_.reserve(size_t(lists_->num_intersections) * sizeof(Key)));
  v.record_slot_offsets = lists_->record_slot_offsets.reserve(record_capacity() + 1);
  v.record_slot_offsets[record_capacity()] = lists_->num_intersections;
  v.record_slots = lists_->record_slots.reserve(size_t(lists_->num_intersections));
  parallel_for(num_threads, v.num_views * groups, [&](int64_t item) {
    const int64_t view = item / groups, group = item % groups;
    for (int64_t chunk = group * chunks / groups; chunk < (group + 1) * chunks / groups; ++chunk) {
      int64_t next = chunk_slots[view * chunks + chunk];
      for (int64_t i = chunk * kChunk; i < std::min((chunk + 1) * kChunk, v.view_stride); ++i) {
        const int64_t r = view * v.view_stride + i;
        v.record_slot_offsets[r] = next;
        if ((v.group_visible[r / kGroup] >> (r % kGroup)) & 1) next += num_tiles_of(v.record_blocks[r]);
      }
    }
    int64_t* position = positions + item * tiles;
    for_each_record(item, [&](int64_t, int64_t, int64_t r) {
      const TileRect rect = tile_rect(v.record_blocks[r]);
      const Key key(v.records[r * kRecord + kDepth], uint32_t(r));
      uint32_t* slot = v.record_slots + v.record_slot_offsets[r];
      for (int y = rect.y0; y < rect.y1; ++y)
        for (int x = rect.x0; x < rect.x1; ++x) {
          const int64_t place = position[y * v.tiles_x + x]++;
          keys[place] = key;
          *slot++ = uint32_t(place);
        }
    });
  });

  v.tile_records = lists_->tile_records.reserve(size_t(lists_->num_intersections));
  v.tile_block_masks = lists_->tile_block_masks.reserve(size_t(lists_->num_intersections));
  v.block_offsets = lists_->block_offsets.reserve(size_t(total_tiles * kBlocksPerTile + 1));
  const Kernels<T>& kernel = kernels<T>();
  parallel_for(num_threads, total_tiles, [&](int64_t tile) {
    const int64_t begin = v.tile_offsets[tile], end = v.tile_offsets[tile + 1];
    std::sort(keys + begin, keys + end);
    for (int64_t i = begin; i < end; ++i) v.tile_records[i] = keys[i].record();
    kernel.block_masks_tile(v, tile);
    int64_t* count = v.block_offsets + tile * kBlocksPerTile;
    std::fill(count, count + kBlocksPerTile, 0);
    for (int64_t i = begin; i < end; ++i)
      for (uint32_t mask = v.tile_block_masks[i]; mask; mask &= mask - 1) ++count[__builtin_ctz(mask)];
  });
  running = 0;
  int64_t longest = 0;
  for (int64_t block = 0; block < total_tiles * kBlocksPerTile; ++block) {
    const int64_t count = v.block_offsets[block];
    v.block_offsets[block] = running;
    running += count;
    longest = std::max(longest, count);
  }
  v.block_offsets[total_tiles * kBlocksPerTile] = lists_->num_candidates = running;
  lists_->max_block_candidates = size_t(longest);
  v.candidates = lists_->candidates.reserve(size_t(lists_->num_candidates));
  parallel_for(num_threads, total_tiles, [&](int64_t tile) {
    const int tile_x = int(tile % tiles) % v.tiles_x, tile_y = int(tile % tiles) / v.tiles_x;
    int64_t position[kBlocksPerTile];
    std::copy(v.block_offsets + tile * kBlocksPerTile, v.block_offsets + (tile + 1) * kBlocksPerTile, position);
    for (int64_t i = v.tile_offsets[tile]; i < v.tile_offsets[tile + 1]; ++i) {
      const uint32_t r = v.tile_records[i];
      const TileRect rect = tile_rect(v.record_blocks[r]);
      const int64_t nth = int64_t(tile_y - rect.y0) * (rect.x1 - rect.x0) + (tile_x - rect.x0);
      const Candidate candidate{r, v.record_slots[v.record_slot_offsets[r] + nth]};
      for (uint32_t mask = v.tile_block_masks[i]; mask; mask &= mask - 1)
        v.candidates[position[__builtin_ctz(mask)]++] = candidate;
    }
  });
}

template void Plan<float>::bin(int);
template void Plan<double>::bin(int);

}  // namespace ns_diff3r
