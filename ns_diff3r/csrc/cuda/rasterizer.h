// SPDX-License-Identifier: Apache-2.0
// The passes of one linearisation as launches on a stream. All memory is the caller's, nothing is allocated and nothing
// waits for the device. A Scene with origin_records has its decisions frozen.
#pragma once
#include <cstddef>

#include "scene.h"
#include "stream.h"

namespace ns_diff3r {
namespace cuda {

constexpr int kVjpSlot = 12, kTangentSlot = 20, kMomentSlot = 36;  // numbers a slot
constexpr int kCameraBlock = 128;                                   // Gaussians a partial sum of camera cotangents

// Temporary memory of making lists, for every intersection that there is room for.
struct ListWork {
  void *keys, *sorted_keys;  // key_bytes() each
  uint32_t *slots, *sorted_slots, *slot_records;
  void* sort;
  size_t sort_bytes;
};

template <class T>
size_t key_bytes();
template <class T>
size_t sort_bytes(int64_t room, int64_t num_tiles);
size_t scan_bytes(int64_t num_records);

// Records, flags, tiles, counts, and from them record_slots: its last element is the number of intersections, 2^32 - 1
// if that or more.
template <class T>
void project(const Scene<T>& scene, void* scan_work, size_t scan_bytes, const Stream& stream);
void check_total(uint32_t* record_slots, int64_t num_records, const Stream& stream);
// Entries and tile_offsets.
template <class T>
void make_lists(const Scene<T>& scene, const ListWork& work, const Stream& stream);
template <class T>
void make_masks(const Scene<T>& scene, const Stream& stream);
// Records and flags for other parameters and the lists of an origin.
template <class T>
void reproject(const Scene<T>& scene, const uint8_t* origin_flags, const Stream& stream);
template <class T>
void render(const Scene<T>& scene, const RenderOutputs<T>& out, bool linearize, const Stream& stream);

// tangent_records: [V * N] TangentRecord<T>; slots: Scene::room times the numbers a slot.
template <class T>
void jvp(const Scene<T>& scene, const GaussianPointers<T>& tangents, void* tangent_records, T* out, const Stream& stream);
// camera_partial: [V, blocks of kCameraBlock Gaussians, 18] and camera_out [V, 18], or null
template <class T>
void vjp(const Scene<T>& scene, const ImageCotangents<T>& u, T* slots, const GaussianOutputs<T>& out,
         double* camera_partial, double* camera_out, const Stream& stream);
template <class T>
void gauss_newton(const Scene<T>& scene, const GaussianPointers<T>& tangents, const T* weights, void* tangent_records,
                  T* slots, const GaussianOutputs<T>& out, const Stream& stream);
template <class T>
void blocks(const Scene<T>& scene, const T* weights, T* slots, const GaussianOutputs<T>& diagonal, T* geometry, T* sh,
            const Stream& stream);
template <class T>
void vjp_tangent(const Scene<T>& scene, const GaussianPointers<T>& tangents, const T* u, const T* du,
                 void* tangent_records, T* slots, const GaussianOutputs<T>& out, const Stream& stream);

}  // namespace cuda
}  // namespace ns_diff3r
