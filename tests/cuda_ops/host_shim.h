// Lets a host compiler run a CUDA source: every thread of a block is a fiber, __syncthreads and
// __shfl_down_sync are true barriers among them, and shared memory is poisoned for each block.
// Threads take their turns first to last, or last to first (reversed): equal results of both show
// that no thread reads what another has not yet written.
#pragma once
#include <ucontext.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __restrict__
#define __launch_bounds__(...)
using std::floor;
using std::fma;
using std::rint;

struct Index { int x, y, z; };
inline Index threadIdx, blockIdx, gridDim;

namespace host {
inline int threads, running, alive;
inline long block_number;
inline bool reversed;
inline ucontext_t scheduler;
inline std::vector<ucontext_t> fibers;
inline std::vector<int> barrier;  // how many barriers each fiber has reached; -1: it has ended
inline double lanes[1024];
inline const std::function<void()>* body;

inline void trampoline() {
  (*body)();
  barrier[running] = -1;
  --alive;
  swapcontext(&fibers[running], &scheduler);
}

inline void wait() {
  ++barrier[running];
  swapcontext(&fibers[running], &scheduler);
}

inline void run_block() {
  static std::vector<std::vector<char>> stacks;
  stacks.resize(threads);
  fibers.resize(threads);
  barrier.assign(threads, 0);
  alive = threads;
  for (int i = 0; i < threads; ++i) {
    stacks[i].resize(1 << 16);
    getcontext(&fibers[i]);
    fibers[i].uc_stack.ss_sp = stacks[i].data();
    fibers[i].uc_stack.ss_size = stacks[i].size();
    fibers[i].uc_link = nullptr;
    makecontext(&fibers[i], trampoline, 0);
  }
  while (alive) {
    for (int i = 0; i < threads; ++i) {
      running = reversed ? threads - 1 - i : i;
      if (barrier[running] < 0) continue;
      threadIdx = {running, 0, 0};
      swapcontext(&scheduler, &fibers[running]);
    }
    int reached = -1;
    for (int count : barrier) {
      if (count < 0) continue;
      if (reached >= 0 && count != reached) {
        std::fprintf(stderr, "threads of a block wait at different barriers\n");
        std::abort();
      }
      reached = count;
    }
  }
}

inline void launch(Index grid, int block, const std::function<void()>& kernel) {
  threads = block;
  body = &kernel;
  gridDim = grid;
  for (int z = 0; z < grid.z; ++z)
    for (int y = 0; y < grid.y; ++y)
      for (int x = 0; x < grid.x; ++x) {
        blockIdx = {x, y, z};
        ++block_number;
        run_block();
      }
  body = nullptr;
}

inline void poison(void* memory, size_t bytes, long& seen) {
  if (seen == block_number) return;
  seen = block_number;
  std::memset(memory, 0xff, bytes);
}
}  // namespace host

#define SHARED_ARRAY(type, name, count)                      \
  alignas(16) static char name##_bytes[sizeof(type) * (count)]; \
  static long name##_seen = 0;                               \
  host::poison(name##_bytes, sizeof(name##_bytes), name##_seen); \
  type* name = reinterpret_cast<type*>(name##_bytes)

inline void __syncthreads() { host::wait(); }

template <typename A> A __shfl_down_sync(unsigned, A value, int delta) {
  host::lanes[threadIdx.x] = value;
  host::wait();
  const int from = threadIdx.x + delta;
  const A other = from / 32 == threadIdx.x / 32 ? static_cast<A>(host::lanes[from]) : value;
  host::wait();
  return other;
}

inline float __uint_as_float(unsigned int bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
inline unsigned int __float_as_uint(float value) {
  unsigned int bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

inline float half_to_float(unsigned short bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  float value;
  if (exponent == 31)
    value = fraction ? NAN : INFINITY;
  else if (exponent)
    value = std::ldexp(1024.0f + fraction, exponent - 25);
  else
    value = std::ldexp(static_cast<float>(fraction), -24);
  return bits >> 15 ? -value : value;
}
inline unsigned short float_to_half(float value) {
  const unsigned short sign = std::signbit(value) ? 0x8000 : 0;
  const float size = std::fabs(value);
  if (!(size == size)) return 0x7e00;
  if (size >= 65520.0f) return sign | 0x7c00;
  int exponent;
  std::frexp(size, &exponent);
  const int step = exponent < -13 ? -24 : exponent - 11;  // of the grid of halves around `size`
  const int count = static_cast<int>(std::nearbyint(std::ldexp(size, -step)));
  if (step == -24) return sign | count;
  return sign | (((step + 24) << 10) + count);
}
