// The host-compiled kernels behind a C interface, launched as cuda_ops/kernels.py launches them.
#include "host_shim.h"
//
#include "roll_kernel.cu"

template <typename W, typename O, int D, int KZ, int KY, int KX, int T>
void forward(const void* weight, const void* offsets, const void* scale, void* out, int batch,
             int outputs, int inputs, int groups) {
  using A = acc_t<W>;
  constexpr int N = KZ * KY * KX;
  const int rows = outputs * inputs / groups * (N <= 27 ? 1 : N);
  host::launch({(rows + T - 1) / T, groups, batch}, T, [&] {
    const auto w = static_cast<const W*>(weight);
    const auto o = static_cast<const A*>(offsets), s = static_cast<const A*>(scale);
    if constexpr (N <= 27)
      roll_forward<W, O, D, KZ, KY, KX, T>(w, o, s, static_cast<O*>(out), outputs, inputs, groups);
    else
      roll_forward_any<W, O, D, KZ, KY, KX, T>(w, o, s, static_cast<O*>(out), outputs, inputs,
                                               groups);
  });
}

template <typename W, typename O, int D, int KZ, int KY, int KX, int T>
void backward(const void* grad, const void* weight, const void* offsets, const void* scale,
              void* grad_weight, void* grad_offsets, void* grad_scale, int batch, int outputs,
              int inputs, int groups) {
  using A = acc_t<W>;
  constexpr int N = KZ * KY * KX;
  const int rows = outputs * inputs / groups * (N <= 27 ? 1 : N), chunks = (rows + T - 1) / T;
  std::vector<A> partials(static_cast<size_t>(batch) * groups * chunks * 4);
  host::launch({chunks, groups, 1}, T, [&] {
    const auto g = static_cast<const O*>(grad);
    const auto w = static_cast<const W*>(weight);
    const auto o = static_cast<const A*>(offsets), s = static_cast<const A*>(scale);
    const auto gw = static_cast<W*>(grad_weight);
    if constexpr (N <= 27)
      roll_backward<W, O, D, KZ, KY, KX, T>(g, w, o, s, gw, partials.data(), batch, outputs,
                                            inputs, groups);
    else
      roll_backward_any<W, O, D, KZ, KY, KX, T>(g, w, o, s, gw, partials.data(), batch, outputs,
                                                inputs, groups);
  });
  host::launch({batch * groups, 1, 1}, 32, [&] {
    roll_finish<A, D>(partials.data(), static_cast<A*>(grad_offsets), static_cast<A*>(grad_scale),
                      chunks);
  });
}

extern "C" void reverse_threads(int flag) { host::reversed = flag; }

#define EXPORT(NAME, W, O, D, KZ, KY, KX, T)                                                    \
  extern "C" void forward_##NAME(const void* w, const void* o, const void* s, void* out, int b, \
                                 int co, int ci, int n) {                                       \
    forward<W, O, D, KZ, KY, KX, T>(w, o, s, out, b, co, ci, n);                                \
  }                                                                                             \
  extern "C" void backward_##NAME(const void* g, const void* w, const void* o, const void* s,   \
                                  void* gw, void* go, void* gs, int b, int co, int ci, int n) { \
    backward<W, O, D, KZ, KY, KX, T>(g, w, o, s, gw, go, gs, b, co, ci, n);                     \
  }

EXPORT(f64_33, double, double, 2, 1, 3, 3, 32)
EXPORT(f64_13, double, double, 2, 1, 1, 3, 32)
EXPORT(f64_42, double, double, 2, 1, 4, 2, 32)
EXPORT(f64_333, double, double, 3, 3, 3, 3, 32)
EXPORT(f64_133, double, double, 3, 1, 3, 3, 32)
EXPORT(f64_111, double, double, 3, 1, 1, 1, 32)
EXPORT(f64_235, double, double, 3, 2, 3, 5, 32)
EXPORT(f64_555, double, double, 3, 5, 5, 5, 64)
EXPORT(f32_33, float, float, 2, 1, 3, 3, 128)
EXPORT(f32_333, float, float, 3, 3, 3, 3, 128)
EXPORT(mix16_333, float, brain16, 3, 3, 3, 3, 32)
EXPORT(mixhalf_33, float, half16, 2, 1, 3, 3, 32)
EXPORT(bf16_333, brain16, brain16, 3, 3, 3, 3, 32)
EXPORT(f16_33, half16, half16, 2, 1, 3, 3, 32)
