// SPDX-License-Identifier: Apache-2.0
#include "host_block.h"

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <memory>
#include <random>
#include <stdexcept>

namespace ns_diff3r {
namespace cuda {

namespace {

constexpr size_t kStackBytes = 256 * 1024;
constexpr int kMaxThreads = 1024;

enum class State { ready, at_barrier, at_warp, done };

// The barriers met so far, and the index of each where it is called from.
struct Sites {
  std::vector<std::string> names;
  std::map<std::pair<const char*, int>, int64_t> index;
};
Sites& sites() {
  static Sites all;
  return all;
}

int64_t site_of(int line, const char* file) {
  Sites& all = sites();
  const auto found = all.index.find({file, line});
  if (found != all.index.end()) return found->second;
  std::string name = file;
  name = name.substr(name.rfind('/') + 1) + ":" + std::to_string(line);
  const auto same = std::find(all.names.begin(), all.names.end(), name);  // of another source file, another address
  const int64_t index = same - all.names.begin();
  if (same == all.names.end()) all.names.push_back(name);
  all.index[{file, line}] = index;
  return index;
}

}  // namespace

HostSettings& host_settings() {
  static HostSettings settings;
  return settings;
}

std::vector<std::string> barrier_sites(bool clear) {
  const std::vector<std::string> names = sites().names;
  if (clear) sites() = {};
  return names;
}

// Fibres switch by _setjmp and _longjmp (no system call); ucontext only makes their stacks.
class HostScheduler {
 public:
  struct Fiber {
    ucontext_t start;
    jmp_buf here;
    std::unique_ptr<unsigned char[]> stack;
    State state;
    bool started = false;
    int line;
    HostBlock block{nullptr, 0, 0};
  };

  void run(int64_t blocks, int threads, void (*body)(HostBlock&, const void*, void*), const void* kernel,
           size_t shared_bytes) {
    if (threads % kWarp != 0 || threads > kMaxThreads) throw std::logic_error("a block has a multiple of 32 threads");
    threads_ = threads;
    body_ = body;
    kernel_ = kernel;
    random_.seed(host_settings().seed);
    shared_.resize(shared_bytes + 64);
    while (int(fibers_.size()) < threads) {
      fibers_.push_back(std::make_unique<Fiber>());
      fibers_.back()->stack.reset(new unsigned char[kStackBytes]);
    }
    std::vector<int64_t> order(static_cast<size_t>(blocks));
    for (int64_t b = 0; b < blocks; ++b) order[size_t(b)] = b;
    arrange(order);
    for (int64_t b : order) run_block(b);
  }

  void yield(Fiber& fiber) {
    if (_setjmp(fiber.here) == 0) _longjmp(back_, 1);
  }
  Fiber& fiber(const HostBlock& block) { return *fibers_[size_t(block.thread())]; }

  // Waits until all threads of the block have come here.
  void barrier(HostBlock& block, int line) {
    Fiber& own = fiber(block);
    own.state = State::at_barrier;
    own.line = line;
    yield(own);
  }
  void warp(HostBlock& block, int kind) {
    Fiber& own = fiber(block);
    own.state = State::at_warp;
    own.line = kind;
    yield(own);
  }

  int votes = 0;
  unsigned char values[2][kMaxThreads][16];

 private:
  template <class Index>
  void arrange(std::vector<Index>& order) {
    if (host_settings().order == ThreadOrder::reverse) std::reverse(order.begin(), order.end());
    if (host_settings().order == ThreadOrder::shuffled) std::shuffle(order.begin(), order.end(), random_);
  }

  void run_block(int64_t index) {
    std::memset(shared_.data(), 0xff, shared_.size());  // NaN, and large integers: nothing may be read before it is written
    votes = 0;
    for (int t = 0; t < threads_; ++t) {
      fibers_[size_t(t)]->block = HostBlock(this, t, index);
      fibers_[size_t(t)]->state = State::ready;
    }
    for (;;) {
      std::vector<int> warps(static_cast<size_t>(threads_ / kWarp));
      for (int w = 0; w < threads_ / kWarp; ++w) warps[size_t(w)] = w * kWarp;
      arrange(warps);
      for (int first : warps) run_warp(first);
      if (all(0, threads_, State::done)) return;
      if (!all(0, threads_, State::at_barrier) || !same_line(0, threads_)) stuck();
      for (int t = 0; t < threads_; ++t) fibers_[size_t(t)]->state = State::ready;
    }
  }

  // Runs a warp as far as it comes without the others: the schedule that shows most races between warps.
  void run_warp(int first) {
    for (;;) {
      std::vector<int> lanes(kWarp);
      for (int l = 0; l < kWarp; ++l) lanes[size_t(l)] = first + l;
      arrange(lanes);
      for (int t : lanes)
        if (fibers_[size_t(t)]->state == State::ready) resume(*fibers_[size_t(t)]);
      if (!all(first, first + kWarp, State::at_warp) || !same_line(first, first + kWarp)) return;
      for (int t = first; t < first + kWarp; ++t) fibers_[size_t(t)]->state = State::ready;
    }
  }

  bool all(int begin, int end, State state) const {
    for (int t = begin; t < end; ++t)
      if (fibers_[size_t(t)]->state != state) return false;
    return true;
  }
  bool same_line(int begin, int end) const {
    for (int t = begin; t < end; ++t)
      if (fibers_[size_t(t)]->line != fibers_[size_t(begin)]->line) return false;
    return true;
  }
  [[noreturn]] void stuck() {
    for (auto& f : fibers_) f->started = false;  // their stacks hold half a kernel
    throw std::runtime_error("threads of a block wait for one another: a barrier or warp operation that not all reach");
  }

  __attribute__((noinline)) void resume(Fiber& fiber) {
    if (_setjmp(back_) != 0) return;
    if (fiber.started) _longjmp(fiber.here, 1);
    fiber.started = true;
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = fiber.stack.get();
    fiber.start.uc_stack.ss_size = kStackBytes;
    fiber.start.uc_link = nullptr;
    const uintptr_t self = reinterpret_cast<uintptr_t>(this), own = reinterpret_cast<uintptr_t>(&fiber);
    makecontext(&fiber.start, reinterpret_cast<void (*)()>(&HostScheduler::main), 4, unsigned(self >> 32), unsigned(self),
                unsigned(own >> 32), unsigned(own));
    setcontext(&fiber.start);
  }
  static void main(unsigned self_high, unsigned self_low, unsigned own_high, unsigned own_low) {
    auto* self = reinterpret_cast<HostScheduler*>(uintptr_t(self_high) << 32 | self_low);
    auto* own = reinterpret_cast<Fiber*>(uintptr_t(own_high) << 32 | own_low);
    for (;;) {
      const uintptr_t shared = (reinterpret_cast<uintptr_t>(self->shared_.data()) + 63) / 64 * 64;
      self->body_(own->block, self->kernel_, reinterpret_cast<void*>(shared));
      own->state = State::done;
      self->yield(*own);
    }
  }

  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<unsigned char> shared_;
  int threads_ = 0;
  void (*body_)(HostBlock&, const void*, void*) = nullptr;
  const void* kernel_ = nullptr;
  jmp_buf back_;
  std::mt19937_64 random_;
};

void HostBlock::sync(int line, const char* file) {
  if (site_of(line, file) != host_settings().skipped) scheduler_->barrier(*this, line);
}

int HostBlock::sync_count(bool yes, int line) {
  scheduler_->votes += yes ? 1 : 0;
  scheduler_->barrier(*this, line);
  const int count = scheduler_->votes;
  scheduler_->barrier(*this, -line);  // all have read it
  scheduler_->votes = 0;
  scheduler_->barrier(*this, -line);
  return count;
}

void HostBlock::sync_warp(int line, const char* file) {
  if (site_of(line, file) != host_settings().skipped) scheduler_->warp(*this, 1);
}

const void* HostBlock::exchange(const void* value, size_t bytes, int from) {
  const uint32_t turn = round_++ % 2;
  std::memcpy(scheduler_->values[turn][thread_], value, bytes);
  scheduler_->warp(*this, 2);
  return scheduler_->values[turn][thread_ / kWarp * kWarp + from];
}

uint32_t HostBlock::ballot(bool yes) {
  const uint32_t turn = round_++ % 2;
  scheduler_->values[turn][thread_][0] = yes;
  scheduler_->warp(*this, 3);
  uint32_t bits = 0;
  for (int lane = 0; lane < kWarp; ++lane)
    bits |= uint32_t(scheduler_->values[turn][thread_ / kWarp * kWarp + lane][0]) << lane;
  return bits;
}

void run_grid(int64_t blocks, int threads, void (*body)(HostBlock&, const void*, void*), const void* kernel,
              size_t shared_bytes) {
  static HostScheduler scheduler;
  const HostClock clock;
  if (blocks > 0) ++host_settings().launches;
  scheduler.run(blocks, threads, body, kernel, shared_bytes);
}

}  // namespace cuda
}  // namespace ns_diff3r
