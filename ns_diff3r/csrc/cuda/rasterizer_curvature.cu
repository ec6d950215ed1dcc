// SPDX-License-Identifier: Apache-2.0
#include "block_kernels.h"
#include "queue.h"
#include "rasterizer.h"
#include "tangent_kernels.h"

namespace ns_diff3r {
namespace cuda {

template <class T>
void blocks(const Scene<T>& scene, const T* weights, T* slots, const GaussianOutputs<T>& diagonal, T* geometry, T* sh,
            const Stream& stream) {
  const Queue queue(stream);
  if (scene.origin_records)
    queue.launch(scene.num_tiles(), MomentKernel<T, true>{scene, weights, slots});
  else
    queue.launch(scene.num_tiles(), MomentKernel<T, false>{scene, weights, slots});
  using Kernel = BlockKernel<T>;
  queue.launch(blocks_for(scene.num_gaussians, Kernel::kThreads), Kernel{scene, slots, {diagonal, geometry, sh}});
}

template <class T>
void vjp_tangent(const Scene<T>& scene, const GaussianPointers<T>& tangents, const T* u, const T* du,
                 void* tangent_records, T* slots, const GaussianOutputs<T>& out, const Stream& stream) {
  const Queue queue(stream);
  auto* const records = static_cast<TangentRecord<T>*>(tangent_records);
  using Push = TangentKernel<T>;
  queue.launch(blocks_for(scene.num_gaussians, Push::kThreads), Push{scene, tangents, records});
  if (scene.origin_records)
    queue.launch(scene.num_tiles(), VjpTangentKernel<T, true>{scene, records, u, du, slots});
  else
    queue.launch(scene.num_tiles(), VjpTangentKernel<T, false>{scene, records, u, du, slots});
  using Pull = CotangentTangentKernel<T>;
  queue.launch(blocks_for(scene.num_gaussians, Pull::kThreads), Pull{scene, tangents, slots, out});
}

#define NS_INSTANTIATE(T)                                                                                       \
  template void blocks(const Scene<T>&, const T*, T*, const GaussianOutputs<T>&, T*, T*, const Stream&);             \
  template void vjp_tangent(const Scene<T>&, const GaussianPointers<T>&, const T*, const T*, void*, T*,          \
                            const GaussianOutputs<T>&, const Stream&);
NS_INSTANTIATE(float)
#if !defined(__CUDACC__)
NS_INSTANTIATE(double)
#endif

}  // namespace cuda
}  // namespace ns_diff3r
