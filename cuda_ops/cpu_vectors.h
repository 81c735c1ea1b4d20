// Vectors of 8 floats, as the sources of the CPU library share them.

#pragma once

#include <cstdint>

constexpr int LANES = 8;

typedef float vec __attribute__((vector_size(32)));
typedef float memory_vec __attribute__((vector_size(32), aligned(4), may_alias));
typedef int32_t lanes __attribute__((vector_size(32)));

inline vec load(const float* from) { return *reinterpret_cast<const memory_vec*>(from); }
inline void store(float* to, vec v) { *reinterpret_cast<memory_vec*>(to) = v; }
inline vec all(float s) { return vec{s, s, s, s, s, s, s, s}; }
