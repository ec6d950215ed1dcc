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
