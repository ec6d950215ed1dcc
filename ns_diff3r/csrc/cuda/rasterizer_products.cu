// SPDX-License-Identifier: Apache-2.0
#include "chain_kernels.h"
#include "queue.h"
#include "rasterizer.h"
#include "sweep_kernels.h"

namespace ns_diff3r {
namespace cuda {
namespace {

template <class T>
TangentRecord<T>* push_tangents(const Queue& queue, const Scene<T>& scene, const GaussianPointers<T>& tangents, void* work) {
  auto* const records = static_cast<TangentRecord<T>*>(work);
  using Kernel = TangentKernel<T>;
  queue.launch(blocks_for(scene.num_gaussians, Kernel::kThreads), Kernel{scene, tangents, records});
  return records;
}

template <bool Depth, bool Cameras, class T>
void pull_slots(const Queue& queue, const Scene<T>& scene, const T* slots, const GaussianOutputs<T>& out,
                double* camera_partial) {
  using Kernel = CotangentKernel<T, Depth, Cameras>;
  const int64_t count = blocks_for(scene.num_gaussians, Kernel::kThreads);
  queue.launch(count, Kernel{scene, slots, out, camera_partial, count});
}

}  // namespace

template <class T>
void jvp(const Scene<T>& scene, const GaussianPointers<T>& tangents, void* tangent_records, T* out, const Stream& stream) {
  const Queue queue(stream);
  const TangentRecord<T>* records = push_tangents(queue, scene, tangents, tangent_records);
  if (scene.origin_records)
    queue.launch(scene.num_tiles(), JvpKernel<T, true>{scene, records, out});
  else
    queue.launch(scene.num_tiles(), JvpKernel<T, false>{scene, records, out});
}

template <class T>
void vjp(const Scene<T>& scene, const ImageCotangents<T>& u, T* slots, const GaussianOutputs<T>& out,
         double* camera_partial, double* camera_out, const Stream& stream) {
  const Queue queue(stream);
  const bool depth = u.alpha != nullptr || u.depth_sum != nullptr;
  if (scene.origin_records) {
    if (depth)
      queue.launch(scene.num_tiles(), VjpKernel<T, true, true>{scene, u, slots});
    else
      queue.launch(scene.num_tiles(), VjpKernel<T, true, false>{scene, u, slots});
  } else if (depth) {
    queue.launch(scene.num_tiles(), VjpKernel<T, false, true>{scene, u, slots});
  } else {
    queue.launch(scene.num_tiles(), VjpKernel<T, false, false>{scene, u, slots});
  }
  if (camera_out == nullptr) {
    if (depth)
      pull_slots<true, false>(queue, scene, slots, out, nullptr);
    else
      pull_slots<false, false>(queue, scene, slots, out, nullptr);
    return;
  }
  if (depth)
    pull_slots<true, true>(queue, scene, slots, out, camera_partial);
  else
    pull_slots<false, true>(queue, scene, slots, out, camera_partial);
  queue.launch(scene.num_views, CameraSumKernel{camera_partial, camera_out, blocks_for(scene.num_gaussians, kCameraBlock)});
}

template <class T>
void gauss_newton(const Scene<T>& scene, const GaussianPointers<T>& tangents, const T* weights, void* tangent_records,
                  T* slots, const GaussianOutputs<T>& out, const Stream& stream) {
  const Queue queue(stream);
  const TangentRecord<T>* records = push_tangents(queue, scene, tangents, tangent_records);
  if (scene.origin_records)
    queue.launch(scene.num_tiles(), GaussNewtonKernel<T, true>{scene, records, weights, slots});
  else
    queue.launch(scene.num_tiles(), GaussNewtonKernel<T, false>{scene, records, weights, slots});
  pull_slots<false, false>(queue, scene, slots, out, nullptr);
}

static_assert(CotangentKernel<float, false, true>::kThreads == kCameraBlock, "a partial sum a block");

#define NS_INSTANTIATE(T)                                                                                               \
  template void jvp(const Scene<T>&, const GaussianPointers<T>&, void*, T*, const Stream&);                                 \
  template void vjp(const Scene<T>&, const ImageCotangents<T>&, T*, const GaussianOutputs<T>&, double*, double*,        \
                    const Stream&);                                                                                         \
  template void gauss_newton(const Scene<T>&, const GaussianPointers<T>&, const T*, void*, T*, const GaussianOutputs<T>&, \
                             const Stream&);
NS_INSTANTIATE(float)
#if !defined(__CUDACC__)
NS_INSTANTIATE(double)
#endif

}  // namespace cuda
}  // namespace ns_diff3r
