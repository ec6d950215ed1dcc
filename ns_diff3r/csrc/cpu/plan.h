// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <memory>
#include <vector>

#include "buffer.h"
#include "kernels.h"

namespace ns_diff3r {

// The lists of one linearisation; shared by the plans that freeze them.
struct PlanLists {
  Buffer<uint32_t> tile_records, record_slots;
  Buffer<uint16_t> group_visible, tile_block_masks;
  Buffer<BlockRect> record_blocks;
  Buffer<int64_t> tile_offsets, block_offsets, record_slot_offsets;
  Buffer<Candidate> candidates;
  int64_t num_intersections = 0, num_candidates = 0;
  size_t max_block_candidates = 0;
};

// Which pairs contribute; shared by the plans that freeze them too.
struct PlanPairs {
  Buffer<Active> active;
  Buffer<uint32_t> active_counts;
  Buffer<uint8_t> record_contributes;
};

// One linearisation: the records of all visible (view, Gaussian) pairs, the tile and block lists, and which pairs
// contribute. Built once by build(), then multiplied many times. The parameters' memory is the caller's and must stay
// as it is while the plan is used. Every method is bit for bit independent of num_threads.
template <class T>
class Plan {
 public:
  // Projects, culls, sorts and lists; background: [V, 3].
  void build(const GaussianPointers<T>& params, int64_t num_gaussians, int num_sh_bases, std::vector<Camera<T>> cameras,
             std::vector<T> background, int width, int height, const RasterizationConfig<T>& config, int num_threads);
  // Other parameters with the lists of `origin`; frozen: also with its contributing pairs, caps and clamps (then
  // `origin` must outlive this plan's use).
  void rebase(const Plan& origin, const GaussianPointers<T>& params, bool frozen, int num_threads);
  // The point and all decisions of `origin` in this precision: as rebase() with frozen, but the cameras, the background
  // and the semantics are given again, and `origin` need not outlive this plan.
  template <class U>
  void decide_as(const Plan<U>& origin, const GaussianPointers<T>& params, std::vector<Camera<T>> cameras,
                 std::vector<T> background, const RasterizationConfig<T>& config, int num_threads);
  // Renders the plan's parameters. With linearize, also records the contributing pairs (if they are not frozen), which
  // all the products below need.
  void render(const RenderOutputs<T>& out, bool linearize, int num_threads);

  void jvp(const GaussianPointers<T>& tangents, T* out, int num_threads);
  void vjp(const ImageCotangents<T>& u, const GaussianOutputs<T>& out, double* camera_out, int num_threads);
  void gauss_newton(const GaussianPointers<T>& tangents, const T* weights, const GaussianOutputs<T>& out, int num_threads);
  void blocks(const T* weights, const BlockPointers<T>& out, int num_threads);
  void vjp_tangent(const GaussianPointers<T>& tangents, const T* u, const T* du, const GaussianOutputs<T>& out,
                   int num_threads);
  // Projects again from the raw parameters, in place: what every product would pay if records were not kept.
  void reproject(int num_threads);

  int64_t num_records() const;
  int64_t num_intersections() const { return lists_->num_intersections; }
  int64_t num_candidates() const { return lists_->num_candidates; }
  // Contributing (pixel, Gaussian) pairs, and the vectors of sixteen pixels that hold them.
  int64_t num_pairs() const;
  int64_t num_active() const;
  // Gaussians that contribute to some pixel of some view.
  void contributing(bool* out) const;

 private:
  template <class U>
  friend class Plan;
  void bin(int num_threads);
  void require_pairs() const;
  void* scratch(size_t bytes_per_pair) const;
  int64_t num_tiles() const { return int64_t(view_.num_views) * view_.tiles_x * view_.tiles_y; }
  size_t record_capacity() const { return size_t(view_.num_views) * size_t(view_.view_stride); }
  void gather(bool depth, const GaussianOutputs<T>& out, double* camera_out, int num_threads);

  PlanView<T> view_{};
  std::vector<Camera<T>> cameras_;
  std::vector<T> background_;
  std::shared_ptr<PlanLists> lists_;
  std::shared_ptr<PlanPairs> pairs_;
  bool frozen_ = false;     // pairs_ belong to the origin
  bool has_pairs_ = false;  // pairs_ are those of this point

  Buffer<GroupDecisions> group_decisions_;
  Buffer<T> records_, tangents_, slots_;
  Buffer<int64_t> chunk_slots_, positions_;
  Buffer<unsigned char> sort_keys_;
  Buffer<double> camera_sums_;
};

}  // namespace ns_diff3r
