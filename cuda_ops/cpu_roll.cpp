// Rolled kernels of channels-last float weights, one for each sample.
//
//   weight (O, N, C)   kernels (B, O, N, C)   offsets (B, n, 3)   scale (B, n)
//
// N taps are three axes (z, y, x), where a weight of two has one tap along z. A roll by a fraction
// along one axis is a step between two whole ones, and along three axes one such step after the
// other: 3 N steps for a vector of channels, where the product with a matrix takes N N.
//
// Vectors hold 8 channels of one group, or 4; the last of a group may hold some of those before it
// again. Groups of fewer go channel by channel. Every sum has one order, whatever the threads: results
// repeat bit for bit.

#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu_vectors.h"

namespace {

constexpr int64_t MOST = 125;       // taps
constexpr int64_t ALONE = 100000;   // numbers that one thread makes before a second is woken

typedef float half __attribute__((vector_size(16)));
typedef float memory_half __attribute__((vector_size(16), aligned(4), may_alias));

template <typename V>
inline V get(const float* from) {
  if constexpr (sizeof(V) == sizeof(vec)) return load(from);
  else if constexpr (sizeof(V) == sizeof(half)) return *reinterpret_cast<const memory_half*>(from);
  else return *from;
}

inline void put(float* to, float v) { *to = v; }
inline void put(float* to, vec v) { store(to, v); }
inline void put(float* to, half v) { *reinterpret_cast<memory_half*>(to) = v; }

struct Roll {        // of one group of one sample, along each axis
  int64_t start[3];  // the tap from which the lower of the two whole rolls takes tap 0
  float share[3];    // of the upper one, which takes the tap before
  float scale;
};

Roll roll_of(const int64_t* sides, const float* offsets, float scale) {
  Roll roll;
  roll.scale = scale;
  for (int axis = 0; axis < 3; axis++) {
    const float lower = std::floor(offsets[axis]), side = static_cast<float>(sides[axis]);
    roll.share[axis] = offsets[axis] - lower;  // NaN of what is not finite, which then has no place
    const float rest = std::isfinite(lower) ? std::fmod(lower, side) : 0.0f;
    roll.start[axis] = (sides[axis] - static_cast<int64_t>(rest)) % sides[axis];
  }
  return roll;
}

// Roll (outer, side, inner) rows of `width` vectors along the second axis, times a factor; from one
// row to the next it is `step` numbers in `in`, and `out_step` in `out`.
template <int WIDTH, typename V>
inline void roll_along(int64_t outer, int64_t side, int64_t inner, int64_t start, float share,
                       float factor, const float* in, int64_t step, float* out, int64_t out_step) {
  constexpr int64_t lanes = sizeof(V) / sizeof(float);
  const float rest = 1.0f - share;
  for (int64_t o = 0; o < outer; o++, in += side * inner * step) {
    int64_t lower = start;
    for (int64_t j = 0; j < side; j++, lower = lower + 1 == side ? 0 : lower + 1) {
      const float* a = in + lower * inner * step;
      const float* b = in + (lower ? lower - 1 : side - 1) * inner * step;
      for (int64_t i = 0; i < inner; i++, a += step, b += step, out += out_step)
        for (int v = 0; v < WIDTH; v++) {
          // Of a whole roll the one is exact and the other adds 0.
          const V sum = get<V>(a + v * lanes) * rest + get<V>(b + v * lanes) * share;
          put(out + v * lanes, sum * factor);
        }
    }
  }
}

template <int WIDTH, typename V>
inline void roll_one(const int64_t* sides, int64_t channels, const Roll& roll, const float* weight,
                     float* kernel) {
  constexpr int64_t width = WIDTH * sizeof(V) / sizeof(float);
  const int64_t z = sides[0], y = sides[1], x = sides[2];
  alignas(32) float one[MOST * width], other[MOST * width];
  roll_along<WIDTH, V>(z * y, x, 1, roll.start[2], roll.share[2], 1, weight, channels, one, width);
  roll_along<WIDTH, V>(z, y, x, roll.start[1], roll.share[1], 1, one, width, other, width);
  roll_along<WIDTH, V>(1, z, y * x, roll.start[0], roll.share[0], roll.scale, other, width, kernel,
                       channels);
}

template <int WIDTH, typename V>
void roll_all(const int64_t* sides, int64_t batch, int64_t outputs, int64_t channels, int64_t groups,
              int64_t threads, const std::vector<Roll>& rolls, const float* weight, float* kernels) {
  constexpr int64_t together = WIDTH * sizeof(V) / sizeof(float);
  const int64_t row = sides[0] * sides[1] * sides[2] * channels, width = channels / groups;
  const int64_t most = std::min(threads, batch * outputs * row / ALONE);
#pragma omp parallel for schedule(static) num_threads(static_cast<int>(std::max<int64_t>(1, most)))
  for (int64_t o = 0; o < outputs; o++)
    for (int64_t g = 0; g < groups; g++)
      for (int64_t from = 0; from < width; from += together) {
        const int64_t c = g * width + std::min(from, width - together);
        for (int64_t b = 0; b < batch; b++)
          roll_one<WIDTH, V>(sides, channels, rolls[b * groups + g], weight + o * row + c,
                             kernels + (b * outputs + o) * row + c);
      }
}

}  // namespace

extern "C" {

// sides: of the three axes, MOST taps in all.
void roll_kernels(const int64_t* sides, int64_t batch, int64_t outputs, int64_t channels,
                  int64_t groups, int64_t threads, const float* weight, const float* offsets,
                  const float* scale, float* kernels) {
  std::vector<Roll> rolls;
  rolls.reserve(batch * groups);
  for (int64_t g = 0; g < batch * groups; g++)
    rolls.push_back(roll_of(sides, offsets + 3 * g, scale[g]));
  const int64_t width = channels / groups;
  const auto run = width % (4 * LANES) == 0 ? roll_all<4, vec>
                   : width % LANES == 0     ? roll_all<1, vec>
                   : width >= 4             ? roll_all<1, half>
                   : width == 3             ? roll_all<3, float>
                   : width == 2             ? roll_all<2, float>
                                            : roll_all<1, float>;
  run(sides, batch, outputs, channels, groups, threads, rolls, weight, kernels);
}

}  // extern "C"
