// SPDX-License-Identifier: Apache-2.0
// Which blocks a record can reach, and the forward pass over the blocks of one tile: front to back a pixel composites
//   I += w_i c_i,  w_i = T_i alpha_i,  T_{i+1} = T_i (1 - alpha_i),  alpha_i = min(cap, o_i 2^e_i).
#pragma once
#include "block_pixels.h"

namespace ns_diff3r {
namespace NS_ISA {

// Which of the tile's blocks a record can reach: those where the maximum of 2^e over the block's pixels is at least
// alpha_min / opacity, with a margin for rounding. The lanes are the sixteen blocks. The minimum of a convex quadratic
// over a box that does not hold its centre lies on an edge that faces the centre.
template <class T>
void block_masks_tile(const PlanView<T>& plan, int64_t tile) {
  using L = Lanes<T>;
  const int in_view = int(tile % (int64_t(plan.tiles_x) * plan.tiles_y));
  alignas(64) T x[kLanes], y[kLanes];
  uint32_t inside = 0;
  for (int b = 0; b < kLanes; ++b) {
    const int block_x = in_view % plan.tiles_x * 4 + b % 4, block_y = in_view / plan.tiles_x * 4 + b / 4;
    x[b] = T(block_x * kBlockSize) + T(0.5);
    y[b] = T(block_y * kBlockSize) + T(0.5);
    if (block_x < plan.blocks_x && block_y < plan.blocks_y) inside |= 1u << b;
  }
  const L x0 = L::load(x), y0 = L::load(y), span(T(kBlockSize - 1)), zero(T(0));
  const T log2e = T(1.4426950408889634);
  for (int64_t i = plan.tile_offsets[tile]; i < plan.tile_offsets[tile + 1]; ++i) {
    const T* record = plan.records + int64_t(plan.tile_records[i]) * kRecord;
    const L a(-record[kExpA]), b(-record[kExpB]), c(-record[kExpC]);
    const L high_x = L(record[kMeanX]) - x0, low_x = high_x - span, high_y = L(record[kMeanY]) - y0, low_y = high_y - span;
    const L near_x = max(low_x, min(high_x, zero)), near_y = max(low_y, min(high_y, zero));
    const L half_b = b * L(T(-0.5));
    const L along_y = max(low_y, min(high_y, half_b * near_x / c)), along_x = max(low_x, min(high_x, half_b * near_y / a));
    const L on_x = near_x * (near_x * a + along_y * b) + along_y * along_y * c;
    const L on_y = along_x * (along_x * a + near_y * b) + near_y * near_y * c;
    const L limit(record[kTau] * log2e * T(1.001) + T(1e-3));
    plan.tile_block_masks[i] = uint16_t(((on_x <= limit) | (on_y <= limit)).to_bits() & inside);
  }
}

template <class T>
inline void write_rendering(const PlanView<T>& plan, const BlockPixels<T>& pixels, const T* background,
                            const Lanes<T>& red, const Lanes<T>& green, const Lanes<T>& blue, const Lanes<T>& depth,
                            const Lanes<T>& transmittance, const RenderOutputs<T>& out) {
  using L = Lanes<T>;
  const L rgb[3] = {red + transmittance * L(background[0]), green + transmittance * L(background[1]),
                    blue + transmittance * L(background[2])};
  const L alpha[1] = {L(T(1)) - transmittance}, expected[1] = {depth / max(alpha[0], L(T(1e-10)))};
  store_pixels(plan, pixels, rgb, out.rgb);
  if (out.alpha) store_pixels(plan, pixels, alpha, out.alpha);
  if (out.depth) store_pixels(plan, pixels, expected, out.depth);
}

// Composites the tile's candidates; with WriteActive also records which pairs contribute.
template <class T, bool WriteActive>
void render_tile(const PlanView<T>& plan, int64_t tile, const RenderOutputs<T>& out) {
  using L = Lanes<T>;
  const RasterizationConfig<T>& config = plan.config;
  const L alpha_min(config.alpha_min), alpha_max(config.alpha_max), stop_at(config.transmittance_min), zero(T(0)), one(T(1));
  for (int b = 0; b < kBlocksPerTile; ++b) {
    const int64_t block = tile * kBlocksPerTile + b;
    const BlockPixels<T> pixels = block_pixels(plan, tile, b);
    Mask<T> alive = Mask<T>::from_bits(pixels.valid);
    L transmittance = one, red = zero, green = zero, blue = zero, depth = zero;
    const Candidate* const end = plan.candidates + plan.block_offsets[block + 1];
    Active* active = plan.active + plan.block_offsets[block];
    Active* const first_active = active;
    for (const Candidate* entry = plan.candidates + plan.block_offsets[block]; entry != end; ++entry) {
      const T* record = plan.records + int64_t(entry->record) * kRecord;
      if (end - entry > kRecordsAhead) prefetch_record(plan.records, entry[kRecordsAhead].record);
      const L dx = L(record[kMeanX]) - pixels.x, dy = L(record[kMeanY]) - pixels.y;
      const L e = exponent(record, dx, dy);
      const L raw = exp2(e) * L(record[kOpacity]);
      Mask<T> contributes = alive & (e <= zero) & (raw >= alpha_min);
      if (!any(contributes)) continue;
      const L alpha = min(raw, alpha_max);
      const L weight_all = transmittance * alpha;
      const L next = transmittance - weight_all;
      const Mask<T> stops = contributes & (next <= stop_at);
      contributes = contributes & !stops;
      alive = alive & !stops;
      const L weight = keep(contributes, weight_all);
      transmittance = transmittance - weight;
      red += weight * L(record[kRed]);
      green += weight * L(record[kGreen]);
      blue += weight * L(record[kBlue]);
      depth += weight * L(record[kDepth]);
      if constexpr (WriteActive) {
        const uint32_t bits = contributes.to_bits();
        if (bits) {
          *active++ = {entry->record, entry->slot, uint16_t(bits), uint16_t(bits & (raw > alpha_max).to_bits())};
          // Tiles share records and records share cache lines, which would wander between the cores with every store.
          uint8_t* const seen = plan.record_contributes + entry->record;
          if (!__atomic_load_n(seen, __ATOMIC_RELAXED)) __atomic_store_n(seen, uint8_t(1), __ATOMIC_RELAXED);
        }
      }
      if (!any(alive)) break;
    }
    if constexpr (WriteActive) plan.active_counts[block] = uint32_t(active - first_active);
    write_rendering(plan, pixels, background_of(plan, tile), red, green, blue, depth, transmittance, out);
  }
}

// alpha where it is capped: the cap; straight-through and away from the point where the cap was frozen, the cap plus the
// change of o 2^e since then, so that the frozen function has the derivative that its products claim.
template <class T>
NS_HD Lanes<T> capped_alpha(const PlanView<T>& plan, const Active& entry, const Lanes<T>& raw, const Lanes<T>& x,
                            const Lanes<T>& y) {
  using L = Lanes<T>;
  const L cap(plan.config.alpha_max);
  if (!plan.config.gradient_through_cap || plan.frozen_records == nullptr) return cap;
  const T* record = plan.frozen_records + int64_t(entry.record) * kRecord;
  const L dx = L(record[kMeanX]) - x, dy = L(record[kMeanY]) - y;
  return cap + (raw - exp2_in_range(exponent(record, dx, dy)) * L(record[kOpacity]));
}

// alpha of an active pair, and the factor a with d(alpha) = a q: alpha itself, but at the cap 0 or (straight-through) raw.
template <class T>
struct PairAlpha {
  Lanes<T> alpha, slope;
};
template <class T>
NS_HD PairAlpha<T> active_alpha(const PlanView<T>& plan, const Active& entry, const T* record,
                                const BlockPixels<T>& pixels, const Lanes<T>& dx, const Lanes<T>& dy) {
  using L = Lanes<T>;
  // at the linearisation point every contributing exponent lies in [-log2(255), 0]
  const L raw = keep(Mask<T>::from_bits(entry.mask), exp2_in_range(exponent(record, dx, dy)) * L(record[kOpacity]));
  if (__builtin_expect(entry.capped == 0, 1)) return {raw, raw};
  const Mask<T> capped = Mask<T>::from_bits(entry.capped);
  return {select(capped, capped_alpha(plan, entry, raw, pixels.x, pixels.y), raw),
          plan.config.gradient_through_cap ? raw : select(capped, L(T(0)), raw)};
}

// Composites the active pairs, whatever their alphas are now.
template <class T>
void render_frozen_tile(const PlanView<T>& plan, int64_t tile, const RenderOutputs<T>& out) {
  using L = Lanes<T>;
  const L zero(T(0));
  for (int b = 0; b < kBlocksPerTile; ++b) {
    const int64_t block = tile * kBlocksPerTile + b;
    const BlockPixels<T> pixels = block_pixels(plan, tile, b);
    L transmittance(T(1)), red = zero, green = zero, blue = zero, depth = zero;
    const Active* entry = plan.active + plan.block_offsets[block];
    for (uint32_t i = 0; i < plan.active_counts[block]; ++i, ++entry) {
      const T* record = plan.records + int64_t(entry->record) * kRecord;
      const L dx = L(record[kMeanX]) - pixels.x, dy = L(record[kMeanY]) - pixels.y;
      const L weight = transmittance * active_alpha(plan, *entry, record, pixels, dx, dy).alpha;
      transmittance = transmittance - weight;
      red += weight * L(record[kRed]);
      green += weight * L(record[kGreen]);
      blue += weight * L(record[kBlue]);
      depth += weight * L(record[kDepth]);
    }
    write_rendering(plan, pixels, background_of(plan, tile), red, green, blue, depth, transmittance, out);
  }
}

// Asks for the first records of the next block, which no pair ahead announces, and for the beginning of the list of the
// one after it.
template <class T>
NS_HD void prefetch_after(const PlanView<T>& plan, const T* tangents, int64_t block) {
  const int64_t blocks = int64_t(plan.num_views) * plan.tiles_x * plan.tiles_y * kBlocksPerTile;
  if (block + 2 >= blocks) return;
  prefetch_bytes(plan.active + plan.block_offsets[block + 2], (kRecordsAhead + 4) * sizeof(Active));
  const Active* entry = plan.active + plan.block_offsets[block + 1];
  const int64_t count = plan.active_counts[block + 1];
  for (int64_t i = 0; i < (count < kRecordsAhead ? count : kRecordsAhead); ++i) {
    prefetch_record(plan.records, entry[i].record);
    if (tangents) prefetch_record(tangents, entry[i].record);
  }
}

}  // namespace NS_ISA
}  // namespace ns_diff3r
