// SPDX-License-Identifier: Apache-2.0
// The block of threads on the host, for tests of kernel logic without a device. Every thread of a block is a fibre; a
// barrier or warp operation hands control to the next one. Between two of them each thread runs alone and to the end, in
// an order that can be chosen: a result that depends on it shows a missing barrier. Blocks of a grid run one after the
// other, in the same kind of order. Threads that wait for what others never reach are an error, as are warp operations
// that not all lanes of a warp take part in, and barriers that meet at different lines.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <ctime>
#include <string>
#include <vector>

#include "block.h"

namespace ns_diff3r {
namespace cuda {

enum class ThreadOrder { forward, reverse, shuffled };

struct HostSettings {
  ThreadOrder order = ThreadOrder::forward;
  uint64_t seed = 1;
  int64_t skipped = -1;  // this barrier is left out: a mutation that tests have to notice
  int64_t launches = 0;  // grids that have been run
  double seconds = 0.0;  // in them, in sorting and in summing
};

class HostScheduler;

class HostBlock {
 public:
  HostBlock(HostScheduler* scheduler, int thread, int64_t index) : scheduler_(scheduler), thread_(thread), index_(index) {}

  int thread() const { return thread_; }
  int64_t index() const { return index_; }
  void sync(int line = __builtin_LINE(), const char* file = __builtin_FILE());
  int sync_count(bool yes, int line = __builtin_LINE());
  void sync_warp(int line = __builtin_LINE(), const char* file = __builtin_FILE());
  uint32_t ballot(bool yes);
  template <class T>
  T shuffle_xor(T value, int mask) {
    T out;
    std::memcpy(&out, exchange(&value, sizeof(T), (thread_ % kWarp) ^ mask), sizeof(T));
    return out;
  }
  template <class T>
  T shuffle_up(T value, int delta) {
    const int lane = thread_ % kWarp;
    T out;
    std::memcpy(&out, exchange(&value, sizeof(T), lane < delta ? lane : lane - delta), sizeof(T));
    return out;
  }

 private:
  const void* exchange(const void* value, size_t bytes, int from);

  HostScheduler* scheduler_;
  int thread_;
  int64_t index_;
  uint32_t round_ = 0;  // of warp operations: values of two consecutive ones lie apart
  friend class HostScheduler;
};

HostSettings& host_settings();

// Its life counts as time in kernels: processor time, as others may have the machine too.
struct HostClock {
  std::clock_t begin = std::clock();
  ~HostClock() { host_settings().seconds += double(std::clock() - begin) / CLOCKS_PER_SEC; }
};

// "file:line" of every barrier that was reached since the last call with `clear`; their index is HostSettings::skipped.
std::vector<std::string> barrier_sites(bool clear);

// Runs body(block, context) as every thread of every block of a grid.
void run_grid(int64_t blocks, int threads, void (*body)(HostBlock&, const void* kernel, void* shared), const void* kernel,
              size_t shared_bytes);

}  // namespace cuda
}  // namespace ns_diff3r
