// SPDX-License-Identifier: Apache-2.0
// The kernels of one instruction set, as pointers: the same sources are compiled once per set and chosen at run time.
#pragma once
#include <cstddef>

#include "plan_view.h"

namespace ns_diff3r {

template <class T>
struct BlockPointers {
  GaussianOutputs<T> diagonal;
  T *geometry, *sh;
};

template <class T>
struct Kernels {
  void (*project_chunk)(const PlanView<T>&, int64_t view, int64_t chunk);
  void (*reproject_chunk)(const PlanView<T>&, bool frozen, int64_t view, int64_t chunk);
  void (*block_masks_tile)(const PlanView<T>&, int64_t tile);
  void (*render_tile)(const PlanView<T>&, int64_t tile, const RenderOutputs<T>&);
  void (*render_active_tile)(const PlanView<T>&, int64_t tile, const RenderOutputs<T>&);
  void (*render_frozen_tile)(const PlanView<T>&, int64_t tile, const RenderOutputs<T>&);
  void (*jvp_chunk)(const PlanView<T>&, const GaussianPointers<T>&, int64_t chunk, T* tangents);
  void (*jvp_tile)(const PlanView<T>&, const T* tangents, int64_t tile, T* out);
  void (*vjp_tile)(const PlanView<T>&, const ImageCotangents<T>&, int64_t tile, void* scratch, T* slots);
  void (*gauss_newton_tile)(const PlanView<T>&, const T* tangents, const T* weights, int64_t tile, void* scratch, T* slots);
  void (*vjp_chunk)(const PlanView<T>&, const T* slots, bool depth, int64_t chunk, const GaussianOutputs<T>&, double* camera_sums);
  void (*moments_tile)(const PlanView<T>&, const T* weights, int64_t tile, void* scratch, T* slots);
  void (*blocks_chunk)(const PlanView<T>&, const T* slots, int64_t chunk, const BlockPointers<T>&);
  void (*vjp_tangent_tile)(const PlanView<T>&, const T* tangents, const T* u, const T* du, int64_t tile, void* scratch, T* slots);
  void (*vjp_tangent_chunk)(const PlanView<T>&, const GaussianPointers<T>&, const T* slots, int64_t chunk, const GaussianOutputs<T>&);
  size_t sweep_pair_bytes, dual_sweep_pair_bytes;  // scratch an active pair of one block needs
};

struct InstructionSet {
  const char* name;
  const Kernels<float>* single_precision;
  const Kernels<double>* double_precision;
};

// The best set this processor runs, or the one named by the environment variable NS_DIFF3R_ISA.
const InstructionSet& instruction_set();
template <class T>
const Kernels<T>& kernels();

}  // namespace ns_diff3r
