// Per-sample, group-wise rolled convolution kernels: forward and backward, 2-D and 3-D.
//
//   weight  (C_out, C_in, KZ, KY, KX)   C_in = n groups of contiguous channels, KZ = 1 in 2-D
//   offsets (B, n, D)                   in taps, axis order ([z,] y, x), any real value
//   scale   (B, n)
//   gates   (B, C_in)                   a factor of each input channel, or null for none
//   out     (B, C_out, C_in, KZ, KY, KX)
//
// Memory is contiguous in this order, or with LAST channels-last: (C_out, taps, C_in), each sample
// of out alike. Each group is rolled cyclically by its offset, blending the corners floor and
// floor + 1 of every axis, and multiplied by its scale and its channels' gates;
// cuda_ops/reference.py says the same in plain torch.
//
// One source for NVRTC (through CuPy), for nvcc and, with the shim of the tests, for a host
// compiler. It includes nothing. Half types are 16-bit words, converted here; sums are float,
// for double weights double. No atomics: every number has one writer and every sum one order, so
// results repeat bit for bit.
//
// A row is the N = KZ KY KX taps of one (output, input) channel pair. A block works on T rows of
// one group g, which lie in memory in runs of C_in/n rows; it stages them in shared memory, read
// and written coalesced. With N <= 27 a thread then owns one row with all taps in registers: the
// whole part of the roll goes into the addresses it reads from, so the blend mixes registers with
// fixed indices only. N is odd for odd kernels, which keeps the rows off each other's banks.
// Larger kernels (the *_any forms) give each tap its own thread and read the corners from memory.

struct half16 { unsigned short bits; };
struct brain16 { unsigned short bits; };

template <typename T> struct accumulator { using type = float; };
template <> struct accumulator<double> { using type = double; };
template <typename T> using acc_t = typename accumulator<T>::type;

#ifdef __CUDA_ARCH__
__device__ __forceinline__ float half_to_float(unsigned short bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}
__device__ __forceinline__ unsigned short float_to_half(float value) {
  unsigned short bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}
#endif
#ifndef SHARED_ARRAY  // the host shim has its own, which poisons the memory of each block
#define SHARED_ARRAY(type, name, count) __shared__ type name[count]
#endif

__device__ __forceinline__ float widen(float v) { return v; }
__device__ __forceinline__ double widen(double v) { return v; }
__device__ __forceinline__ float widen(half16 v) { return half_to_float(v.bits); }
__device__ __forceinline__ float widen(brain16 v) {
  return __uint_as_float(static_cast<unsigned int>(v.bits) << 16);
}
__device__ __forceinline__ void narrow(float v, float& to) { to = v; }
__device__ __forceinline__ void narrow(double v, double& to) { to = v; }
__device__ __forceinline__ void narrow(float v, half16& to) { to.bits = float_to_half(v); }
__device__ __forceinline__ void narrow(float v, brain16& to) {  // to nearest, ties to even
  unsigned int u = __float_as_uint(v);
  bool nan = (u & 0x7fffffffu) > 0x7f800000u;
  to.bits = nan ? 0x7fc0 : static_cast<unsigned short>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

// Where one group of one sample goes: whole taps in [0, K), the fraction beyond, its scale.
template <typename A> struct Plan {
  int whole[3];
  A fraction[3];
  A scale;
};

// v less a multiple of k, in (-k, k); v and k are whole. Exact: each round takes off a multiple of
// k that leaves a number of few bits; one round does for |v| < 2^23 (2^52), NaN ends it at once.
template <typename A> __device__ __forceinline__ A modulo(A v, A k) {
  while (v >= k || v <= -k) v = fma(-rint(v * (A(1) / k)), k, v);
  return v;
}

// Floor first and modulo second, both in floating point: exact for any magnitude, and no
// non-finite number ever becomes an index (its fraction is NaN, so exactly this group is NaN).
// Along an axis of one tap there is nothing to roll: there a NaN enters through the scale.
template <typename A, int D, int KZ, int KY, int KX>
__device__ Plan<A> make_plan(const A* offsets, const A* scale, size_t group) {
  const int sizes[3] = {KZ, KY, KX};
  Plan<A> plan;
  plan.scale = scale[group];
#pragma unroll
  for (int axis = 0; axis < 3; ++axis) {
    const int k = sizes[axis];
    const int place = axis - (3 - D);
    const A offset = place < 0 ? A(0) : offsets[group * D + place];
    const A lower = floor(offset);
    const A rest = modulo(lower, A(k));
    const int whole = rest > A(-k) && rest < A(k) ? static_cast<int>(rest) : 0;
    plan.whole[axis] = whole < 0 ? whole + k : whole;
    plan.fraction[axis] = offset - lower;
    if (k == 1) {
      plan.scale += A(0) * plan.fraction[axis];
      plan.fraction[axis] = A(0);
    }
  }
  return plan;
}

// Row u of a group: u counts (output, channel of the group) pairs. All indices stay below 2^31, as
// the number of weights does.
struct Row {
  int input;  // its channel among all C_in
  int pair;   // output * C_in + input
  int start;  // index of its first tap; the taps lie side by side, or with LAST C_in apart
};

template <bool LAST>
__device__ __forceinline__ Row row_of(int u, int group, int width, int inputs, int taps) {
  Row row;
  const int output = u / width;
  row.input = group * width + u % width;
  row.pair = output * inputs + row.input;
  row.start = LAST ? output * taps * inputs + row.input : row.pair * taps;
  return row;
}

template <typename A>
__device__ __forceinline__ A gate_of(const A* gates, size_t sample, int inputs, const Row& row) {
  return gates ? gates[sample * inputs + row.input] : A(1);
}

// (1 - f) r[j] + f r[j + step] along one axis of K elements `stride` apart, step +1 or -1, cyclic.
template <int K, int STEP, typename A>
__device__ __forceinline__ void blend(A* r, int stride, A f) {
  if (K == 1) return;
  const A ends = STEP > 0 ? r[0] : r[(K - 1) * stride];
#pragma unroll
  for (int i = 0; i < K; ++i) {
    const int j = STEP > 0 ? i : K - 1 - i;
    const A other = i == K - 1 ? ends : r[(j + STEP) * stride];
    r[j * stride] = (A(1) - f) * r[j * stride] + f * other;
  }
}

// A fraction of 0, the same for the whole block, leaves every bit as it is.
template <int STEP, int KZ, int KY, int KX, typename A>
__device__ __forceinline__ void blend_all(A* r, const Plan<A>& plan) {
  if (plan.fraction[2] != A(0))
#pragma unroll
    for (int i = 0; i < KZ * KY; ++i) blend<KX, STEP>(r + i * KX, 1, plan.fraction[2]);
  if (plan.fraction[1] != A(0))
#pragma unroll
    for (int z = 0; z < KZ; ++z)
#pragma unroll
      for (int x = 0; x < KX; ++x) blend<KY, STEP>(r + z * KY * KX + x, KX, plan.fraction[1]);
  if (plan.fraction[0] != A(0))
#pragma unroll
    for (int i = 0; i < KY * KX; ++i) blend<KZ, STEP>(r + i, KY * KX, plan.fraction[0]);
}

// r[t] = row[(t + SIGN whole) mod K], SIGN = -1 forward, +1 for the adjoint.
template <int SIGN, int KZ, int KY, int KX, typename A>
__device__ __forceinline__ void read_rolled(const A* row, const Plan<A>& plan, A* r) {
  const int dz = SIGN > 0 ? plan.whole[0] : KZ - plan.whole[0];
  const int dy = SIGN > 0 ? plan.whole[1] : KY - plan.whole[1];
  const int dx = SIGN > 0 ? plan.whole[2] : KX - plan.whole[2];
#pragma unroll
  for (int z = 0; z < KZ; ++z) {
    const int sz = z + dz >= KZ ? z + dz - KZ : z + dz;
#pragma unroll
    for (int y = 0; y < KY; ++y) {
      const int sy = y + dy >= KY ? y + dy - KY : y + dy;
#pragma unroll
      for (int x = 0; x < KX; ++x) {
        const int sx = x + dx >= KX ? x + dx - KX : x + dx;
        r[(z * KY + y) * KX + x] = row[(sz * KY + sy) * KX + sx];
      }
    }
  }
}

// Rows of memory to rows of the tile and back, neighbouring threads at neighbouring addresses: with
// taps side by side the block walks along them, with LAST each thread walks down its own row.
//
// All is read before anything is written: what is read next from shared memory must wait for what
// is written there, which would leave one load on its way a thread. Along the taps it takes AHEAD
// steps at a time, since 27 addresses take more registers than all the rest; so the rounds stay a
// loop. All T rows are read, without a condition that would part the loads; rows that are not there
// start where the block's first does.
constexpr int AHEAD = 9;

template <int N, int T, bool LAST, typename S, typename A>
__device__ __forceinline__ void load_rows(const S* from, const int* starts, int inputs, A* tile) {
  if (LAST) {
    S row[N];
#pragma unroll
    for (int t = 0; t < N; ++t) row[t] = from[starts[threadIdx.x] + t * inputs];
#pragma unroll
    for (int t = 0; t < N; ++t) tile[threadIdx.x * N + t] = widen(row[t]);
    return;
  }
#pragma unroll 1
  for (int done = 0; done < N; done += AHEAD) {
    S ahead[AHEAD];
#pragma unroll
    for (int i = 0; i < AHEAD; ++i) {
      const int e = (done + i) * T + threadIdx.x;
      if (N % AHEAD == 0 || done + i < N) ahead[i] = from[starts[e / N] + e % N];
    }
#pragma unroll
    for (int i = 0; i < AHEAD; ++i)
      if (N % AHEAD == 0 || done + i < N) tile[(done + i) * T + threadIdx.x] = widen(ahead[i]);
  }
}

template <int N, int T, bool LAST, typename S, typename A>
__device__ __forceinline__ void store_rows(const A* tile, const int* starts, int rows, int inputs,
                                           S* to) {
  if (!LAST) {
    for (int e = threadIdx.x; e < rows * N; e += T) narrow(tile[e], to[starts[e / N] + e % N]);
  } else if (threadIdx.x < rows) {
#pragma unroll
    for (int t = 0; t < N; ++t)
      narrow(tile[threadIdx.x * N + t], to[starts[threadIdx.x] + t * inputs]);
  }
}

// Sums COUNT values over the block in a fixed order; the result is thread 0's. T is whole warps.
template <int T, int COUNT, typename A> __device__ void block_sum(A* values, A* slots) {
#pragma unroll
  for (int i = 0; i < COUNT; ++i)
    for (int half = 16; half > 0; half /= 2)
      values[i] += __shfl_down_sync(0xffffffffu, values[i], half);
  if (threadIdx.x % 32 == 0)
    for (int i = 0; i < COUNT; ++i) slots[(threadIdx.x / 32) * COUNT + i] = values[i];
  __syncthreads();
  if (threadIdx.x == 0)
    for (int warp = 1; warp < T / 32; ++warp)
      for (int i = 0; i < COUNT; ++i) values[i] += slots[warp * COUNT + i];
}

// ---- forward: grid (ceil(C_out C_in/n / T), n, B), block T --------------------------------------

template <typename W, typename O, int D, int KZ, int KY, int KX, bool LAST, int T>
__global__ void __launch_bounds__(T, sizeof(acc_t<W>) == 4 ? 8 : 1)
roll_forward(const W* __restrict__ weight, const acc_t<W>* __restrict__ offsets,
             const acc_t<W>* __restrict__ scale, const acc_t<W>* __restrict__ gates,
             O* __restrict__ out, int outputs, int inputs, int groups) {
  using A = acc_t<W>;
  constexpr int N = KZ * KY * KX;
  SHARED_ARRAY(A, tile, T * N);
  SHARED_ARRAY(int, starts, T);
  SHARED_ARRAY(Plan<A>, plan, 1);
  const int group = blockIdx.y, width = inputs / groups, first = blockIdx.x * T;
  const int left = outputs * width - first, rows = left < T ? left : T;
  const bool mine = threadIdx.x < rows;
  const size_t sample = blockIdx.z;
  const Row own = row_of<LAST>(first + (mine ? threadIdx.x : 0), group, width, inputs, N);
  starts[threadIdx.x] = own.start;
  const A gate = gate_of(gates, sample, inputs, own);
  __syncthreads();
  load_rows<N, T, LAST>(weight, starts, inputs, tile);
  if (threadIdx.x == 0)
    plan[0] = make_plan<A, D, KZ, KY, KX>(offsets, scale, sample * groups + group);
  __syncthreads();
  if (mine) {  // reads and writes its own row alone
    A r[N];
    A* row = tile + threadIdx.x * N;
    read_rolled<-1, KZ, KY, KX>(row, plan[0], r);
    blend_all<-1, KZ, KY, KX>(r, plan[0]);
    const A factor = plan[0].scale * gate;
#pragma unroll
    for (int t = 0; t < N; ++t) row[t] = factor * r[t];
  }
  __syncthreads();
  store_rows<N, T, LAST>(tile, starts, rows, inputs, out + sample * outputs * inputs * N);
}

// ---- backward: grid (chunks = ceil(C_out C_in/n / T), n), block T -------------------------------
// The adjoint of a roll by +s reads at +s, so the weight's gradient is a gather. The scale and the
// offsets only need the correlations d_k = sum_t w[t] G[t + whole + k] at the corners k, summed
// over the block; partials (B, n, chunks, 4) hold the block's (scale, z, y, x) for roll_finish. A
// gate needs the same of its row alone: dots (B, terms, C_in) hold what a row adds, one term per
// output (per output and tap in the *_any form), and are null like the gates.

template <int KZ, int KY, int KX, typename A>
__device__ __forceinline__ void correlate(const A* w, const A* r, A* d) {
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    const int kz = k / 4, ky = k / 2 % 2, kx = k % 2;
    d[k] = A(0);
    if ((kz && KZ == 1) || (ky && KY == 1) || (kx && KX == 1)) continue;
#pragma unroll
    for (int t = 0; t < KZ * KY * KX; ++t) {
      const int z = (t / (KY * KX) + kz) % KZ, y = (t / KX % KY + ky) % KY, x = (t % KX + kx) % KX;
      d[k] += w[t] * r[(z * KY + y) * KX + x];
    }
  }
}

// From the eight correlations the slope along axis `which` of three, or for -1 the value itself.
template <int KZ, int KY, int KX, typename A>
__device__ __forceinline__ A along(int which, const A* d, const Plan<A>& plan) {
  const A f[3] = {plan.fraction[0], plan.fraction[1], plan.fraction[2]};
  const int sizes[3] = {KZ, KY, KX};
  A sum = A(0);
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    const int corner[3] = {k / 4, k / 2 % 2, k % 2};
    A share = A(1);
#pragma unroll
    for (int axis = 0; axis < 3; ++axis) {
      if (which == axis)
        share *= sizes[axis] == 1 ? A(0) : (corner[axis] ? A(1) : A(-1));
      else
        share *= corner[axis] ? f[axis] : A(1) - f[axis];
    }
    sum += share * d[k];
  }
  return sum;
}

template <typename W, typename O, int D, int KZ, int KY, int KX, bool LAST, int T>
__global__ void __launch_bounds__(T, sizeof(acc_t<W>) == 4 ? 4 : 1)
roll_backward(const O* __restrict__ grad, const W* __restrict__ weight,
              const acc_t<W>* __restrict__ offsets, const acc_t<W>* __restrict__ scale,
              const acc_t<W>* __restrict__ gates, W* __restrict__ grad_weight,
              acc_t<W>* __restrict__ partials, acc_t<W>* __restrict__ dots, int batch, int outputs,
              int inputs, int groups) {
  using A = acc_t<W>;
  constexpr int N = KZ * KY * KX;
  SHARED_ARRAY(A, tile, T * N);
  SHARED_ARRAY(int, starts, T);
  SHARED_ARRAY(Plan<A>, plan, 1);
  SHARED_ARRAY(A, slots, 8 * T / 32);
  const int group = blockIdx.y, width = inputs / groups, first = blockIdx.x * T;
  const int left = outputs * width - first, rows = left < T ? left : T;
  const bool mine = threadIdx.x < rows;
  const Row own = row_of<LAST>(first + (mine ? threadIdx.x : 0), group, width, inputs, N);
  starts[threadIdx.x] = own.start;
  __syncthreads();
  load_rows<N, T, LAST>(weight, starts, inputs, tile);
  __syncthreads();
  A w[N], sum[N];
#pragma unroll
  for (int t = 0; t < N; ++t) {
    w[t] = mine ? tile[threadIdx.x * N + t] : A(0);
    sum[t] = A(0);
  }
  __syncthreads();  // all rows of the weight are read
  for (int b = 0; b < batch; ++b) {
    const size_t at = static_cast<size_t>(b) * groups + group;
    const A gate = gate_of(gates, b, inputs, own);
    load_rows<N, T, LAST>(grad + static_cast<size_t>(b) * outputs * inputs * N, starts, inputs,
                          tile);
    if (threadIdx.x == 0) plan[0] = make_plan<A, D, KZ, KY, KX>(offsets, scale, at);
    __syncthreads();
    A d[8] = {};
    if (mine) {
      A r[N];
      read_rolled<+1, KZ, KY, KX>(tile + threadIdx.x * N, plan[0], r);
      correlate<KZ, KY, KX>(w, r, d);
      if (dots)
        dots[static_cast<size_t>(b) * outputs * inputs + own.pair] =
            plan[0].scale * along<KZ, KY, KX>(-1, d, plan[0]);
#pragma unroll
      for (int k = 0; k < 8; ++k) d[k] *= gate;
      blend_all<+1, KZ, KY, KX>(r, plan[0]);
      const A factor = plan[0].scale * gate;
#pragma unroll
      for (int t = 0; t < N; ++t) sum[t] += factor * r[t];
    }
    block_sum<T, 8>(d, slots);  // whose barrier also ends the reading of tile and plan
    if (threadIdx.x == 0) {
      A* to = partials + (at * gridDim.x + blockIdx.x) * 4;
      to[0] = along<KZ, KY, KX>(-1, d, plan[0]);
      for (int axis = 0; axis < 3; ++axis)
        to[1 + axis] = plan[0].scale * along<KZ, KY, KX>(axis, d, plan[0]);
    }
  }
  if (mine)
#pragma unroll
    for (int t = 0; t < N; ++t) tile[threadIdx.x * N + t] = sum[t];
  __syncthreads();
  store_rows<N, T, LAST>(tile, starts, rows, inputs, grad_weight);
}

// Adds the chunks of each group of each sample, and the terms of each channel's gate: grid
// (groups_of_all = B n, and with gates B C_in more), block 32.
template <typename A, int D>
__global__ void __launch_bounds__(32)
roll_finish(const A* __restrict__ partials, const A* __restrict__ dots,
            A* __restrict__ grad_offsets, A* __restrict__ grad_scale, A* __restrict__ grad_gates,
            int groups_of_all, int chunks, int terms, int inputs) {
  SHARED_ARRAY(A, slots, 4);
  A sums[4] = {};
  if (blockIdx.x < groups_of_all) {
    const size_t at = blockIdx.x;
    for (int chunk = threadIdx.x; chunk < chunks; chunk += 32)
      for (int i = 0; i < 4; ++i) sums[i] += partials[(at * chunks + chunk) * 4 + i];
    block_sum<32, 4>(sums, slots);
    if (threadIdx.x != 0) return;
    grad_scale[at] = sums[0];
    for (int axis = 0; axis < D; ++axis) grad_offsets[at * D + axis] = sums[4 - D + axis];
  } else {
    const int channel = blockIdx.x - groups_of_all;  // of all samples
    const size_t sample = channel / inputs;
    for (int term = threadIdx.x; term < terms; term += 32)
      sums[0] += dots[(sample * terms + term) * inputs + channel % inputs];
    block_sum<32, 1>(sums, slots);
    if (threadIdx.x == 0) grad_gates[channel] = sums[0];
  }
}

// ---- any kernel size: one thread per tap, corners read from memory ------------------------------

// The blend of the 2^D neighbours of `tap` of a row whose taps are `step` apart, and its slopes
// along (z, y, x).
template <int SIGN, int KZ, int KY, int KX, typename S, typename A>
__device__ __forceinline__ A gather(const S* row, int tap, size_t step, const Plan<A>& plan,
                                    A* slope) {
  const int sizes[3] = {KZ, KY, KX}, place[3] = {tap / (KY * KX), tap / KX % KY, tap % KX};
  int at[3][2];
  for (int axis = 0; axis < 3; ++axis)
    for (int corner = 0; corner < 2; ++corner) {
      const int shift = SIGN * (plan.whole[axis] + corner), k = sizes[axis];
      at[axis][corner] = (place[axis] + shift + 2 * k) % k;
    }
  A value = A(0);
  for (int axis = 0; axis < 3; ++axis) slope[axis] = A(0);
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    const int c[3] = {k / 4, k / 2 % 2, k % 2};
    if ((c[0] && KZ == 1) || (c[1] && KY == 1) || (c[2] && KX == 1)) continue;
    const A v = widen(row[((at[0][c[0]] * KY + at[1][c[1]]) * KX + at[2][c[2]]) * step]);
    A share[3], sign[3];
#pragma unroll
    for (int axis = 0; axis < 3; ++axis) {
      share[axis] = c[axis] ? plan.fraction[axis] : A(1) - plan.fraction[axis];
      sign[axis] = sizes[axis] == 1 ? A(0) : (c[axis] ? A(1) : A(-1));
    }
    value += share[0] * share[1] * share[2] * v;
    slope[0] += sign[0] * share[1] * share[2] * v;
    slope[1] += share[0] * sign[1] * share[2] * v;
    slope[2] += share[0] * share[1] * sign[2] * v;
  }
  return value;
}

// Element e of a group: tap `tap` of row `u`, as they lie in memory.
template <int N, bool LAST>
__device__ __forceinline__ void locate(int e, int rows, int& u, int& tap) {
  u = LAST ? e % rows : e / N;
  tap = LAST ? e / rows : e % N;
}

// Grid (ceil(C_out C_in/n N / T), n, B), block T.
template <typename W, typename O, int D, int KZ, int KY, int KX, bool LAST, int T>
__global__ void __launch_bounds__(T, 1)
roll_forward_any(const W* __restrict__ weight, const acc_t<W>* __restrict__ offsets,
                 const acc_t<W>* __restrict__ scale, const acc_t<W>* __restrict__ gates,
                 O* __restrict__ out, int outputs, int inputs, int groups) {
  using A = acc_t<W>;
  constexpr int N = KZ * KY * KX;
  SHARED_ARRAY(Plan<A>, plan, 1);
  const int group = blockIdx.y, width = inputs / groups, rows = outputs * width;
  const int e = blockIdx.x * T + threadIdx.x;
  const size_t sample = blockIdx.z, step = LAST ? inputs : 1;
  if (threadIdx.x == 0)
    plan[0] = make_plan<A, D, KZ, KY, KX>(offsets, scale, sample * groups + group);
  __syncthreads();
  if (e >= rows * N) return;
  int u, tap;
  locate<N, LAST>(e, rows, u, tap);
  const Row row = row_of<LAST>(u, group, width, inputs, N);
  A slope[3];
  const A value = gather<-1, KZ, KY, KX>(weight + row.start, tap, step, plan[0], slope);
  const A factor = plan[0].scale * gate_of(gates, sample, inputs, row);
  narrow(factor * value, out[sample * outputs * inputs * N + row.start + tap * step]);
}

// Grid (chunks = ceil(C_out C_in/n N / T), n), block T; partials and dots as in roll_backward.
template <typename W, typename O, int D, int KZ, int KY, int KX, bool LAST, int T>
__global__ void __launch_bounds__(T, 1)
roll_backward_any(const O* __restrict__ grad, const W* __restrict__ weight,
                  const acc_t<W>* __restrict__ offsets, const acc_t<W>* __restrict__ scale,
                  const acc_t<W>* __restrict__ gates, W* __restrict__ grad_weight,
                  acc_t<W>* __restrict__ partials, acc_t<W>* __restrict__ dots, int batch,
                  int outputs, int inputs, int groups) {
  using A = acc_t<W>;
  constexpr int N = KZ * KY * KX;
  SHARED_ARRAY(Plan<A>, plan, 1);
  SHARED_ARRAY(A, slots, 4 * T / 32);
  const int group = blockIdx.y, width = inputs / groups, rows = outputs * width;
  const int e = blockIdx.x * T + threadIdx.x;
  const bool mine = e < rows * N;
  const size_t step = LAST ? inputs : 1;
  int u, tap;
  locate<N, LAST>(mine ? e : 0, rows, u, tap);
  const Row row = row_of<LAST>(u, group, width, inputs, N);
  const A w = widen(weight[row.start + tap * step]);
  A sum = A(0);
  for (int b = 0; b < batch; ++b) {
    const size_t at = static_cast<size_t>(b) * groups + group;
    __syncthreads();
    if (threadIdx.x == 0) plan[0] = make_plan<A, D, KZ, KY, KX>(offsets, scale, at);
    __syncthreads();
    A parts[4] = {};
    if (mine) {
      const O* from = grad + static_cast<size_t>(b) * outputs * inputs * N + row.start;
      const A value = gather<+1, KZ, KY, KX>(from, tap, step, plan[0], parts + 1);
      const A gate = gate_of(gates, b, inputs, row), factor = plan[0].scale * gate;
      if (dots) {
        const size_t term = (static_cast<size_t>(b) * outputs + row.pair / inputs) * N + tap;
        dots[term * inputs + row.input] = plan[0].scale * w * value;
      }
      parts[0] = gate * w * value;
      for (int axis = 1; axis < 4; ++axis) parts[axis] *= w * factor;
      sum += factor * value;
    }
    block_sum<T, 4>(parts, slots);
    if (threadIdx.x == 0)
      for (int i = 0; i < 4; ++i) partials[(at * gridDim.x + blockIdx.x) * 4 + i] = parts[i];
  }
  if (mine) narrow(sum, grad_weight[row.start + tap * step]);
}
