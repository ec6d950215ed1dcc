// SPDX-License-Identifier: Apache-2.0
// Where launches go: a cudaStream_t as a number (ignored on the host), and perhaps a flag in device memory that stops them.
#pragma once
#include <cstdint>

namespace ns_diff3r {
namespace cuda {

// Kernels that start while *halted is not 0 return at once: what is already launched behind a mistake does nothing, and
// the host may look late. Sorting and summing go on, in memory of their own.
struct Stream {
  uintptr_t handle;
  const int32_t* halted;

  Stream(uintptr_t handle_, const int32_t* halted_ = nullptr) : handle(handle_), halted(halted_) {}
};

}  // namespace cuda
}  // namespace ns_diff3r
