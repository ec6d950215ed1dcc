// SPDX-License-Identifier: Apache-2.0
// What a kernel may ask of the block of threads that it runs in. A kernel is a plain struct (its parameters) with
//
//   static constexpr int kThreads;              threads a block, a multiple of 32
//   static constexpr int kBlocksPerMultiprocessor;   at least so many shall fit: bounds the registers of a thread
//   struct Shared;                              memory that the threads of a block share
//   template <class Block> NS_KERNEL void operator()(Block& block, Shared& shared) const;
//
// and is written once: on a device Block is DeviceBlock below, on the host HostBlock (host_block.h), which runs the
// threads of a block between barriers, one after the other, in any order. Warp operations are of all 32 lanes.
#pragma once
#include <cstdint>

#include "../math/scalar.h"

#if defined(__CUDACC__)
#define NS_KERNEL __device__ __forceinline__
#define NS_UNROLL _Pragma("unroll")
#else
#define NS_KERNEL inline
#define NS_UNROLL
#endif

namespace ns_diff3r {
namespace cuda {

using namespace NS_ISA;

constexpr int kWarp = 32;

#if defined(__CUDACC__)
struct DeviceBlock {
  static constexpr uint32_t kAll = 0xffffffffu;

  NS_KERNEL int thread() const { return int(threadIdx.x); }
  NS_KERNEL int64_t index() const { return int64_t(blockIdx.x); }
  NS_KERNEL void sync() { __syncthreads(); }
  // How many threads of the block say yes; a barrier too.
  NS_KERNEL int sync_count(bool yes) { return __syncthreads_count(yes); }
  NS_KERNEL void sync_warp() { __syncwarp(); }
  NS_KERNEL uint32_t ballot(bool yes) { return __ballot_sync(kAll, yes); }
  template <class T>
  NS_KERNEL T shuffle_xor(T value, int mask) {
    return __shfl_xor_sync(kAll, value, mask);
  }
  // The value of the lane `delta` below; lanes without one keep their own.
  template <class T>
  NS_KERNEL T shuffle_up(T value, int delta) {
    return __shfl_up_sync(kAll, value, delta);
  }
};

NS_KERNEL int popcount(uint32_t x) { return __popc(x); }
NS_KERNEL float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }
NS_KERNEL double fused(double a, double b, double c) { return __fma_rn(a, b, c); }
NS_KERNEL float rounded_product(float a, float b) { return __fmul_rn(a, b); }
NS_KERNEL double rounded_product(double a, double b) { return __dmul_rn(a, b); }
NS_KERNEL float power_of_two(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
NS_KERNEL double power_of_two(double x) { return ::exp2(x); }
NS_KERNEL float reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));  // to one unit in the last place
  return y;
}
NS_KERNEL double reciprocal(double x) { return __drcp_rn(x); }
#else
NS_KERNEL int popcount(uint32_t x) { return __builtin_popcount(x); }
NS_KERNEL float fused(float a, float b, float c) { return ::fmaf(a, b, c); }
NS_KERNEL double fused(double a, double b, double c) { return ::fma(a, b, c); }
NS_KERNEL float rounded_product(float a, float b) { return a * b; }
NS_KERNEL double rounded_product(double a, double b) { return a * b; }
NS_KERNEL float power_of_two(float x) { return ::exp2f(x); }
NS_KERNEL double power_of_two(double x) { return ::exp2(x); }
NS_KERNEL float reciprocal(float x) { return 1.0f / x; }
NS_KERNEL double reciprocal(double x) { return 1.0 / x; }
#endif

NS_HD float logarithm(float x) { return ::logf(x); }
NS_HD double logarithm(double x) { return ::log(x); }
NS_HD float floor(float x) { return ::floorf(x); }
NS_HD double floor(double x) { return ::floor(x); }
NS_HD float ceil(float x) { return ::ceilf(x); }
NS_HD double ceil(double x) { return ::ceil(x); }
template <class T>
NS_HD T smaller(T a, T b) {
  return b < a ? b : a;
}
template <class T>
NS_HD T larger(T a, T b) {
  return a < b ? b : a;
}

struct NoShared {};

// Sums over the warp in a fixed order; every lane gets the total.
template <class Block, class T>
NS_KERNEL T warp_sum(Block& block, T value) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2) value += block.shuffle_xor(value, mask);
  return value;
}

// Sums over the block in a fixed order; `partial` has one number a warp. Every thread gets the total. Two barriers: the
// memory may be used again at once.
template <int Threads, class Block, class T>
NS_KERNEL T block_sum(Block& block, T value, T* partial) {
  value = warp_sum(block, value);
  if (block.thread() % kWarp == 0) partial[block.thread() / kWarp] = value;
  block.sync();
  T total = T(0);
  for (int w = 0; w < Threads / kWarp; ++w) total += partial[w];
  block.sync();
  return total;
}

}  // namespace cuda
}  // namespace ns_diff3r
