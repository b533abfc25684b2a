// Sums, activations, factors, and moves of whole vectors.
#pragma once
#include "sparse_conv.h"

namespace granet {
namespace {

// exp for x <= 88; below -87 it is that of -87, which is 0 for all uses here. Relative error 2e-7.
template <class V>
typename V::vec exponential(typename V::vec x) {
  using vec = typename V::vec;
  x = clamped<V>(x, V::broadcast(-87.0f), V::broadcast(88.0f));
  vec power = x * V::broadcast(1.44269504f);
  typename V::ivec whole = __builtin_convertvector(power + (power > V::broadcast(0.0f) ? V::broadcast(0.5f) : V::broadcast(-0.5f)), typename V::ivec);
  vec n = __builtin_convertvector(whole, vec);
  vec r = x - n * V::broadcast(0.693145751953125f) - n * V::broadcast(1.42860677e-6f);
  vec p = V::broadcast(1.0f / 720);
  const float coefficients[] = {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
  for (float coefficient : coefficients) p = p * r + V::broadcast(coefficient);
  return p * (vec)((whole + 127) << 23);
}

template <class V>
void activate(const Rows& t, int kind, float low, float high) {
  using vec = typename V::vec;
  const vec zero = V::broadcast(0.0f), one = V::broadcast(1.0f), lows = V::broadcast(low), highs = V::broadcast(high);
  for (int r = 0; r < t.rows; r++) {
    const float* a = t.a + r * t.a_row;
    float* out = t.out + r * t.out_row;
    for (int i = 0; i < t.floats; i += V::lanes) {
      vec x = *(const vec*)(a + i);
      switch (kind) {  // numbers of island.h
        case 1: x = x > zero ? x : zero; break;
        case 2: x = clamped<V>(x, lows, highs); break;
        case 3: x = x / (one + exponential<V>(-x)); break;
        case 4: x = x * clamped<V>(x * V::broadcast(1.0f / 6) + V::broadcast(0.5f), zero, one); break;
        case 5: x = one / (one + exponential<V>(-x)); break;
        case 6: x = clamped<V>(x * lows + highs, zero, one); break;
        default: break;
      }
      *(vec*)(out + i) = x;
    }
  }
}

template <class V>
void add(const Rows& t) {
  using vec = typename V::vec;
  for (int r = 0; r < t.rows; r++)
    for (int i = 0; i < t.floats; i += V::lanes)
      *(vec*)(t.out + r * t.out_row + i) = *(const vec*)(t.a + r * t.a_row + i) + *(const vec*)(t.b + r * t.b_row + i);
}

template <class V>
void scale(const Rows& t, float factor) {
  using vec = typename V::vec;
  const vec factors = V::broadcast(factor);
  for (int r = 0; r < t.rows; r++)
    for (int i = 0; i < t.floats; i += V::lanes) *(vec*)(t.out + r * t.out_row + i) = *(const vec*)(t.a + r * t.a_row + i) * factors;
}

template <class V>
float sum(const Rows& t) {
  using vec = typename V::vec;
  vec sums = {};
  for (int r = 0; r < t.rows; r++)
    for (int i = 0; i < t.floats; i += V::lanes) sums += *(const vec*)(t.a + r * t.a_row + i);
  float total = 0;
  for (int l = 0; l < V::lanes; l++) total += sums[l];
  return total;
}

template <class V>
void gather(const float* in, ptrdiff_t in_channel, float* out, ptrdiff_t out_channel, int channels, const int32_t* index, int count, float fill) {
  using vec = typename V::vec;
  const int whole = count / V::lanes * V::lanes;
  for (int channel = 0; channel < channels; channel++, in += in_channel, out += out_channel) {
    for (int i = 0; i < whole; i += V::lanes) {
      vec found = V::gather(in, index + i, fill);
      __builtin_memcpy(out + i, &found, sizeof found);  // the output of a node may not be aligned
    }
    for (int i = whole; i < count; i++) out[i] = index[i] < 0 ? fill : in[index[i]];
  }
}

template <class V>
void move(const float* in, ptrdiff_t in_channel, float* out, ptrdiff_t out_channel, int channels, const Move* moves, int count, const int32_t* permutations) {
  using vec = typename V::vec;
  for (int c = 0; c < channels; c++, in += in_channel, out += out_channel)
    for (int i = 0; i < count; i++) {
      const int32_t* lanes = permutations + moves[i].permutation * 2 * V::lanes;  // indices, then a mask
      vec moved = V::permute(*(const vec*)(in + moves[i].from * V::lanes), lanes);
      *(vec*)(out + moves[i].to * V::lanes) = (vec)((typename V::ivec)moved & *(const typename V::ivec*)(lanes + V::lanes));
    }
}

}  // namespace
}  // namespace granet
