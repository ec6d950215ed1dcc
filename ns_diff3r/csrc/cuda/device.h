// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>

namespace ns_diff3r {
namespace cuda {

// As the build named them, for example "80;90".
std::string architectures();
int runtime_version();
// Makes a device the current one of this thread for the runtime that is linked in here, which is not torch's.
void use_device(int index);

}  // namespace cuda
}  // namespace ns_diff3r
