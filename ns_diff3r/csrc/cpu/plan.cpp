// SPDX-License-Identifier: Apache-2.0
#include "plan.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "parallel.h"

namespace ns_diff3r {

template <class T>
void Plan<T>::build(const GaussianPointers<T>& params, int64_t num_gaussians, int num_sh_bases,
                    std::vector<Camera<T>> cameras, std::vector<T> background, int width, int height,
                    const RasterizationConfig<T>& config, int num_threads) {
  PlanView<T>& v = view_;
  cameras_ = std::move(cameras);
  background_ = std::move(background);
  v.num_gaussians = num_gaussians;
  v.num_views = int32_t(cameras_.size());
  v.width = width;
  v.height = height;
  v.tiles_x = (width + kTileSize - 1) / kTileSize;
  v.tiles_y = (height + kTileSize - 1) / kTileSize;
  v.blocks_x = (width + kBlockSize - 1) / kBlockSize;
  v.blocks_y = (height + kBlockSize - 1) / kBlockSize;
  v.num_sh_bases = num_sh_bases;
  v.num_chunks = (num_gaussians + kChunk - 1) / kChunk;
  v.view_stride = (num_gaussians + kGroup - 1) / kGroup * kGroup;
  v.config = config;
  v.cameras = cameras_.data();
  v.background = background_.data();
  v.params = params;
  v.frozen_records = nullptr;
  if (!lists_ || lists_.use_count() > 1) lists_ = std::make_shared<PlanLists>();
  if (!pairs_ || pairs_.use_count() > 1) pairs_ = std::make_shared<PlanPairs>();
  frozen_ = has_pairs_ = false;
  const size_t records = record_capacity();
  v.group_visible = lists_->group_visible.reserve(records / kGroup);
  v.record_blocks = lists_->record_blocks.reserve(records);
  v.record_contributes = pairs_->record_contributes.reserve(records);
  v.group_decisions = group_decisions_.reserve(records / kGroup);
  v.records = records_.reserve(records * kRecord);
  const Kernels<T>& kernel = kernels<T>();
  parallel_for(num_threads, v.num_views * v.num_chunks,
               [&](int64_t item) { kernel.project_chunk(v, item / v.num_chunks, item % v.num_chunks); });
  bin(num_threads);
}

template <class T>
void Plan<T>::rebase(const Plan& origin, const GaussianPointers<T>& params, bool frozen, int num_threads) {
  PlanView<T>& v = view_;
  v = origin.view_;
  cameras_ = origin.cameras_;
  background_ = origin.background_;
  lists_ = origin.lists_;
  if (frozen) origin.require_pairs();
  frozen_ = has_pairs_ = frozen;
  v.cameras = cameras_.data();
  v.background = background_.data();
  v.params = params;
  v.frozen_records = !frozen ? nullptr : (origin.view_.frozen_records ? origin.view_.frozen_records : origin.view_.records);
  v.records = records_.reserve(record_capacity() * kRecord);
  v.group_decisions = group_decisions_.reserve(record_capacity() / kGroup);
  if (frozen) {
    pairs_ = origin.pairs_;
  } else {
    if (!pairs_ || pairs_.use_count() > 1) pairs_ = std::make_shared<PlanPairs>();
    v.record_contributes = pairs_->record_contributes.reserve(record_capacity());
  }
  if (!frozen) std::memset(v.record_contributes, 0, record_capacity());
  std::copy(origin.view_.group_decisions, origin.view_.group_decisions + record_capacity() / kGroup, v.group_decisions);
  const Kernels<T>& kernel = kernels<T>();
  parallel_for(num_threads, v.num_views * v.num_chunks,
               [&](int64_t item) { kernel.reproject_chunk(v, frozen, item / v.num_chunks, item % v.num_chunks); });
}

template <class T>
template <class U>
void Plan<T>::decide_as(const Plan<U>& origin, const GaussianPointers<T>& params, std::vector<Camera<T>> cameras,
                        std::vector<T> background, const RasterizationConfig<T>& config, int num_threads) {
  origin.require_pairs();
  PlanView<T>& v = view_;
  static_cast<PlanDecisions&>(v) = origin.view_;
  cameras_ = std::move(cameras);
  background_ = std::move(background);
  lists_ = origin.lists_;
  pairs_ = origin.pairs_;
  frozen_ = has_pairs_ = true;
  v.config = config;
  v.cameras = cameras_.data();
  v.background = background_.data();
  v.params = params;
  v.frozen_records = nullptr;
  v.records = records_.reserve(record_capacity() * kRecord);
  v.group_decisions = group_decisions_.reserve(record_capacity() / kGroup);
  std::copy(origin.view_.group_decisions, origin.view_.group_decisions + record_capacity() / kGroup, v.group_decisions);
  reproject(num_threads);
}

template <class T>
void Plan<T>::reproject(int num_threads) {
  const PlanView<T>& v = view_;
  const Kernels<T>& kernel = kernels<T>();
  parallel_for(num_threads, v.num_views * v.num_chunks,
               [&](int64_t item) { kernel.reproject_chunk(v, true, item / v.num_chunks, item % v.num_chunks); });
}

template <class T>
void Plan<T>::render(const RenderOutputs<T>& out, bool linearize, int num_threads) {
  PlanView<T>& v = view_;
  const Kernels<T>& kernel = kernels<T>();
  auto tile_kernel = frozen_ ? kernel.render_frozen_tile : kernel.render_tile;
  if (linearize && !frozen_) {
    v.active = pairs_->active.reserve(size_t(lists_->num_candidates));
    v.active_counts = pairs_->active_counts.reserve(size_t(num_tiles() * kBlocksPerTile));
    tile_kernel = kernel.render_active_tile;
    has_pairs_ = true;
  }
  parallel_for(num_threads, num_tiles(), [&](int64_t tile) { tile_kernel(v, tile, out); });
}

template <class T>
void Plan<T>::require_pairs() const {
  if (!has_pairs_) throw std::logic_error("this plan was rendered for its images only: its contributing pairs are unknown");
}

// Work memory of one block's sweep on the calling thread, for whole groups of sixteen pairs.
template <class T>
void* Plan<T>::scratch(size_t bytes_per_pair) const {
  static thread_local Buffer<unsigned char> buffer;
  return buffer.reserve((lists_->max_block_candidates + 15) * bytes_per_pair + 64);
}

template <class T>
void Plan<T>::jvp(const GaussianPointers<T>& tangents, T* out, int num_threads) {
  require_pairs();
  const PlanView<T>& v = view_;
  T* records = tangents_.reserve(record_capacity() * kRecord);
  const Kernels<T>& kernel = kernels<T>();
  parallel_for(num_threads, v.num_chunks, [&](int64_t chunk) { kernel.jvp_chunk(v, tangents, chunk, records); });
  parallel_for(num_threads, num_tiles(), [&](int64_t tile) { kernel.jvp_tile(v, records, tile, out); });
}

template <class T>
void Plan<T>::gather(bool depth, const GaussianOutputs<T>& out, double* camera_out, int num_threads) {
  const PlanView<T>& v = view_;
  constexpr int sums = 18;
  double* partial = camera_out ? camera_sums_.reserve(size_t(v.num_views * v.num_chunks * sums)) : nullptr;
  const Kernels<T>& kernel = kernels<T>();
  parallel_for(num_threads, v.num_chunks,
               [&](int64_t chunk) { kernel.vjp_chunk(v, slots_.data(), depth, chunk, out, partial); });
  if (camera_out == nullptr) return;
  std::fill(camera_out, camera_out + v.num_views * sums, 0.0);
  for (int64_t view = 0; view < v.num_views; ++view)
    for (int64_t chunk = 0; chunk < v.num_chunks; ++chunk)
      for (int k = 0; k < sums; ++k) camera_out[view * sums + k] += partial[(view * v.num_chunks + chunk) * sums + k];
}

template <class T>
void Plan<T>::vjp(const ImageCotangents<T>& u, const GaussianOutputs<T>& out, double* camera_out, int num_threads) {
  require_pairs();
  const PlanView<T>& v = view_;
  T* slots = slots_.reserve(size_t(lists_->num_intersections) * kRecord);
  const Kernels<T>& kernel = kernels<T>();
  parallel_for(num_threads, num_tiles(),
               [&](int64_t tile) { kernel.vjp_tile(v, u, tile, scratch(kernel.sweep_pair_bytes), slots); });
  gather(u.alpha != nullptr || u.depth_sum != nullptr, out, camera_out, num_threads);
}

template <class T>
void Plan<T>::gauss_newton(const GaussianPointers<T>& tangents, const T* weights, const GaussianOutputs<T>& out,
                           int num_threads) {
  require_pairs();
  const PlanView<T>& v = view_;
  T* records = tangents_.reserve(record_capacity() * kRecord);
  T* slots = slots_.reserve(size_t(lists_->num_intersections) * kRecord);
  const Kernels<T>& kernel = kernels<T>();
  parallel_for(num_threads, v.num_chunks, [&](int64_t chunk) { kernel.jvp_chunk(v, tangents, chunk, records); });
  parallel_for(num_threads, num_tiles(), [&](int64_t tile) {
    kernel.gauss_newton_tile(v, records, weights, tile, scratch(kernel.sweep_pair_bytes), slots);
  });
  gather(false, out, nullptr, num_threads);
}

template <class T>
void Plan<T>::blocks(const T* weights, const BlockPointers<T>& out, int num_threads) {
  require_pairs();
  const PlanView<T>& v = view_;
  constexpr int numbers = 48;
  T* slots = slots_.reserve(size_t(lists_->num_intersections) * numbers);
  const Kernels<T>& kernel = kernels<T>();
  parallel_for(num_threads, num_tiles(), [&](int64_t tile) {
    kernel.moments_tile(v, weights, tile, scratch(kernel.sweep_pair_bytes), slots);
  });
  parallel_for(num_threads, v.num_chunks, [&](int64_t chunk) { kernel.blocks_chunk(v, slots, chunk, out); });
}

template <class T>
void Plan<T>::vjp_tangent(const GaussianPointers<T>& tangents, const T* u, const T* du, const GaussianOutputs<T>& out,
                          int num_threads) {
  require_pairs();
  const PlanView<T>& v = view_;
  T* records = tangents_.reserve(record_capacity() * kRecord);
  T* slots = slots_.reserve(size_t(lists_->num_intersections) * 2 * kRecord);
  const Kernels<T>& kernel = kernels<T>();
  parallel_for(num_threads, v.num_chunks, [&](int64_t chunk) { kernel.jvp_chunk(v, tangents, chunk, records); });
  parallel_for(num_threads, num_tiles(), [&](int64_t tile) {
    kernel.vjp_tangent_tile(v, records, u, du, tile, scratch(kernel.dual_sweep_pair_bytes), slots);
  });
  parallel_for(num_threads, v.num_chunks,
               [&](int64_t chunk) { kernel.vjp_tangent_chunk(v, tangents, slots, chunk, out); });
}

template <class T>
int64_t Plan<T>::num_records() const {
  int64_t count = 0;
  for (size_t group = 0; group < record_capacity() / kGroup; ++group)
    count += __builtin_popcount(view_.group_visible[group]);
  return count;
}

template <class T>
int64_t Plan<T>::num_active() const {
  require_pairs();
  int64_t count = 0;
  for (int64_t block = 0; block < num_tiles() * kBlocksPerTile; ++block) count += view_.active_counts[block];
  return count;
}

template <class T>
int64_t Plan<T>::num_pairs() const {
  require_pairs();
  int64_t count = 0;
  for (int64_t block = 0; block < num_tiles() * kBlocksPerTile; ++block) {
    const Active* active = view_.active + view_.block_offsets[block];
    for (uint32_t i = 0; i < view_.active_counts[block]; ++i) count += __builtin_popcount(active[i].mask);
  }
  return count;
}

template <class T>
void Plan<T>::contributing(bool* out) const {
  require_pairs();
  std::fill(out, out + view_.num_gaussians, false);
  for (int64_t view = 0; view < view_.num_views; ++view)
    for (int64_t i = 0; i < view_.num_gaussians; ++i) {
      const int64_t record = view * view_.view_stride + i;
      if ((view_.group_visible[record / kGroup] >> (record % kGroup)) & 1 && view_.record_contributes[record]) out[i] = true;
    }
}

template class Plan<float>;
template class Plan<double>;
template void Plan<double>::decide_as(const Plan<float>&, const GaussianPointers<double>&, std::vector<Camera<double>>,
                                      std::vector<double>, const RasterizationConfig<double>&, int);
template void Plan<float>::decide_as(const Plan<double>&, const GaussianPointers<float>&, std::vector<Camera<float>>,
                                     std::vector<float>, const RasterizationConfig<float>&, int);

}  // namespace ns_diff3r
