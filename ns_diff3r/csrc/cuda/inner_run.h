// SPDX-License-Identifier: Apache-2.0
// A run of inner steps wholly on the device: render, measure, differentiate, step, again and again, without a word from
// the host. What the host may want to know is written down, a row a step, for when it looks.
#pragma once
#include <array>
#include <memory>

#include "solver.h"

namespace ns_diff3r {
namespace cuda {

enum class Halt : int32_t { none = 0, no_room = 1, not_finite = 2 };

// On the device. When a step finds more intersections than there is room for, or ends in numbers that are none, the run is
// halted at it: that step has not been taken (no_room) or was the last (not_finite), and nothing behind it does anything.
struct RunState {
  int32_t halted;  // a Halt
  int32_t step;    // steps taken, and the row that is written next
  uint32_t needed, unused;  // intersections of the step that had no room
};
static_assert(sizeof(RunState) == 2 * sizeof(double), "history begins behind it, in one buffer");

template <class T>
struct InnerRun {
  Scene<T> scene;  // its parameters are those of the step
  void* scan_work;
  size_t scan_bytes;
  ListWork list_work;
  T *rendered, *slots;
  // the photometric loss; scales as of pixel_loss and ssim_vjp
  Penalty penalty;
  double delta, pixel_scale, ssim_scale;
  bool has_ssim;
  SsimTarget<T> target;
  T* ssim;
  T* partials[3];
  T* image_cotangent;
  // the optimiser; θ, gradient and next θ are those of the step
  StepKernel<T> optimizer;
  double* partial;  // [run_partials]
  double* history;  // rows of Σρ, ΣS, then for every range ½ΣΛ(θ−θ⁰)², and for every range Σg²
  RunState* state;
};

// The step as graphs, one for each place of θ.
struct RecordedSteps {
  std::array<std::shared_ptr<void>, 3> graphs;
  bool loaded = false;  // a step has been launched kernel by kernel, which loads them
};

template <class T>
int64_t run_partials(const InnerRun<T>& run);
// Steps first, …, first + count − 1, each from theta[step % 3] to the next of the three; halted where a loss or gradient
// is not finite. `recorded`: null to launch every kernel by itself.
template <class T>
void take_steps(const InnerRun<T>& run, const std::array<T*, 3>& theta, T* gradient, RecordedSteps* recorded, int first,
                int count, const Stream& stream);
// The loss and its whole gradient at theta, which enter the next row of the history; no step.
template <class T>
void measure(const InnerRun<T>& run, const T* theta, T* gradient, const Stream& stream);
// The step from where has been measured.
template <class T>
void take_measured_step(const InnerRun<T>& run, const T* theta, T* gradient, T* next, const Stream& stream);

}  // namespace cuda
}  // namespace ns_diff3r
