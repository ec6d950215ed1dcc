// SPDX-License-Identifier: Apache-2.0
#include "device.h"

#include <cuda_runtime_api.h>

#include <stdexcept>

#ifndef NS_CUDA_ARCHITECTURES
#define NS_CUDA_ARCHITECTURES "unknown"
#endif

namespace ns_diff3r {
namespace cuda {

std::string architectures() { return NS_CUDA_ARCHITECTURES; }

int runtime_version() {
  int version = 0;
  return cudaRuntimeGetVersion(&version) == cudaSuccess ? version : 0;
}

void use_device(int index) {
  const cudaError_t status = cudaSetDevice(index);
  if (status != cudaSuccess)
    throw std::runtime_error("choosing CUDA device " + std::to_string(index) + ": " + cudaGetErrorString(status));
}

}  // namespace cuda
}  // namespace ns_diff3r
