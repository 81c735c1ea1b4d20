// Convolutions of channels-last float volumes on the CPU, grouped, with a kernel for each sample.
//
//   x (B, D, H, W, C)   y (B, D', H', W', O)   weight (B or 1, O, C / groups, K, R, 3)
//
// Stride 1 or 2 along all axes, D' = ceil(D / stride), and half a kernel of padding: K and R, its
// sides along z and y, are 1 or 3, that along x is 3. An input channel may have a gate, a factor of
// the kernel (B, C).
//
// Vectors hold 8 output channels. A tile is some voxels of a line along x, whose sums stay in
// registers; it meets, for every (z, y) of the kernel, a line of the input:
//
//   Wide    two vectors of outputs, one tap and one input channel after the other
//   Thin    one vector; an input is spread once and meets all three taps, as three voxels' neighbour
//           (at stride 2 only its own voxel's)
//
// Groups of 1, 2 or 4 channels lie side by side in one vector, so there an input is spread within
// its own group. Groups must otherwise have multiples of 8 channels. A line's end is known at
// compile time or costs one branch: nothing is padded, and nothing outside a line is read.
//
// Every number has one writer and every sum one order, whatever the threads: results repeat bit for
// bit. Compiled at run time for the processor it runs on (cpu_library.py), without fast-math.

#include <algorithm>
#include <cstring>

#include "cpu_vectors.h"

namespace {

constexpr int TAPS = 3;
constexpr int WIDE = 6, THIN = 10;   // voxels of a tile
constexpr int64_t BAND = 4;          // lines that meet the same weights one after the other
constexpr int64_t NEAR = 6000;       // floats that stay in the first cache, for the gradient
constexpr int64_t ALONE = 400000;    // products that one thread makes before a second is woken

// Input channel I of a group to all lanes of the group's outputs; WIDTH 0 is one group of them all.
template <int WIDTH, int I>
inline vec spread(const float* x) {
  if constexpr (WIDTH == 0) {
    return all(x[I]);
  } else if constexpr (WIDTH == 1) {
    return load(x);
  } else {
    constexpr int W = WIDTH;
    return __builtin_shuffle(load(x), lanes{I, 1 / W * W + I, 2 / W * W + I, 3 / W * W + I,
                                            4 / W * W + I, 5 / W * W + I, 6 / W * W + I, 7 / W * W + I});
  }
}

struct Shape {  // as cpu_conv.py hands it over
  int64_t batch, depth, height, width, inputs, outputs, groups, deep, high;
  // Strides of the weight: sample (0: one for all), output, input, tap. The taps are one axis.
  int64_t by_sample, by_output, by_input, by_tap;
  int64_t transposed;  // convolve with the gradient's kernel: outputs and inputs of weight swapped
  int64_t stride;      // 1 or 2; not of a transposed one
  int64_t threads;

  int64_t in_group() const { return inputs / groups; }
  int64_t out_group() const { return outputs / groups; }
  bool thin() const { return out_group() < LANES; }
  // Of a tile. Lines of 7 to 9 voxels are one tile of one vector, but two of two.
  int vectors() const {
    const int64_t line = after(width);
    const bool one = thin() || out_group() % (2 * LANES) || (line > WIDE && line < THIN);
    return one ? 1 : 2;
  }
  int64_t taps() const { return deep * high * TAPS; }
  int64_t after(int64_t side) const { return (side + stride - 1) / stride; }
  int64_t voxels() const { return after(depth) * after(height) * after(width); }
  int team() const {
    int64_t products = batch * voxels() * taps() * in_group() * outputs;
    return static_cast<int>(std::max<int64_t>(1, std::min(threads, products / ALONE)));
  }
  // The first input channel that output o's vector meets.
  int64_t input_of(int64_t o) const { return thin() ? o : o / out_group() * in_group(); }
};

// ---- The weight as the tiles read it: (samples, vectors, K, R, 3, C / groups, lanes) ----

// Call with every lane of a vector, input and tap, in the order in which a weight is together in
// memory, some inputs at a time: those stay in the first cache.
template <typename Each>
void in_order(const Shape& n, int64_t lanes, Each each) {
  constexpr int64_t some = 16;
  const int64_t taps = n.taps(), ci = n.in_group();
  const bool taps_first = n.by_tap <= std::min(n.by_input, n.by_output);
  const bool inputs_first = n.transposed ? n.by_output < n.by_input : n.by_input < n.by_output;
  for (int64_t from = 0; from < ci; from += some) {
    const int64_t to = std::min(ci, from + some);
    if (taps_first) {
      for (int64_t lane = 0; lane < lanes; lane++)
        for (int64_t i = from; i < to; i++)
          for (int64_t tap = 0; tap < taps; tap++) each(lane, i, tap);
    } else {
      for (int64_t tap = 0; tap < taps; tap++)
        if (inputs_first) {
          for (int64_t lane = 0; lane < lanes; lane++)
            for (int64_t i = from; i < to; i++) each(lane, i, tap);
        } else {
          for (int64_t i = from; i < to; i++)
            for (int64_t lane = 0; lane < lanes; lane++) each(lane, i, tap);
        }
    }
  }
}

void pack(const Shape& n, const float* weight, const float* gates, float* packed) {
  const int64_t ci = n.in_group(), co = n.out_group(), taps = n.taps();
  const int64_t lanes = n.vectors() * LANES, samples = gates || n.by_sample ? n.batch : 1;
  for (int64_t b = 0; b < samples; b++)
    for (int64_t o = 0; o < n.outputs; o += lanes, packed += taps * ci * lanes) {
      const float* own = weight + b * n.by_sample;
      in_order(n, lanes, [=](int64_t lane, int64_t i, int64_t tap) {
        const int64_t out = o + lane, group = out / co;
        // A weight's first axis counts outputs over all groups, its second inputs within one.
        const int64_t place = n.transposed
                                  ? (group * ci + i) * n.by_output + out % co * n.by_input +
                                        (taps - 1 - tap) * n.by_tap
                                  : out * n.by_output + i * n.by_input + tap * n.by_tap;
        const float gate = !gates         ? 1.0f
                           : n.transposed ? gates[b * n.outputs + out]
                                          : gates[b * n.inputs + group * ci + i];
        packed[(tap * ci + i) * lanes + lane] = own[place] * gate;
      });
    }
}

void unpack(const Shape& n, const float* packed, float* weight) {
  const int64_t ci = n.in_group();
  for (int64_t b = 0; b < (n.by_sample ? n.batch : 1); b++)
    for (int64_t o = 0; o < n.outputs; o += LANES, packed += n.taps() * ci * LANES) {
      float* own = weight + b * n.by_sample + o * n.by_output;
      in_order(n, LANES, [=](int64_t lane, int64_t i, int64_t tap) {
        own[lane * n.by_output + i * n.by_input + tap * n.by_tap] =
            packed[(tap * ci + i) * LANES + lane];
      });
    }
}

// ---- Tiles ----

// Of each input line: where the tile's first voxel stands, and the weights that meet the line.
struct Lines {
  int count;
  const float* x[9];
  const float* weight[9];
  bool starts, ends;  // whether the tile begins or ends its line, beyond which are zeros
  int64_t channels;   // of the input, from voxel to voxel
  int64_t step;       // from what a voxel meets to what the next one meets
  int64_t ci;
};

template <int FIRST, int LAST, int T>
inline void meet(vec (&sums)[T][2], const float* x, int64_t step, const float* weight, int64_t ci) {
  for (int64_t i = 0; i < ci; i++, weight += 2 * LANES) {
    vec w0 = load(weight), w1 = load(weight + LANES);
#pragma GCC unroll 6
    for (int t = FIRST; t < LAST; t++) {
      vec s = spread<0, 0>(x + t * step + i);
      sums[t][0] += s * w0;
      sums[t][1] += s * w1;
    }
  }
}

template <int T>
void wide(const Lines& in, const float* bias, float* y, int64_t step) {
  vec sums[T][2];
#pragma GCC unroll 6
  for (int t = 0; t < T; t++) {
    sums[t][0] = bias ? load(bias) : vec{};
    sums[t][1] = bias ? load(bias + LANES) : vec{};
  }
  const int64_t next = in.channels, by = in.step, taps = in.ci * 2 * LANES;
  for (int line = 0; line < in.count; line++) {
    const float *x = in.x[line], *w = in.weight[line];
    if (in.starts) meet<1, T>(sums, x - next, by, w, in.ci);
    else meet<0, T>(sums, x - next, by, w, in.ci);
    meet<0, T>(sums, x, by, w + taps, in.ci);
    if (in.ends) meet<0, T - 1>(sums, x + next, by, w + 2 * taps, in.ci);
    else meet<0, T>(sums, x + next, by, w + 2 * taps, in.ci);
  }
#pragma GCC unroll 6
  for (int t = 0; t < T; t++) {
    store(y + t * step, sums[t][0]);
    store(y + t * step + LANES, sums[t][1]);
  }
}

template <int T, int WIDTH, int I>
inline void hop(vec (&sums)[T], const Lines& in, const float* x, const float* w, int64_t tap) {
  const vec w0 = load(w), w1 = load(w + tap), w2 = load(w + 2 * tap);
  const int64_t next = in.channels;
#pragma GCC unroll 10
  for (int t = 0; t < T; t++, x += in.step) {
    if (t > 0 || !in.starts) sums[t] += spread<WIDTH, I>(x - next) * w0;
    sums[t] += spread<WIDTH, I>(x) * w1;
    if (t < T - 1 || !in.ends) sums[t] += spread<WIDTH, I>(x + next) * w2;
  }
  asm volatile("" ::: "memory");
}

template <int T, int WIDTH, int I>
inline void slide(vec (&sums)[T], const Lines& in, const float* x, const float* w, int64_t tap) {
  vec w0 = load(w), w1 = load(w + tap), w2 = load(w + 2 * tap);
#pragma GCC unroll 12
  for (int q = -1; q <= T; q++) {
    if ((q == -1 && in.starts) || (q == T && in.ends)) continue;
    vec s = spread<WIDTH, I>(x + q * in.channels);
    if (q + 1 < T) sums[q + 1] += s * w0;
    if (q >= 0 && q < T) sums[q] += s * w1;
    if (q >= 1) sums[q - 1] += s * w2;
  }
  asm volatile("" ::: "memory");  // else the next call's loads come first, and the sums leave registers
}

template <int T, int WIDTH, int I, bool HOPS>
inline void along(vec (&sums)[T], const Lines& in, const float* x, const float* w, int64_t tap) {
  if constexpr (HOPS) hop<T, WIDTH, I>(sums, in, x, w, tap);
  else slide<T, WIDTH, I>(sums, in, x, w, tap);
}

template <int T, int WIDTH, bool HOPS>
void thin(const Lines& in, const float* bias, float* y, int64_t step) {
  vec sums[T];
#pragma GCC unroll 10
  for (int t = 0; t < T; t++) sums[t] = bias ? load(bias) : vec{};
  const int64_t tap = in.ci * LANES;
  for (int line = 0; line < in.count; line++) {
    const float *x = in.x[line], *w = in.weight[line];
    if constexpr (WIDTH == 0) {
      for (int64_t i = 0; i < in.ci; i++)
        along<T, 0, 0, HOPS>(sums, in, x + i, w + i * LANES, tap);
    } else {
      along<T, WIDTH, 0, HOPS>(sums, in, x, w, tap);
      if constexpr (WIDTH > 1) along<T, WIDTH, 1, HOPS>(sums, in, x, w + LANES, tap);
      if constexpr (WIDTH > 2) {
        along<T, WIDTH, 2, HOPS>(sums, in, x, w + 2 * LANES, tap);
        along<T, WIDTH, 3, HOPS>(sums, in, x, w + 3 * LANES, tap);
      }
    }
  }
#pragma GCC unroll 10
  for (int t = 0; t < T; t++) store(y + t * step, sums[t]);
}

using Tile = void (*)(const Lines&, const float*, float*, int64_t);
#define THINS(W, HOPS)                                                                  \
  {thin<1, W, HOPS>, thin<2, W, HOPS>, thin<3, W, HOPS>, thin<4, W, HOPS>, thin<5, W, HOPS>, \
   thin<6, W, HOPS>, thin<7, W, HOPS>, thin<8, W, HOPS>, thin<9, W, HOPS>, thin<10, W, HOPS>}
const Tile WIDES[WIDE] = {wide<1>, wide<2>, wide<3>, wide<4>, wide<5>, wide<6>};
const Tile ALL_THIN[2][4][THIN] = {
    {THINS(1, false), THINS(2, false), THINS(4, false), THINS(0, false)},
    {THINS(1, true), THINS(2, true), THINS(4, true), THINS(0, true)}};

// ---- The gradient of the kernel ----

using Sums = vec[TAPS][4];

// Of input I, the taps from FIRST to LAST: the first meets the voxel after, the last the one before.
template <int WIDTH, int I, int FIRST, int LAST>
inline void add(Sums& sums, const float* x, vec before, vec here, vec after) {
  vec s = spread<WIDTH, I>(x);
  if (FIRST == 0) sums[0][I] += s * after;
  if (FIRST <= 1 && LAST >= 1) sums[1][I] += s * here;
  if (LAST == 2) sums[2][I] += s * before;
}

template <int WIDTH, int FIRST, int LAST>
inline void add_all(Sums& sums, const float* x, vec before, vec here, vec after) {
  add<WIDTH, 0, FIRST, LAST>(sums, x, before, here, after);
  if constexpr (WIDTH != 1) add<WIDTH, 1, FIRST, LAST>(sums, x, before, here, after);
  if constexpr (WIDTH == 0 || WIDTH == 4) {
    add<WIDTH, 2, FIRST, LAST>(sums, x, before, here, after);
    add<WIDTH, 3, FIRST, LAST>(sums, x, before, here, after);
  }
}

// One line of the input with one of the result's gradient: 3 taps x 4 inputs x 8 outputs.
template <int WIDTH>
inline void add_line(Sums& sums, const float* x, const float* grad, const Shape& n) {
  const int64_t last = n.after(n.width) - 1, next = n.inputs;
  vec before = {}, here = load(grad), after = {};
  if (n.stride == 2) {
    for (int64_t q = 0; q <= last; q++, x += 2 * next) {
      add_all<WIDTH, 1, 1>(sums, x, before, here, after);
      if (2 * q + 1 < n.width) add_all<WIDTH, 2, 2>(sums, x + next, here, here, after);
      if (q == last) return;
      here = load(grad += n.outputs);
      add_all<WIDTH, 0, 0>(sums, x + next, before, here, here);
    }
    return;
  }
  if (last == 0) return add_all<WIDTH, 1, 1>(sums, x, before, here, after);
  after = load(grad += n.outputs);
  add_all<WIDTH, 0, 1>(sums, x, before, here, after);
  for (int64_t q = 1; q < last; q++) {
    before = here;
    here = after;
    after = load(grad += n.outputs);
    add_all<WIDTH, 0, 2>(sums, x += next, before, here, after);
  }
  add_all<WIDTH, 1, 2>(sums, x + next, here, after, after);
}

// packed: as of the weight above, zeros at first
template <int WIDTH>
void gradient(const Shape& n, const float* x, const float* grad, float* packed) {
  constexpr int64_t some = WIDTH ? WIDTH : 4;
  const int64_t parts = n.in_group() / some, items = n.outputs / LANES * parts * n.high;
  const int64_t tap_step = n.in_group() * LANES, plane = n.height * n.width;
  const int64_t depth = n.after(n.depth), height = n.after(n.height), width = n.after(n.width);
  const int64_t near = NEAR / (n.stride * n.width * n.inputs + width * n.outputs);
  const int64_t rows = std::max<int64_t>(1, std::min(height, near));
  const int team = n.team();
#pragma omp parallel for schedule(static, 1) num_threads(team)
  for (int member = 0; member < team; member++) {
    const int64_t from = items * member / team, to = items * (member + 1) / team;
    for (int64_t b = 0; b < n.batch; b++)
      for (int64_t z = 0; z < depth; z++)
        for (int64_t top = 0; top < height; top += rows)
          for (int64_t deep = 0; deep < n.deep; deep++) {
            const int64_t met = z * n.stride + deep - n.deep / 2, end = std::min(height, top + rows);
            if (met < 0 || met >= n.depth) continue;
            const float* planes = x + (b * n.depth + met) * plane * n.inputs;
            const float* slopes = grad + (b * depth + z) * height * width * n.outputs;
            for (int64_t item = from; item < to; item++) {
              const int64_t high = item % n.high, part = item / n.high % parts;
              const int64_t vector = item / n.high / parts, o = vector * LANES;
              const int64_t input = WIDTH ? o : n.input_of(o) + part * some;
              Sums sums = {};
              for (int64_t row = top; row < end; row++) {
                const int64_t other = row * n.stride + high - n.high / 2;
                if (other < 0 || other >= n.height) continue;
                add_line<WIDTH>(sums, planes + other * n.width * n.inputs + input,
                                slopes + row * width * n.outputs + o, n);
              }
              const int64_t sample = n.by_sample ? b * n.outputs / LANES : 0;
              const int64_t line = ((sample + vector) * n.deep + deep) * n.high + high;
              float* found = packed + line * TAPS * tap_step + part * some * LANES;
#pragma GCC unroll 3
              for (int tap = 0; tap < TAPS; tap++)
#pragma GCC unroll 4
                for (int i = 0; i < some; i++) {
                  float* to_add = found + tap * tap_step + i * LANES;
                  store(to_add, load(to_add) + sums[tap][i]);
                }
            }
          }
  }
}

}  // namespace

extern "C" {

// packed: room for the weights of one sample, or of all where they differ or have gates.
void convolve(const Shape* shape, const float* x, const float* weight, const float* gates,
              const float* bias, float* packed, float* y) {
  const Shape& n = *shape;
  pack(n, weight, gates, packed);
  const int64_t lanes = n.vectors() * LANES, most = n.vectors() == 2 ? WIDE : THIN;
  const int64_t entries = TAPS * n.in_group() * lanes, vector = entries * n.deep * n.high;
  const int64_t sample = gates || n.by_sample ? n.outputs / lanes * vector : 0;
  const int64_t depth = n.after(n.depth), height = n.after(n.height), width = n.after(n.width);
  const int64_t bands = (height + BAND - 1) / BAND, tiles = (width + most - 1) / most;
  const int kind = n.thin() ? static_cast<int>(n.out_group() / 2) : 3;
  const Tile* tile_of = n.vectors() == 2 ? WIDES : ALL_THIN[n.stride - 1][kind];
#pragma omp parallel for schedule(static) num_threads(n.team())
  for (int64_t unit = 0; unit < n.batch * depth * bands; unit++) {
    const int64_t band = unit % bands, z = unit / bands % depth, b = unit / bands / depth;
    const int64_t top = height * band / bands, end = height * (band + 1) / bands;
    for (int64_t o = 0; o < n.outputs; o += lanes)
      for (int64_t row = top; row < end; row++) {
        Lines in;
        const float* met[9];
        in.count = 0, in.channels = n.inputs, in.step = n.stride * n.inputs, in.ci = n.in_group();
        for (int64_t deep = 0; deep < n.deep; deep++)
          for (int64_t high = 0; high < n.high; high++) {
            const int64_t down = z * n.stride + deep - n.deep / 2;
            const int64_t along = row * n.stride + high - n.high / 2;
            if (down < 0 || down >= n.depth || along < 0 || along >= n.height) continue;
            const int64_t line = (b * n.depth + down) * n.height + along;
            met[in.count] = x + line * n.width * n.inputs + n.input_of(o);
            const int64_t place = o / lanes * vector + (deep * n.high + high) * entries;
            in.weight[in.count++] = packed + b * sample + place;
          }
        float* line = y + ((b * depth + z) * height + row) * width * n.outputs + o;
        for (int64_t tile = 0; tile < tiles; tile++) {
          const int64_t from = width * tile / tiles, to = width * (tile + 1) / tiles;
          for (int i = 0; i < in.count; i++) in.x[i] = met[i] + from * in.step;
          // Beyond the line's end lies only what the last tap of its last voxel would meet.
          in.starts = from == 0, in.ends = (to - 1) * n.stride + 1 >= n.width;
          tile_of[to - from - 1](in, bias ? bias + o : nullptr, line + from * n.outputs, n.outputs);
        }
      }
  }
}

// Into weight goes the gradient of the kernel of each sample, or of all (by_sample 0), of which
// there are as many in packed. x and grad as x and y above; gates are the caller's.
void kernel_gradient(const Shape* shape, const float* x, const float* grad, float* packed,
                     float* weight) {
  const Shape& n = *shape;
  const int64_t samples = n.by_sample ? n.batch : 1;
  memset(packed, 0, sizeof(float) * samples * n.outputs * n.in_group() * n.taps());
  const int64_t width = n.thin() ? n.out_group() : 0;
  (width == 0 ? gradient<0> : width == 4 ? gradient<4> : width == 2 ? gradient<2> : gradient<1>)(
      n, x, grad, packed);
  unpack(n, packed, weight);
}

}  // extern "C"
