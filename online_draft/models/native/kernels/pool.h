// A few threads that take chunks of one loop at a time. A loop ends when its chunks are done, not when every
// thread has come: a thread that the system has put aside delays nothing but the chunk it holds.
#pragma once
#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>
#include <vector>
#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

namespace od {

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

class Pool {
public:
  Pool(int64_t threads, int64_t spin_us) : spin_(std::chrono::microseconds(spin_us)) {
    for (int64_t i = 1; i < threads; ++i) workers_.emplace_back([this, i] { serve(i); });
  }
  ~Pool() {
    closing_.store(true);
    ticket_.fetch_add(uint64_t(1) << PHASE);
    ticket_.notify_all();
    for (auto &worker : workers_) worker.join();
  }
  int64_t threads() const { return int64_t(workers_.size()) + 1; }

  // f(chunk, thread) for every chunk below `chunks` (at most 65535); the caller takes part as thread 0.
  template <class F> void run(int64_t chunks, const F &f) {
    if (chunks == 1 || workers_.empty()) {
      for (int64_t i = 0; i < chunks; ++i) f(i, 0);
      return;
    }
    call_ = [](const void *g, int64_t chunk, int64_t thread) { (*static_cast<const F *>(g))(chunk, thread); };
    context_ = &f;
    done_.store(0, std::memory_order_relaxed);
    const uint64_t phase = (ticket_.load(std::memory_order_relaxed) >> PHASE) + 1;
    ticket_.store(phase << PHASE | uint64_t(chunks) << TOTAL, std::memory_order_seq_cst);
    if (sleeping_.load(std::memory_order_seq_cst)) ticket_.notify_all();
    take(0);
    while (done_.load(std::memory_order_acquire) < chunks) relax();
  }

private:
  // ticket: phase (32 bits), chunks in all (16), next chunk (16). Taking a chunk and knowing its phase is one
  // operation, so a late thread can never take a chunk of a loop that has ended.
  static constexpr int PHASE = 32, TOTAL = 16;

  void take(int64_t thread) {
    for (;;) {
      uint64_t seen = ticket_.load(std::memory_order_acquire);
      if ((seen & 0xffff) >= (seen >> TOTAL & 0xffff)) return;
      if (!ticket_.compare_exchange_weak(seen, seen + 1, std::memory_order_acq_rel)) continue;
      call_(context_, int64_t(seen & 0xffff), thread);
      done_.fetch_add(1, std::memory_order_release);
    }
  }
  void serve(int64_t thread) {
    uint64_t phase = 0;
    while (!closing_.load(std::memory_order_relaxed)) {
      const auto idle_since = std::chrono::steady_clock::now();
      uint64_t seen;
      for (int64_t turn = 1; (seen = ticket_.load(std::memory_order_acquire)) >> PHASE == phase; ++turn) {
        relax();
        if (turn % 64 == 0 && std::chrono::steady_clock::now() - idle_since > spin_) {
          sleeping_.fetch_add(1, std::memory_order_seq_cst);
          ticket_.wait(seen, std::memory_order_seq_cst);
          sleeping_.fetch_sub(1, std::memory_order_relaxed);
        }
      }
      phase = seen >> PHASE;
      take(thread);
    }
  }

  std::vector<std::thread> workers_;
  std::chrono::microseconds spin_;
  alignas(64) std::atomic<uint64_t> ticket_{0};
  alignas(64) std::atomic<int64_t> done_{0};
  alignas(64) std::atomic<int64_t> sleeping_{0};
  std::atomic<bool> closing_{false};
  void (*call_)(const void *, int64_t, int64_t) = nullptr;
  const void *context_ = nullptr;
};

} // namespace od
