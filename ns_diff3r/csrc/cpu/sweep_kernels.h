// SPDX-License-Identifier: Apache-2.0
// jvp, vjp and Gauss-Newton product over the blocks of one tile. Front to back as the rendering, then back to front, with
// B_i the (cotangent-weighted) colour of what lies behind,
//   dI/dalpha_i = T_i (c_i - B_i),  B_{i-1} = B_i + alpha_i (c_i - B_i).
// In relative form d(alpha)/alpha = q(dx, dy), a quadratic polynomial in d = mean - pixel whose six coefficients are
// linear in the tangents of opacity, mean and conic; the vjp is its six moments.
#pragma once
#include "pair_sums.h"
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
                            const SweepPair<T>& pair) {
  using L = Lanes<T>;
  if (__builtin_expect(entry.capped == 0, 1)) return pair.weight;
  const Mask<T> capped = Mask<T>::from_bits(entry.capped);
  if (!plan.config.gradient_through_cap) return select(capped, L(T(0)), pair.weight);
  const L dx = L(record[kMeanX]) - pixels.x, dy = L(record[kMeanY]) - pixels.y;
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
    transmittance = subtract_product(transmittance, transmittance, pair.alpha);
  }
  if constexpr (Tangents)
    for (int c = 0; c < 3; ++c) d_rgb[c] += d_transmittance * L(background[c]);
}

// Back to front, sixteen pairs at a time. A slot holds what the pixels of one tile say about one Gaussian: the moments
// 1, dx, dy, dx², dx dy, dy² of s = alpha ∂(u·I)/∂alpha, then Σ w u for red, green, blue and (with Depth only) depth.
// `store` has room for whole groups of sixteen.
template <class T, bool Depth>
NS_HD void sweep_backward(const PlanView<T>& plan, int64_t block, const BlockPixels<T>& pixels, const T* background,
                          SweepPair<T>* store, const Lanes<T> (&u)[3], const Lanes<T>& u_alpha,
                          const Lanes<T>& u_depth, T* slots) {
  using L = Lanes<T>;
  alignas(64) T u_pixels[4][kLanes];
  for (int c = 0; c < 3; ++c) u[c].store(u_pixels[c]);
  if constexpr (Depth) u_depth.store(u_pixels[3]);
  const T center_x = pixels.x[0] + T(1.5), center_y = pixels.y[0] + T(1.5);
  const L one(T(1));
  L behind = u[0] * L(background[0]) + u[1] * L(background[1]) + u[2] * L(background[2]);
  const Active* const begin = plan.active + plan.block_offsets[block];
  const int64_t count = plan.active_counts[block];
  for (int64_t group = (count - 1) / kLanes * kLanes; group >= 0; group -= kLanes) {
    const int pairs = int(count - group < kLanes ? count - group : kLanes);
    L s[kLanes], w[kLanes], numbers[kLanes];
    alignas(64) T mean_x[kLanes], mean_y[kLanes];
    for (int k = pairs; k < kLanes; ++k) {
      s[k] = store[group + k].weight = L(T(0));
      mean_x[k] = mean_y[k] = T(0);
    }
    for (int k = pairs - 1; k >= 0; --k) {
      const int64_t i = group + k;
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
      behind = behind * (one - pair.alpha) + pair.alpha * own;  // a shorter chain than behind + alpha * difference
      s[k] = slope_weight(plan, entry, record, pixels, pair) * difference;
      mean_x[k] = record[kMeanX] - center_x;
      mean_y[k] = record[kMeanY] - center_y;
    }
    pair_moments(s, L::load(mean_x), L::load(mean_y), numbers);
    for (int k = 0; k < kLanes; ++k) w[k] = store[group + k].weight;
    transpose(w);
    for (int i = 6; i < kLanes; ++i) numbers[i] = L(T(0));
    add_weighted<Depth ? 4 : 3>(w, u_pixels, numbers + 6);
    add_to_slots<kRecord>(numbers, begin + group, pairs, slots);
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
    prefetch_after(plan, tangents, tile * kBlocksPerTile + b);
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
  if (u.rgb) prefetch_tile_pixels<3>(plan, u.rgb, tile + 1);
  SweepPair<T>* store = static_cast<SweepPair<T>*>(scratch);
  const T* background = background_of(plan, tile);
  for (int b = 0; b < kBlocksPerTile; ++b) {
    const int64_t block = tile * kBlocksPerTile + b;
    if (plan.active_counts[block] == 0) continue;
    const BlockPixels<T> pixels = block_pixels(plan, tile, b);
    prefetch_after(plan, static_cast<const T*>(nullptr), block);
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
  prefetch_tile_pixels<3>(plan, weights, tile + 1);
  SweepPair<T>* store = static_cast<SweepPair<T>*>(scratch);
  const T* background = background_of(plan, tile);
  for (int b = 0; b < kBlocksPerTile; ++b) {
    const int64_t block = tile * kBlocksPerTile + b;
    if (plan.active_counts[block] == 0) continue;
    const BlockPixels<T> pixels = block_pixels(plan, tile, b);
    prefetch_after(plan, tangents, block);
    L d_rgb[3], w[3];
    sweep_forward<T, true, true>(plan, tangents, block, pixels, background, store, d_rgb);
    load_pixels(plan, pixels, weights, w);
    for (int c = 0; c < 3; ++c) d_rgb[c] *= w[c];
    sweep_backward<T, false>(plan, block, pixels, background, store, d_rgb, L(T(0)), L(T(0)), slots);
  }
}

}  // namespace NS_ISA
}  // namespace ns_diff3r
