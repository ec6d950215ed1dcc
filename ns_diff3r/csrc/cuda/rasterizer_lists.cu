// SPDX-License-Identifier: Apache-2.0
#include "project_kernels.h"
#include "rasterizer.h"
#include "render_kernels.h"

namespace ns_diff3r {
namespace cuda {

template <class T>
size_t key_bytes() {
  return sizeof(typename SortKey<T>::type);
}

namespace {

int key_bits(int64_t num_tiles) {
  int bits = 32;
  while ((int64_t(1) << (bits - 32)) < num_tiles) ++bits;
  return bits;
}

}  // namespace

template <class T>
size_t sort_bytes(int64_t room, int64_t num_tiles) {
  using Key = typename SortKey<T>::type;
  return Queue::sort<Key>(nullptr, 0, nullptr, nullptr, nullptr, nullptr, room, key_bits(num_tiles));
}

size_t scan_bytes(int64_t num_records) { return Queue::scan(nullptr, 0, nullptr, nullptr, num_records + 1); }

template <class T>
void project(const Scene<T>& scene, void* scan_work, size_t bytes, const Stream& stream) {
  const Queue queue(stream);
  using Kernel = ProjectKernel<T>;
  queue.launch(blocks_for(scene.num_records() + 1, Kernel::kThreads), Kernel{scene});
  Queue::scan(scan_work, bytes, scene.counts, scene.record_slots, scene.num_records() + 1, queue.handle());
  if (double(scene.num_records()) * double(scene.tiles_per_view()) >= double(kTooMany))
    check_total(scene.record_slots, scene.num_records(), stream);
}

void check_total(uint32_t* record_slots, int64_t num_records, const Stream& stream) {
  Queue(stream).launch(blocks_for(num_records, CheckTotalKernel::kThreads), CheckTotalKernel{record_slots, num_records});
}

template <class T>
void make_lists(const Scene<T>& scene, const ListWork& work, const Stream& stream) {
  using Key = typename SortKey<T>::type;
  const Queue queue(stream);
  Key *keys = static_cast<Key*>(work.keys), *sorted_keys = static_cast<Key*>(work.sorted_keys);
  using Emit = EmitKernel<T>;
  queue.launch(blocks_for(larger(scene.num_records(), scene.room), Emit::kThreads), Emit{scene, keys, work.slots, work.slot_records});
  if (scene.room > 0)
    Queue::sort<Key>(work.sort, work.sort_bytes, keys, sorted_keys, work.slots, work.sorted_slots,
                     scene.room, key_bits(scene.num_tiles()), queue.handle());
  using List = ListKernel<T>;
  queue.launch(blocks_for(scene.room + 1, List::kThreads),
               List{scene, sorted_keys, work.sorted_slots, work.slot_records});
}

template <class T>
void make_masks(const Scene<T>& scene, const Stream& stream) {
  Queue(stream).launch(scene.num_tiles(), MaskKernel<T>{scene});
}

template <class T>
void reproject(const Scene<T>& scene, const uint8_t* origin_flags, const Stream& stream) {
  using Kernel = ReprojectKernel<T>;
  Queue(stream).launch(blocks_for(scene.num_records(), Kernel::kThreads),
                       Kernel{scene, origin_flags, scene.origin_records != nullptr});
}

template <class T>
void render(const Scene<T>& scene, const RenderOutputs<T>& out, bool linearize, const Stream& stream) {
  const Queue queue(stream);
  if (scene.origin_records)
    queue.launch(scene.num_tiles(), RenderKernel<T, true>{scene, out, linearize});
  else
    queue.launch(scene.num_tiles(), RenderKernel<T, false>{scene, out, linearize});
}

#define NS_INSTANTIATE(T)                                                               \
  template size_t key_bytes<T>();                                                       \
  template size_t sort_bytes<T>(int64_t, int64_t);                                      \
  template void project(const Scene<T>&, void*, size_t, const Stream&);                     \
  template void make_lists(const Scene<T>&, const ListWork&, const Stream&);                \
  template void make_masks(const Scene<T>&, const Stream&);                                 \
  template void reproject(const Scene<T>&, const uint8_t*, const Stream&);                  \
  template void render(const Scene<T>&, const RenderOutputs<T>&, bool, const Stream&);
NS_INSTANTIATE(float)
#if !defined(__CUDACC__)
NS_INSTANTIATE(double)
#endif

}  // namespace cuda
}  // namespace ns_diff3r
