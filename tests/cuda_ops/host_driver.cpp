// The host-compiled kernels by the names under which cuda_ops/cuda.py asks CuPy for them.
#include <map>
#include <string>

#include "host_shim.h"
//
#include "roll_kernel.cu"

struct Entry {
  int threads;
  void (*run)(void** pointers, const int* numbers);
};
using Table = std::map<std::string, Entry>;

template <typename W, typename O, int D, int KZ, int KY, int KX, bool LAST, int T>
void forward(void** p, const int* n) {
  using A = acc_t<W>;
  const auto w = static_cast<const W*>(p[0]);
  const auto o = static_cast<const A*>(p[1]), s = static_cast<const A*>(p[2]);
  const auto gates = static_cast<const A*>(p[3]);
  const auto out = static_cast<O*>(p[4]);
  if constexpr (KZ * KY * KX <= 27)
    roll_forward<W, O, D, KZ, KY, KX, LAST, T>(w, o, s, gates, out, n[0], n[1], n[2]);
  else
    roll_forward_any<W, O, D, KZ, KY, KX, LAST, T>(w, o, s, gates, out, n[0], n[1], n[2]);
}

template <typename W, typename O, int D, int KZ, int KY, int KX, bool LAST, int T>
void backward(void** p, const int* n) {
  using A = acc_t<W>;
  const auto g = static_cast<const O*>(p[0]);
  const auto w = static_cast<const W*>(p[1]);
  const auto o = static_cast<const A*>(p[2]), s = static_cast<const A*>(p[3]);
  const auto gates = static_cast<const A*>(p[4]);
  const auto to = static_cast<W*>(p[5]);
  const auto sums = static_cast<A*>(p[6]), dots = static_cast<A*>(p[7]);
  if constexpr (KZ * KY * KX <= 27)
    roll_backward<W, O, D, KZ, KY, KX, LAST, T>(g, w, o, s, gates, to, sums, dots, n[0], n[1], n[2],
                                                n[3]);
  else
    roll_backward_any<W, O, D, KZ, KY, KX, LAST, T>(g, w, o, s, gates, to, sums, dots, n[0], n[1],
                                                    n[2], n[3]);
}

template <typename A, int D> void finish(void** p, const int* n) {
  roll_finish<A, D>(static_cast<const A*>(p[0]), static_cast<const A*>(p[1]),
                    static_cast<A*>(p[2]), static_cast<A*>(p[3]), static_cast<A*>(p[4]), n[0], n[1],
                    n[2], n[3]);
}

template <typename W, typename O, int D, int KZ, int KY, int KX, bool LAST, int T>
void add(Table& table, const std::string& kinds) {
  const std::string end = (KZ * KY * KX <= 27 ? "<" : "_any<") + kinds + ">";
  table["roll_forward" + end] = {T, forward<W, O, D, KZ, KY, KX, LAST, T>};
  table["roll_backward" + end] = {T, backward<W, O, D, KZ, KY, KX, LAST, T>};
}

#define ADD(...) add<__VA_ARGS__>(table, #__VA_ARGS__)
#define BOTH(W, O, D, KZ, KY, KX, T)       \
  ADD(W, O, D, KZ, KY, KX, false, T);      \
  ADD(W, O, D, KZ, KY, KX, true, T)

Table make_table() {
  Table table;
  BOTH(float, float, 2, 1, 3, 3, 128);
  table["roll_finish<float, 2>"] = {32, finish<float, 2>};
#ifndef ONE_INSTANCE
  BOTH(double, double, 2, 1, 3, 3, 32);
  BOTH(double, double, 2, 1, 1, 3, 32);
  BOTH(double, double, 2, 1, 4, 2, 32);
  BOTH(double, double, 3, 3, 3, 3, 32);
  BOTH(double, double, 3, 1, 3, 3, 32);
  BOTH(double, double, 3, 1, 1, 1, 32);
  BOTH(double, double, 3, 2, 3, 5, 32);
  BOTH(double, double, 3, 5, 5, 5, 64);
  BOTH(float, float, 3, 3, 3, 3, 128);
  BOTH(float, brain16, 3, 3, 3, 3, 32);
  BOTH(float, half16, 2, 1, 3, 3, 32);
  BOTH(brain16, brain16, 3, 3, 3, 3, 32);
  BOTH(half16, half16, 2, 1, 3, 3, 32);
  table["roll_finish<float, 3>"] = {32, finish<float, 3>};
  table["roll_finish<double, 2>"] = {32, finish<double, 2>};
  table["roll_finish<double, 3>"] = {32, finish<double, 3>};
#endif
  return table;
}

extern "C" void reverse_threads(int flag) { host::reversed = flag; }

// Launches the instance `name`; 1 when there is none, 2 when it has another number of threads.
extern "C" int launch(const char* name, int x, int y, int z, int threads, void** pointers,
                      const int* numbers) {
  static const Table table = make_table();
  const auto found = table.find(name);
  if (found == table.end()) return 1;
  if (found->second.threads != threads) return 2;
  host::launch({x, y, z}, threads, [&] { found->second.run(pointers, numbers); });
  return 0;
}
