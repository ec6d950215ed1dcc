// SPDX-License-Identifier: Apache-2.0
// Where kernels are sent: a CUDA stream, or (host) a loop over the threads of every block. What a device does by library
// or by graph, the host does plainly: cub's radix sort is a stable sort, its scan a loop, a graph a repeated call.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>

#if defined(__CUDACC__)
#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_scan.cuh>
#else
#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>
#endif

#include "block.h"
#include "stream.h"

#if !defined(__CUDACC__)
#include "host_block.h"
#endif

namespace ns_diff3r {
namespace cuda {

// The depth of an intersection behind its tile: sorts by tile, then by depth (positive, so its bits are in order).
template <class T>
struct SortKey;
template <>
struct SortKey<float> {
  using type = uint64_t;
  NS_HD static type make(uint32_t tile, float depth) {
    union {
      float value;
      uint32_t bits;
    } d = {depth};
    return uint64_t(tile) << 32 | d.bits;
  }
  NS_HD static type last() { return ~type(0); }  // behind every intersection, in as many bits as are sorted by
  NS_HD static uint32_t tile(type key) { return uint32_t(key >> 32); }
};
#if !defined(__CUDACC__)
struct WideKey {
  double depth;
  uint32_t tile;
  bool operator<(const WideKey& other) const { return tile != other.tile ? tile < other.tile : depth < other.depth; }
};
template <>
struct SortKey<double> {
  using type = WideKey;
  static type make(uint32_t tile, double depth) { return {depth, tile}; }
  static type last() { return {0.0, 0xffffffffu}; }
  static uint32_t tile(const type& key) { return key.tile; }
};
#endif

#if defined(__CUDACC__)

inline void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

template <class Kernel>
__global__ void __launch_bounds__(Kernel::kThreads, Kernel::kBlocksPerMultiprocessor)
    run_kernel(const __grid_constant__ Kernel kernel, const int32_t* halted) {
  if (halted != nullptr && *halted != 0) return;
  __shared__ typename Kernel::Shared shared;
  DeviceBlock block;
  kernel(block, shared);
}

struct Queue {
  cudaStream_t stream;
  const int32_t* halted;

  explicit Queue(const Stream& s) : stream(reinterpret_cast<cudaStream_t>(s.handle)), halted(s.halted) {}

  template <class Kernel>
  void launch(int64_t blocks, const Kernel& kernel) const {
    if (blocks == 0) return;
    if (blocks > 2147483647) throw std::runtime_error("a CUDA grid holds at most 2^31 - 1 blocks: use fewer views at once");
    run_kernel<Kernel><<<unsigned(blocks), Kernel::kThreads, 0, stream>>>(kernel, halted);
    check(cudaGetLastError(), "launching a kernel of ns_diff3r");
  }
  void zero(void* p, size_t bytes) const { check(cudaMemsetAsync(p, 0, bytes, stream), "clearing memory"); }

  // Stable; the numbers of one key keep their order. Without workspace: how many bytes of it are needed.
  template <class Key>
  static size_t sort(void* workspace, size_t bytes, const Key* keys, Key* sorted_keys, const uint32_t* values,
                     uint32_t* sorted_values, int64_t count, int bits, const Stream& stream = 0) {
    check(cub::DeviceRadixSort::SortPairs(workspace, bytes, keys, sorted_keys, values, sorted_values, count, 0, bits,
                                          reinterpret_cast<cudaStream_t>(stream.handle)),
          "sorting tile intersections");
    return bytes;
  }
  // out[i] = in[0] + … + in[i - 1]
  static size_t scan(void* workspace, size_t bytes, const uint32_t* in, uint32_t* out, int64_t count, const Stream& stream = 0) {
    check(cub::DeviceScan::ExclusiveSum(workspace, bytes, in, out, count, reinterpret_cast<cudaStream_t>(stream.handle)),
          "summing tile intersections");
    return bytes;
  }
  Stream handle() const { return {reinterpret_cast<uintptr_t>(stream), halted}; }

  // Runs `once(queue)` (which only launches) `count` times: recorded as a graph, so that a launch costs next to nothing;
  // `graph`, empty at first, keeps it. Recorded on a stream of its own, since the legacy stream, torch's default, cannot be.
  template <class Once>
  void repeat(int count, std::shared_ptr<void>& graph, const Once& once) const {
    if (!graph && count > 0) {  // once outside, so that all kernels are loaded before they are recorded
      once(*this);
      if (--count > 0) graph = record(once);
    }
    for (int i = 0; i < count; ++i)
      check(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph.get()), stream), "launching a graph");
  }

  // As `repeat`, one at a time; all kernels must have run before.
  template <class Once>
  void replay(std::shared_ptr<void>& graph, const Once& once) const {
    if (!graph) graph = record(once);
    check(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph.get()), stream), "launching a graph");
  }

 private:
  template <class Once>
  std::shared_ptr<void> record(const Once& once) const {
    cudaStream_t recorder;
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    check(cudaStreamCreateWithFlags(&recorder, cudaStreamNonBlocking), "making a stream");
    cudaError_t status = cudaStreamBeginCapture(recorder, cudaStreamCaptureModeThreadLocal);
    if (status == cudaSuccess) {
      try {
        once(Queue(Stream(reinterpret_cast<uintptr_t>(recorder), halted)));
      } catch (...) {
        cudaStreamEndCapture(recorder, &graph);
        if (graph) cudaGraphDestroy(graph);
        cudaStreamDestroy(recorder);
        throw;
      }
      status = cudaStreamEndCapture(recorder, &graph);
    }
    if (status == cudaSuccess) status = cudaGraphInstantiateWithFlags(&executable, graph, 0);
    if (graph) cudaGraphDestroy(graph);
    cudaStreamDestroy(recorder);
    check(status, "recording launches as a graph");
    // destroyed behind what is under way
    return std::shared_ptr<void>(executable, [](void* e) { cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(e)); });
  }
};

#else

struct Queue {
  Stream stream;

  explicit Queue(const Stream& s) : stream(s) {}

  template <class Kernel>
  void launch(int64_t blocks, const Kernel& kernel) const {
    if (stream.halted != nullptr && *stream.halted != 0) return;
    const auto body = [](HostBlock& block, const void* k, void* shared) {
      (*static_cast<const Kernel*>(k))(block, *static_cast<typename Kernel::Shared*>(shared));
    };
    run_grid(blocks, Kernel::kThreads, body, &kernel, sizeof(typename Kernel::Shared));
  }
  void zero(void* p, size_t bytes) const { std::memset(p, 0, bytes); }

  template <class Key>
  static size_t sort(void* workspace, size_t, const Key* keys, Key* sorted_keys, const uint32_t* values,
                     uint32_t* sorted_values, int64_t count, int, const Stream& = 0) {
    if (workspace == nullptr) return 1;
    const HostClock clock;
    std::vector<uint32_t> order(static_cast<size_t>(count));
    std::iota(order.begin(), order.end(), 0u);
    std::stable_sort(order.begin(), order.end(), [=](uint32_t a, uint32_t b) { return keys[a] < keys[b]; });
    for (int64_t i = 0; i < count; ++i) {
      sorted_keys[i] = keys[order[size_t(i)]];
      sorted_values[i] = values[order[size_t(i)]];
    }
    return 1;
  }
  static size_t scan(void* workspace, size_t, const uint32_t* in, uint32_t* out, int64_t count, const Stream& = 0) {
    if (workspace == nullptr) return 1;
    const HostClock clock;
    uint32_t total = 0;
    for (int64_t i = 0; i < count; ++i) {
      const uint32_t own = in[i];
      out[i] = total;
      total += own;
    }
    return 1;
  }
  const Stream& handle() const { return stream; }

  template <class Once>
  void repeat(int count, std::shared_ptr<void>&, const Once& once) const {
    for (int i = 0; i < count; ++i) once(*this);
  }
  template <class Once>
  void replay(std::shared_ptr<void>&, const Once& once) const {
    once(*this);
  }
};

#endif

NS_HD int64_t blocks_for(int64_t count, int per_block) { return (count + per_block - 1) / per_block; }

}  // namespace cuda
}  // namespace ns_diff3r
