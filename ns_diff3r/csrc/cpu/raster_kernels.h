// SPDX-License-Identifier: Apache-2.0
// Pixel passes over the sixteen 4x4 blocks of one tile. Front to back a pixel composites
//   I += w_i c_i,  w_i = T_i alpha_i,  T_{i+1} = T_i (1 - alpha_i),  alpha_i = min(cap, o_i 2^e_i)
// and back to front, with B_i the (cotangent-weighted) colour of what lies behind,
//   dI/dalpha_i = T_i (c_i - B_i),  B_{i-1} = B_i + alpha_i (c_i - B_i).
// In relative form d(alpha)/alpha = q(dx, dy), a quadratic polynomial in d = mean - pixel whose six coefficients are
// linear in the tangents of opacity, mean and conic (reference/solvers §4.1); the vjp is its six moments.
#pragma once
#include "../math/dual.h"
#include "plan_view.h"
#include "slots.h"
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

// ---- block lists ---------------------------------------------------------------------------------------------------

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

// ---- render --------------------------------------------------------------------------------------------------------

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
          __atomic_store_n(plan.record_contributes + entry->record, uint8_t(1), __ATOMIC_RELAXED);  // tiles share records
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

// Asks for the first records of the tile's next block, which no pair ahead announces.
template <class T>
NS_HD void prefetch_block(const PlanView<T>& plan, const T* tangents, int64_t block) {
  const Active* entry = plan.active + plan.block_offsets[block];
  const int64_t count = plan.active_counts[block];
  for (int64_t i = 0; i < (count < kRecordsAhead ? count : kRecordsAhead); ++i) {
    prefetch_record(plan.records, entry[i].record);
    if (tangents) prefetch_record(tangents, entry[i].record);
  }
}

// ---- first-order products ------------------------------------------------------------------------------------------

// What the front-to-back sweep leaves for the one back to front.
template <class T>
struct SweepPair {
  Lanes<T> alpha, weight;
};

// T_i times the slope of alpha, for the backward sweep: the weight itself where nothing is capped.
template <class T>
NS_HD Lanes<T> slope_weight(const PlanView<T>& plan, const Active& entry, const T* record, const BlockPixels<T>& pixels,
                            const Lanes<T>& dx, const Lanes<T>& dy, const SweepPair<T>& pair) {
  using L = Lanes<T>;
  if (__builtin_expect(entry.capped == 0, 1)) return pair.weight;
  const Mask<T> capped = Mask<T>::from_bits(entry.capped);
  if (!plan.config.gradient_through_cap) return select(capped, L(T(0)), pair.weight);
  return select(capped, pair.weight / pair.alpha * active_alpha(plan, entry, record, pixels, dx, dy).slope, pair.weight);
}

template <class T>
NS_HD Lanes<T> relative_tangent(const T* q, const Lanes<T>& dx, const Lanes<T>& dy) {
  using L = Lanes<T>;
  return L(q[0]) + dx * (L(q[1]) + dx * L(q[3]) + dy * L(q[4])) + dy * (L(q[2]) + dy * L(q[5]));
}

// Front to back over the active pairs; tangents (records of q0..q5, d red, d green, d blue) give dI.
template <class T, bool Tangents, bool Store>
NS_HD void sweep_forward(const PlanView<T>& plan, const T* tangents, int64_t block, const BlockPixels<T>& pixels,
                         const T* background, SweepPair<T>* store, Lanes<T> (&d_rgb)[3]) {
  using L = Lanes<T>;
  const L zero(T(0));
  L transmittance(T(1)), d_transmittance = zero;
  d_rgb[0] = d_rgb[1] = d_rgb[2] = zero;
  const Active* const begin = plan.active + plan.block_offsets[block];
  const Active* const end = begin + plan.active_counts[block];
  for (const Active* entry = begin; entry != end; ++entry) {
    const T* record = plan.records + int64_t(entry->record) * kRecord;
    if (end - entry > kRecordsAhead) {
      prefetch_record(plan.records, entry[kRecordsAhead].record);
      if constexpr (Tangents) prefetch_record(tangents, entry[kRecordsAhead].record);
    }
    const L dx = L(record[kMeanX]) - pixels.x, dy = L(record[kMeanY]) - pixels.y;
    const PairAlpha<T> pair = active_alpha(plan, *entry, record, pixels, dx, dy);
    const L weight = transmittance * pair.alpha;
    if constexpr (Store) {
      store->alpha = pair.alpha;
      store->weight = weight;
      ++store;
    }
    if constexpr (Tangents) {
      const T* q = tangents + int64_t(entry->record) * kRecord;
      const L t_d_alpha = transmittance * pair.slope * relative_tangent(q, dx, dy);
      const L d_weight = t_d_alpha + pair.alpha * d_transmittance;
      d_transmittance = d_transmittance - d_weight;
      d_rgb[0] += d_weight * L(record[kRed]) + weight * L(q[6]);
      d_rgb[1] += d_weight * L(record[kGreen]) + weight * L(q[7]);
      d_rgb[2] += d_weight * L(record[kBlue]) + weight * L(q[8]);
    }
    transmittance = transmittance - weight;
  }
  if constexpr (Tangents)
    for (int c = 0; c < 3; ++c) d_rgb[c] += d_transmittance * L(background[c]);
}

// Back to front: adds to the slot of every active pair (slots.h).
template <class T, bool Depth>
NS_HD void sweep_backward(const PlanView<T>& plan, int64_t block, const BlockPixels<T>& pixels, const T* background,
                          const SweepPair<T>* store, const Lanes<T> (&u)[3], const Lanes<T>& u_alpha,
                          const Lanes<T>& u_depth, T* slots) {
  using L = Lanes<T>;
  L behind = u[0] * L(background[0]) + u[1] * L(background[1]) + u[2] * L(background[2]);
  const Active* const begin = plan.active + plan.block_offsets[block];
  for (int64_t i = int64_t(plan.active_counts[block]) - 1; i >= 0; --i) {
    const Active& entry = begin[i];
    if (i >= kRecordsAhead) {
      prefetch_record(plan.records, begin[i - kRecordsAhead].record);
      prefetch_record(slots, begin[i - kRecordsAhead].slot);
    }
    const T* record = plan.records + int64_t(entry.record) * kRecord;
    const SweepPair<T>& pair = store[i];
    L own = u[0] * L(record[kRed]) + u[1] * L(record[kGreen]) + u[2] * L(record[kBlue]);
    if constexpr (Depth) own += u_depth * L(record[kDepth]) + u_alpha;
    const L difference = own - behind;
    behind += pair.alpha * difference;
    const L dx = L(record[kMeanX]) - pixels.x, dy = L(record[kMeanY]) - pixels.y;
    const L s = slope_weight(plan, entry, record, pixels, dx, dy, pair) * difference;
    const L sx = s * dx, sy = s * dy;
    const L& w = pair.weight;
    T* slot = slots + int64_t(entry.slot) * kRecord;
    if constexpr (Depth) {
      L sums[10] = {s, sx, sy, sx * dx, sx * dy, sy * dy, w * u[0], w * u[1], w * u[2], w * u_depth};
      (L::load(slot) + sum_lanes(sums)).store(slot);
    } else {
      L sums[9] = {s, sx, sy, sx * dx, sx * dy, sy * dy, w * u[0], w * u[1], w * u[2]};
      (L::load(slot) + sum_lanes(sums)).store(slot);
    }
  }
}

template <class T>
inline void clear_slots(const PlanView<T>& plan, int64_t tile, T* slots, int numbers) {
  std::memset(static_cast<void*>(slots + plan.tile_offsets[tile] * numbers), 0,
              size_t(plan.tile_offsets[tile + 1] - plan.tile_offsets[tile]) * numbers * sizeof(T));
}

template <class T>
void jvp_tile(const PlanView<T>& plan, const T* tangents, int64_t tile, T* d_rgb_out) {
  for (int b = 0; b < kBlocksPerTile; ++b) {
    const BlockPixels<T> pixels = block_pixels(plan, tile, b);
    if (b + 1 < kBlocksPerTile) prefetch_block(plan, tangents, tile * kBlocksPerTile + b + 1);
    Lanes<T> d_rgb[3];
    sweep_forward<T, true, false>(plan, tangents, tile * kBlocksPerTile + b, pixels, background_of(plan, tile), nullptr,
                                  d_rgb);
    store_pixels(plan, pixels, d_rgb, d_rgb_out);
  }
}

template <class T>
void vjp_tile(const PlanView<T>& plan, const ImageCotangents<T>& u, int64_t tile, void* scratch, T* slots) {
  using L = Lanes<T>;
  clear_slots(plan, tile, slots, kRecord);
  SweepPair<T>* store = static_cast<SweepPair<T>*>(scratch);
  const T* background = background_of(plan, tile);
  for (int b = 0; b < kBlocksPerTile; ++b) {
    const int64_t block = tile * kBlocksPerTile + b;
    if (plan.active_counts[block] == 0) continue;
    const BlockPixels<T> pixels = block_pixels(plan, tile, b);
    if (b + 1 < kBlocksPerTile) prefetch_block(plan, static_cast<const T*>(nullptr), block + 1);
    const L zero(T(0));
    L unused[3], u_rgb[3] = {zero, zero, zero}, u_alpha[1] = {zero}, u_depth[1] = {zero};
    if (u.rgb) load_pixels(plan, pixels, u.rgb, u_rgb);
    sweep_forward<T, false, true>(plan, nullptr, block, pixels, background, store, unused);
    if (u.alpha || u.depth_sum) {
      if (u.alpha) load_pixels(plan, pixels, u.alpha, u_alpha);
      if (u.depth_sum) load_pixels(plan, pixels, u.depth_sum, u_depth);
      sweep_backward<T, true>(plan, block, pixels, background, store, u_rgb, u_alpha[0], u_depth[0], slots);
    } else {
      sweep_backward<T, false>(plan, block, pixels, background, store, u_rgb, u_alpha[0], u_depth[0], slots);
    }
  }
}

// Both sweeps of JᵀWJv for a diagonal W [V, H, W, 3], without leaving the block.
template <class T>
void gauss_newton_tile(const PlanView<T>& plan, const T* tangents, const T* weights, int64_t tile, void* scratch, T* slots) {
  using L = Lanes<T>;
  clear_slots(plan, tile, slots, kRecord);
  SweepPair<T>* store = static_cast<SweepPair<T>*>(scratch);
  const T* background = background_of(plan, tile);
  for (int b = 0; b < kBlocksPerTile; ++b) {
    const int64_t block = tile * kBlocksPerTile + b;
    if (plan.active_counts[block] == 0) continue;
    const BlockPixels<T> pixels = block_pixels(plan, tile, b);
    if (b + 1 < kBlocksPerTile) prefetch_block(plan, tangents, block + 1);
    L d_rgb[3], w[3];
    sweep_forward<T, true, true>(plan, tangents, block, pixels, background, store, d_rgb);
    load_pixels(plan, pixels, weights, w);
    for (int c = 0; c < 3; ++c) d_rgb[c] *= w[c];
    sweep_backward<T, false>(plan, block, pixels, background, store, d_rgb, L(T(0)), L(T(0)), slots);
  }
}

// ---- diagonal and blocks -------------------------------------------------------------------------------------------

constexpr int kMomentSlot = 48;  // [15 moments of degree <= 4, pad] [6 red, 6 green, 3 colour, pad] [6 blue, pad]

// Per tile and record the 36 distinct numbers of Σ_pixels RᵀWR over (q0..q5, rgb).
template <class T>
void moments_tile(const PlanView<T>& plan, const T* weights, int64_t tile, void* scratch, T* slots) {
  using L = Lanes<T>;
  clear_slots(plan, tile, slots, kMomentSlot);
  SweepPair<T>* store = static_cast<SweepPair<T>*>(scratch);
  const T* background = background_of(plan, tile);
  for (int b = 0; b < kBlocksPerTile; ++b) {
    const int64_t block = tile * kBlocksPerTile + b;
    if (plan.active_counts[block] == 0) continue;
    const BlockPixels<T> pixels = block_pixels(plan, tile, b);
    L unused[3], w[3], behind[3];
    load_pixels(plan, pixels, weights, w);
    for (int c = 0; c < 3; ++c) behind[c] = L(background[c]);
    sweep_forward<T, false, true>(plan, nullptr, block, pixels, background, store, unused);
    const Active* const begin = plan.active + plan.block_offsets[block];
    for (int64_t i = int64_t(plan.active_counts[block]) - 1; i >= 0; --i) {
      const Active& entry = begin[i];
      const T* record = plan.records + int64_t(entry.record) * kRecord;
      const SweepPair<T>& pair = store[i];
      const L dx = L(record[kMeanX]) - pixels.x, dy = L(record[kMeanY]) - pixels.y;
      const L pair_slope = slope_weight(plan, entry, record, pixels, dx, dy, pair);
      L slope[3], m(T(0));
      for (int c = 0; c < 3; ++c) {
        const L difference = L(record[kRed + c]) - behind[c];
        behind[c] += pair.alpha * difference;
        slope[c] = pair_slope * difference;
        m += w[c] * slope[c] * slope[c];
      }
      const L xx = dx * dx, xy = dx * dy, yy = dy * dy;
      const L mxx = m * xx, mxy = m * xy, myy = m * yy;
      const L r = w[0] * slope[0] * pair.weight, g = w[1] * slope[1] * pair.weight, bl = w[2] * slope[2] * pair.weight;
      const L ww = pair.weight * pair.weight;
      T* slot = slots + int64_t(entry.slot) * kMomentSlot;
      L first[15] = {m,        m * dx,   m * dy,   mxx,      mxy,      myy,      mxx * dx, mxx * dy,
                           mxy * dy, myy * dy, mxx * xx, mxx * xy, mxx * yy, mxy * yy, myy * yy};
      (L::load(slot) + sum_lanes(first)).store(slot);
      L second[15] = {r, r * dx, r * dy, r * xx, r * xy, r * yy, g, g * dx, g * dy, g * xx, g * xy, g * yy,
                            w[0] * ww, w[1] * ww, w[2] * ww};
      (L::load(slot + 16) + sum_lanes(second)).store(slot + 16);
      L third[6] = {bl, bl * dx, bl * dy, bl * xx, bl * xy, bl * yy};
      (L::load(slot + 32) + sum_lanes(third)).store(slot + 32);
    }
  }
}

// ---- tangent of the vjp --------------------------------------------------------------------------------------------

template <class T>
struct DualSweepPair {
  Dual<Lanes<T>> alpha, weight, slope_weight;
};

template <class T>
NS_HD Dual<Lanes<T>> dual_field(const T* record, const T* tangent, int field) {
  return Dual<Lanes<T>>(Lanes<T>(record[field]), Lanes<T>(tangent[field]));
}

// The two sweeps of the vjp on dual numbers: records + ε tangents (tangents of the record's own fields), u + ε du.
// A slot holds the ten sums' values, then their tangents.
template <class T>
void vjp_tangent_tile(const PlanView<T>& plan, const T* tangents, const T* u_image, const T* du_image, int64_t tile,
                      void* scratch, T* slots) {
  using L = Lanes<T>;
  using D = Dual<L>;
  clear_slots(plan, tile, slots, 2 * kRecord);
  DualSweepPair<T>* const store = static_cast<DualSweepPair<T>*>(scratch);
  const T* background = background_of(plan, tile);
  const L zero(T(0));
  for (int b = 0; b < kBlocksPerTile; ++b) {
    const int64_t block = tile * kBlocksPerTile + b;
    const uint32_t count = plan.active_counts[block];
    if (count == 0) continue;
    const BlockPixels<T> pixels = block_pixels(plan, tile, b);
    const Active* const begin = plan.active + plan.block_offsets[block];
    const auto difference_to_pixel = [&](const T* record, const T* tangent, D& dx, D& dy) {
      dx = D(L(record[kMeanX]) - pixels.x, L(tangent[kMeanX]));
      dy = D(L(record[kMeanY]) - pixels.y, L(tangent[kMeanY]));
    };
    D transmittance(L(T(1)), zero);
    for (uint32_t i = 0; i < count; ++i) {
      const Active& entry = begin[i];
      const T* record = plan.records + int64_t(entry.record) * kRecord;
      const T* tangent = tangents + int64_t(entry.record) * kRecord;
      if (count - i > kRecordsAhead) {
        prefetch_record(plan.records, begin[i + kRecordsAhead].record);
        prefetch_record(tangents, begin[i + kRecordsAhead].record);
      }
      D dx, dy;
      difference_to_pixel(record, tangent, dx, dy);
      const D e = dx * (dx * dual_field(record, tangent, kExpA) + dy * dual_field(record, tangent, kExpB)) +
                  dy * dy * dual_field(record, tangent, kExpC);
      const D all = exp2(e) * dual_field(record, tangent, kOpacity);
      const Mask<T> mask = Mask<T>::from_bits(entry.mask);
      D alpha(keep(mask, all.v), keep(mask, all.d)), slope = alpha;
      if (__builtin_expect(entry.capped != 0, 0)) {
        const Mask<T> capped = Mask<T>::from_bits(entry.capped);
        const bool through = plan.config.gradient_through_cap;
        if (!through) slope = D(select(capped, zero, slope.v), select(capped, zero, slope.d));
        alpha = D(select(capped, capped_alpha(plan, entry, all.v, pixels.x, pixels.y), alpha.v),
                  through ? alpha.d : select(capped, zero, alpha.d));
      }
      store[i].alpha = alpha;
      store[i].weight = transmittance * alpha;
      store[i].slope_weight = transmittance * slope;
      transmittance = transmittance - store[i].weight;
    }
    L u_value[3], u_tangent[3];
    load_pixels(plan, pixels, u_image, u_value);
    load_pixels(plan, pixels, du_image, u_tangent);
    const D u[3] = {D(u_value[0], u_tangent[0]), D(u_value[1], u_tangent[1]), D(u_value[2], u_tangent[2])};
    D behind = u[0] * L(background[0]) + u[1] * L(background[1]) + u[2] * L(background[2]);
    for (int64_t i = int64_t(count) - 1; i >= 0; --i) {
      const Active& entry = begin[i];
      const T* record = plan.records + int64_t(entry.record) * kRecord;
      const T* tangent = tangents + int64_t(entry.record) * kRecord;
      const DualSweepPair<T>& pair = store[i];
      const D own = u[0] * dual_field(record, tangent, kRed) + u[1] * dual_field(record, tangent, kGreen) +
                    u[2] * dual_field(record, tangent, kBlue);
      const D difference = own - behind;
      behind += pair.alpha * difference;
      const D s = pair.slope_weight * difference;
      D dx, dy;
      difference_to_pixel(record, tangent, dx, dy);
      const D sx = s * dx, sy = s * dy;
      const D sums[9] = {s, sx, sy, sx * dx, sx * dy, sy * dy, pair.weight * u[0], pair.weight * u[1], pair.weight * u[2]};
      L values[9], derivatives[9];
      for (int j = 0; j < 9; ++j) {
        values[j] = sums[j].v;
        derivatives[j] = sums[j].d;
      }
      T* slot = slots + int64_t(entry.slot) * 2 * kRecord;
      (L::load(slot) + sum_lanes(values)).store(slot);
      (L::load(slot + kRecord) + sum_lanes(derivatives)).store(slot + kRecord);
    }
  }
}

}  // namespace NS_ISA
}  // namespace ns_diff3r
