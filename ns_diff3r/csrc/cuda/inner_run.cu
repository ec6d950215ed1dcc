// SPDX-License-Identifier: Apache-2.0
#include "inner_run.h"
#include "queue.h"

namespace ns_diff3r {
namespace cuda {
namespace {

struct CheckRoomKernel {
  static constexpr int kThreads = kWarp, kBlocksPerMultiprocessor = 1;
  using Shared = NoShared;
  RunState* state;
  const uint32_t* needed;
  int64_t room;

  template <class Block>
  NS_KERNEL void operator()(Block& block, Shared&) const {
    if (block.thread() != 0 || int64_t(*needed) <= room) return;
    state->needed = *needed;
    state->halted = int32_t(Halt::no_room);
  }
};

// Behind a step: on to the next, unless a number of its row is none. Without columns: on.
struct AdvanceKernel {
  static constexpr int kThreads = kWarp, kBlocksPerMultiprocessor = 1;
  using Shared = NoShared;
  RunState* state;
  const double* history;
  int32_t columns;

  template <class Block>
  NS_KERNEL void operator()(Block& block, Shared&) const {
    const int lane = block.thread();
    const bool finite = lane >= columns || is_finite(history[int64_t(state->step) * columns + lane]);
    const uint32_t no_number = block.ballot(!finite);
    if (lane != 0) return;
    if (no_number != 0)
      state->halted = int32_t(Halt::not_finite);
    else
      ++state->step;
  }
};
static_assert(kMaxSums <= kWarp, "a lane a number");

template <class T>
StepKernel<T> optimizer_of(const InnerRun<T>& run) {
  StepKernel<T> step = run.optimizer;
  give_blocks(step.ranges);
  step.number = &run.state->step;
  return step;
}

template <class T>
int64_t loss_partials(const InnerRun<T>& run, const ImageShape& shape) {
  const int64_t pixels = pixel_partials(shape.views * shape.rows * shape.width * shape.channels);
  return pixels + (run.has_ssim ? image_partials(shape) : 0);
}

template <class T>
ImageShape shape_of(const InnerRun<T>& run) {
  return {run.scene.num_views, run.scene.height, run.scene.width, 3};
}

// From θ to the gradient of the photometric loss, its value in partial sums.
template <class T>
void differentiate(const Queue& queue, const InnerRun<T>& run, const T* theta, T* gradient) {
  const Stream stream = queue.handle();
  Scene<T> scene = run.scene;
  scene.params = leaves<GaussianPointers<T>>(scene, theta);
  project(scene, run.scan_work, run.scan_bytes, stream);
  queue.launch(1, CheckRoomKernel{run.state, scene.record_slots + scene.num_records(), scene.room});
  make_lists(scene, run.list_work, stream);
  make_masks(scene, stream);
  render(scene, RenderOutputs<T>{run.rendered, nullptr, nullptr}, true, stream);

  const ImageShape shape = shape_of(run);
  const int64_t count = shape.views * shape.rows * shape.width * shape.channels;
  double* const no_sum = nullptr;
  pixel_loss(count, run.penalty, run.delta, run.pixel_scale, run.rendered, run.target.image, static_cast<const T*>(nullptr),
             run.image_cotangent, run.partial, no_sum, stream);
  if (run.has_ssim) {
    ssim_value(shape, run.rendered, run.target, run.ssim, run.partials[0], run.partials[1], run.partials[2],
               run.partial + pixel_partials(count), no_sum, stream);
    ssim_vjp(shape, run.rendered, run.target.image, SsimPartials<T>{run.partials[0], run.partials[1], run.partials[2]},
             static_cast<const T*>(nullptr), run.ssim_scale, true, run.image_cotangent, stream);
  }
  vjp(scene, ImageCotangents<T>{run.image_cotangent, nullptr, nullptr}, run.slots,
      leaves<GaussianOutputs<T>>(scene, gradient), no_sum, no_sum, stream);
}

// One pass over the parameters, and the row of the history.
template <class T>
void move(const Queue& queue, const InnerRun<T>& run, StepKernel<T> step, const T* theta, T* gradient, T* next) {
  const ImageShape shape = shape_of(run);
  const int64_t pixels = pixel_partials(shape.views * shape.rows * shape.width * shape.channels);
  const int64_t losses = loss_partials(run, shape), blocks = step.ranges.first_block[step.ranges.count];
  step.theta = theta;
  step.gradient = gradient;
  step.next = next;
  step.partial = run.partial + losses;
  queue.launch(blocks, step);
  SumKernel sum{};
  sum.partial = run.partial;
  sum.out = run.history;
  sum.row = &run.state->step;
  sum.columns = 2 + 2 * step.ranges.count;
  sum.first[1] = pixels;
  sum.first[2] = losses;
  for (int r = 1; r <= step.ranges.count; ++r) {
    sum.first[2 + r] = losses + step.ranges.first_block[r];
    sum.first[2 + step.ranges.count + r] = losses + blocks + step.ranges.first_block[r];
  }
  queue.launch(sum.columns, sum);
}

}  // namespace

template <class T>
int64_t run_partials(const InnerRun<T>& run) {
  return loss_partials(run, shape_of(run)) + step_partials(run.optimizer.ranges);
}

template <class T>
void take_steps(const InnerRun<T>& run, const std::array<T*, 3>& theta, T* gradient, RecordedSteps* recorded, int first,
                int count, const Stream& stream) {
  const StepKernel<T> step = optimizer_of(run);
  const Queue queue(Stream(stream.handle, &run.state->halted));
  for (int k = first; k < first + count; ++k) {
    const auto once = [&](const Queue& q) {
      T *const here = theta[size_t(k % 3)], *const there = theta[size_t((k + 1) % 3)];
      differentiate(q, run, here, gradient);
      move(q, run, step, here, gradient, there);
      q.launch(1, AdvanceKernel{run.state, run.history, 2 + 2 * step.ranges.count});
    };
    if (recorded != nullptr && recorded->loaded) {
      queue.replay(recorded->graphs[size_t(k % 3)], once);
    } else {
      once(queue);
      if (recorded != nullptr) recorded->loaded = true;
    }
  }
}

template <class T>
void measure(const InnerRun<T>& run, const T* theta, T* gradient, const Stream& stream) {
  StepKernel<T> step = optimizer_of(run);
  step.kind = StepKind::prior_gradient;
  step.schedule = nullptr;  // behind the last step it has no row
  const Queue queue(Stream(stream.handle, &run.state->halted));
  differentiate(queue, run, theta, gradient);
  move(queue, run, step, theta, gradient, static_cast<T*>(nullptr));
}

template <class T>
void take_measured_step(const InnerRun<T>& run, const T* theta, T* gradient, T* next, const Stream& stream) {
  StepKernel<T> step = optimizer_of(run);
  step.anchor = step.strength = nullptr;  // the prior is in the gradient already
  step.theta = theta;
  step.gradient = gradient;
  step.next = next;
  step.partial = run.partial;
  const Queue queue(stream);
  queue.launch(step.ranges.first_block[step.ranges.count], step);
  queue.launch(1, AdvanceKernel{run.state, nullptr, 0});
}

#define NS_INSTANTIATE(T)                                                                                          \
  template int64_t run_partials(const InnerRun<T>&);                                                               \
  template void take_steps(const InnerRun<T>&, const std::array<T*, 3>&, T*, RecordedSteps*, int, int,              \
                           const Stream&);                                                                         \
  template void measure(const InnerRun<T>&, const T*, T*, const Stream&);                                          \
  template void take_measured_step(const InnerRun<T>&, const T*, T*, T*, const Stream&);
NS_INSTANTIATE(float)
#if !defined(__CUDACC__)
NS_INSTANTIATE(double)
#endif

}  // namespace cuda
}  // namespace ns_diff3r
