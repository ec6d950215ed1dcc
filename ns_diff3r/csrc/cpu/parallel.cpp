// SPDX-License-Identifier: Apache-2.0
#include "parallel.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace ns_diff3r {
namespace {

struct Job {
  const std::function<void(int64_t)>* fn;
  int64_t num_items;
  int max_workers;
  int64_t run;  // items taken at a time: neighbours share what they read
  std::atomic<int64_t> next{0};
  std::atomic<int> joined{0};
  std::exception_ptr error;
  std::mutex error_mutex;

  void work() {
    for (int64_t i; (i = next.fetch_add(run, std::memory_order_relaxed)) < num_items;) {
      try {
        for (const int64_t end = std::min(i + run, num_items); i < end; ++i) (*fn)(i);
      } catch (...) {
        std::lock_guard<std::mutex> lock(error_mutex);
        if (!error) error = std::current_exception();
        next.store(num_items, std::memory_order_relaxed);
      }
    }
  }
};

thread_local bool inside_parallel_region = false;

// Watches for `done` for a fifth of a millisecond: jobs follow each other closely, and to fall asleep and be woken takes
// as long as many of them.
template <class Done>
void watch(const Done& done) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(200);
  while (!done() && std::chrono::steady_clock::now() < end) {
#if defined(__x86_64__) || defined(__i386__)
    for (int i = 0; i < 8; ++i) __builtin_ia32_pause();
#endif
  }
}

// Workers are started on first use and wait between jobs. One job runs at a time; a second caller waits its turn.
class Pool {
 public:
  explicit Pool(pid_t owner) : owner(owner) {}

  void run(int num_threads, Job& job) {
    std::lock_guard<std::mutex> turn(turn_mutex_);
    const int num_workers = num_threads - 1;
    while (static_cast<int>(workers_.size()) < num_workers) workers_.emplace_back([this] { loop(); });
    {
      std::lock_guard<std::mutex> lock(mutex_);
      job_ = &job;
      job.max_workers = num_workers;
      ++generation_;
    }
    wake_.notify_all();
    inside_parallel_region = true;
    job.work();
    inside_parallel_region = false;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      job_ = nullptr;  // a worker that wakes up from here on finds nothing to do
    }
    watch([this] { return active_ == 0; });
    std::unique_lock<std::mutex> lock(mutex_);
    idle_.wait(lock, [this] { return active_ == 0; });
  }

  const pid_t owner;

 private:
  void loop() {
    inside_parallel_region = true;
    uint64_t seen = 0;
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      lock.unlock();
      watch([&] { return generation_ != seen; });
      lock.lock();
      wake_.wait(lock, [&] { return generation_ != seen; });
      seen = generation_;
      Job* job = job_;
      if (job == nullptr || job->joined.fetch_add(1) >= job->max_workers) continue;
      ++active_;
      lock.unlock();
      job->work();
      lock.lock();
      if (--active_ == 0) idle_.notify_one();
    }
  }

  std::mutex turn_mutex_, mutex_;
  std::condition_variable wake_, idle_;
  std::vector<std::thread> workers_;
  Job* job_ = nullptr;
  std::atomic<uint64_t> generation_{0};  // these two are written under mutex_ only
  std::atomic<int> active_{0};
};

Pool& pool() {
  // Threads do not survive fork(), so a forked child starts a pool of its own. Pools are never destroyed: joining
  // threads while the interpreter shuts down can deadlock.
  static std::atomic<Pool*> current{nullptr};
  static std::mutex creation;
  Pool* existing = current.load(std::memory_order_acquire);
  if (existing != nullptr && existing->owner == getpid()) return *existing;
  std::lock_guard<std::mutex> lock(creation);
  existing = current.load(std::memory_order_acquire);
  if (existing == nullptr || existing->owner != getpid()) {
    existing = new Pool(getpid());
    current.store(existing, std::memory_order_release);
  }
  return *existing;
}

}  // namespace

void parallel_for(int num_threads, int64_t num_items, const std::function<void(int64_t)>& fn) {
  if (num_threads > num_items) num_threads = static_cast<int>(num_items);
  if (num_threads <= 1 || inside_parallel_region) {
    for (int64_t i = 0; i < num_items; ++i) fn(i);
    return;
  }
  Job job;
  job.fn = &fn;
  job.num_items = num_items;
  job.run = std::clamp<int64_t>(num_items / (16 * num_threads), 1, 8);
  pool().run(num_threads, job);
  if (job.error) std::rethrow_exception(job.error);
}

}  // namespace ns_diff3r
