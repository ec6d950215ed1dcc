// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <functional>

namespace ns_diff3r {

// Runs fn(i) once for every i in [0, num_items) on at most num_threads threads, the caller among them. Items are handed
// out in no particular order, so results must not depend on which thread runs an item; every reduction of this library
// therefore works on items of fixed size and combines their results in index order. The first exception thrown by fn
// is rethrown in the caller. Calls from inside fn run serially.
void parallel_for(int num_threads, int64_t num_items, const std::function<void(int64_t)>& fn);

}  // namespace ns_diff3r
