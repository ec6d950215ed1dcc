// SPDX-License-Identifier: Apache-2.0
// jvp, vjp and Gauss-Newton product over the blocks of one tile. Front to back as the rendering, then back to front, with
// B_i the (cotangent-weighted) colour of what lies behind,
//   dI/dalpha_i = T_i (c_i - B_i),  B_{i-1} = B_i + alpha_i (c_i - B_i).
// In relative form d(alpha)/alpha = q(dx, dy), a quadratic polynomial in d = mean - pixel whose six coefficients are
// linear in the tangents of opacity, mean and conic; the vjp is its six moments.
#pragma once
#include "render_kernels.h"

namespace ns_diff3r {
namespace NS_ISA {

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

}  // namespace NS_ISA
}  // namespace ns_diff3r
