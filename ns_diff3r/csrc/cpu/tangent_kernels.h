// SPDX-License-Identifier: Apache-2.0
// The sweeps of the vjp on dual numbers.
#pragma once
#include "sweep_kernels.h"

namespace ns_diff3r {
namespace NS_ISA {

template <class T>
struct DualSweepPair {
  Dual<Lanes<T>> alpha, weight, slope_weight;
};

template <class T>
NS_HD Dual<Lanes<T>> dual_color(const T* record, const T* tangent, int channel) {
  return Dual<Lanes<T>>(Lanes<T>(record[kRed + channel]), Lanes<T>(tangent[6 + channel]));
}

// The two sweeps of the vjp on dual numbers: records + ε tangents (as those of the jvp), u + ε du. A slot holds the sums'
// values, then their tangents at fixed dx and dy: how these move is the same for all pixels (`move_moments`).
template <class T>
void vjp_tangent_tile(const PlanView<T>& plan, const T* tangents, const T* u_image, const T* du_image, int64_t tile,
                      void* scratch, T* slots) {
  using L = Lanes<T>;
  using D = Dual<L>;
  clear_slots(plan, tile, slots, 2 * kRecord);
  prefetch_tile_pixels<3>(plan, u_image, tile + 1);
  prefetch_tile_pixels<3>(plan, du_image, tile + 1);
  DualSweepPair<T>* const store = static_cast<DualSweepPair<T>*>(scratch);
  const T* background = background_of(plan, tile);
  const L zero(T(0));
  const D one(L(T(1)), zero);
  for (int b = 0; b < kBlocksPerTile; ++b) {
    const int64_t block = tile * kBlocksPerTile + b;
    const uint32_t count = plan.active_counts[block];
    if (count == 0) continue;
    const BlockPixels<T> pixels = block_pixels(plan, tile, b);
    prefetch_after(plan, tangents, block);
    const Active* const begin = plan.active + plan.block_offsets[block];
    D transmittance(L(T(1)), zero);
    for (uint32_t i = 0; i < count; ++i) {
      const Active& entry = begin[i];
      const T* record = plan.records + int64_t(entry.record) * kRecord;
      const T* tangent = tangents + int64_t(entry.record) * kRecord;
      if (count - i > kRecordsAhead) {
        prefetch_record(plan.records, begin[i + kRecordsAhead].record);
        prefetch_record(tangents, begin[i + kRecordsAhead].record);
      }
      const L dx = L(record[kMeanX]) - pixels.x, dy = L(record[kMeanY]) - pixels.y;
      const L e = dx * (dx * L(record[kExpA]) + dy * L(record[kExpB])) + dy * dy * L(record[kExpC]);
      const L value = exp2(e) * L(record[kOpacity]);
      const D all(value, value * relative_tangent(tangent, dx, dy));
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
    alignas(64) T u_pixels[3][kLanes], du_pixels[3][kLanes];
    for (int c = 0; c < 3; ++c) {
      u[c].v.store(u_pixels[c]);
      u[c].d.store(du_pixels[c]);
    }
    const T center_x = pixels.x[0] + T(1.5), center_y = pixels.y[0] + T(1.5);
    for (int64_t group = (int64_t(count) - 1) / kLanes * kLanes; group >= 0; group -= kLanes) {
      const int pairs = int(count - group < kLanes ? count - group : kLanes);
      L s_value[kLanes], s_tangent[kLanes];
      alignas(64) T mean_x[kLanes], mean_y[kLanes];
      for (int k = pairs; k < kLanes; ++k) {
        s_value[k] = s_tangent[k] = zero;
        store[group + k].weight = D(zero, zero);
        mean_x[k] = mean_y[k] = T(0);
      }
      for (int k = pairs - 1; k >= 0; --k) {
        const Active& entry = begin[group + k];
        const T* record = plan.records + int64_t(entry.record) * kRecord;
        const T* tangent = tangents + int64_t(entry.record) * kRecord;
        const DualSweepPair<T>& pair = store[group + k];
        const D own = u[0] * dual_color(record, tangent, 0) + u[1] * dual_color(record, tangent, 1) +
                      u[2] * dual_color(record, tangent, 2);
        const D difference = own - behind;
        behind = behind * (one - pair.alpha) + pair.alpha * own;
        const D s = pair.slope_weight * difference;
        s_value[k] = s.v;
        s_tangent[k] = s.d;
        mean_x[k] = record[kMeanX] - center_x;
        mean_y[k] = record[kMeanY] - center_y;
      }
      L values[kLanes], derivatives[kLanes], w[kLanes];
      for (int i = 6; i < kLanes; ++i) values[i] = derivatives[i] = zero;
      pair_moments(s_value, L::load(mean_x), L::load(mean_y), values);
      pair_moments(s_tangent, L::load(mean_x), L::load(mean_y), derivatives);
      for (int k = 0; k < kLanes; ++k) w[k] = store[group + k].weight.v;
      transpose(w);
      add_weighted<3>(w, u_pixels, values + 6);
      add_weighted<3>(w, du_pixels, derivatives + 6);
      for (int k = 0; k < kLanes; ++k) w[k] = store[group + k].weight.d;
      transpose(w);
      add_weighted<3>(w, u_pixels, derivatives + 6);
      add_to_slots<2 * kRecord>(values, begin + group, pairs, slots);
      add_to_slots<2 * kRecord>(derivatives, begin + group, pairs, slots + kRecord);
    }
  }
}

}  // namespace NS_ISA
}  // namespace ns_diff3r
