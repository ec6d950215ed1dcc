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
  DualSweepPair<T>* const store = static_cast<DualSweepPair<T>*>(scratch);
  const T* background = background_of(plan, tile);
  const L zero(T(0));
  for (int b = 0; b < kBlocksPerTile; ++b) {
    const int64_t block = tile * kBlocksPerTile + b;
    const uint32_t count = plan.active_counts[block];
    if (count == 0) continue;
    const BlockPixels<T> pixels = block_pixels(plan, tile, b);
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
    for (int64_t i = int64_t(count) - 1; i >= 0; --i) {
      const Active& entry = begin[i];
      const T* record = plan.records + int64_t(entry.record) * kRecord;
      const T* tangent = tangents + int64_t(entry.record) * kRecord;
      const DualSweepPair<T>& pair = store[i];
      const D own = u[0] * dual_color(record, tangent, 0) + u[1] * dual_color(record, tangent, 1) +
                    u[2] * dual_color(record, tangent, 2);
      const D difference = own - behind;
      behind += pair.alpha * difference;
      const D s = pair.slope_weight * difference;
      const L dx = L(record[kMeanX]) - pixels.x, dy = L(record[kMeanY]) - pixels.y;
      const D w[3] = {pair.weight * u[0], pair.weight * u[1], pair.weight * u[2]};
      const L vx = s.v * dx, vy = s.v * dy, tx = s.d * dx, ty = s.d * dy;
      L values[9] = {s.v, vx, vy, vx * dx, vx * dy, vy * dy, w[0].v, w[1].v, w[2].v};
      L derivatives[9] = {s.d, tx, ty, tx * dx, tx * dy, ty * dy, w[0].d, w[1].d, w[2].d};
      T* slot = slots + int64_t(entry.slot) * 2 * kRecord;
      (L::load(slot) + sum_lanes(values)).store(slot);
      (L::load(slot + kRecord) + sum_lanes(derivatives)).store(slot + kRecord);
    }
  }
}

}  // namespace NS_ISA
}  // namespace ns_diff3r
