// SPDX-License-Identifier: Apache-2.0
#include "device.h"

#include <cuda_runtime_api.h>

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

}  // namespace cuda
}  // namespace ns_diff3r
