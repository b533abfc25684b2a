// The inner loop: direct sparse convolution of a register tile.
//
// For each output channel the tile's R x C vectors stay in registers while the loop walks the channel's entries: one
// broadcast value, then a multiply-add with an input vector from memory for each vector of the tile. Lanes are tiles of
// the map (layout.h), so that all loads are aligned and none of them knows of edges.
#pragma once
#include "isa.h"

#define GRANET_UNROLL _Pragma("GCC unroll 64")

namespace granet {
namespace {

// Keep an address in a register: indexed memory operands take two micro-operations.
template <class T>
inline __attribute__((always_inline)) T* in_register(T* p) {
  asm("" : "+r"(p));
  return p;
}

template <class V>
inline __attribute__((always_inline)) typename V::vec load(const char* p) {
  return *reinterpret_cast<const typename V::vec*>(p);
}

template <class V>
inline __attribute__((always_inline)) typename V::vec clamped(typename V::vec x, typename V::vec low, typename V::vec high) {
  x = x > low ? x : low;
  return x < high ? x : high;
}

// S: distance between columns of the input, in vectors. U: sets of sums, which a channel's entries go to in turn; a tile of
// few vectors would wait for its own sums otherwise.
template <class V, int R, int C, int S, int U>
void sparse_conv(const ConvTile& t) {
  using vec = typename V::vec;
  constexpr int T = R * C, width = V::lanes * 4;
  ptrdiff_t in_row[R];
  for (int r = 0; r < R; r++) in_row[r] = t.in_row[r];
  const Entry* entry = t.entries;
  const char* const in = t.in;

  auto add_products = [&](vec* sums, const Entry& e) __attribute__((always_inline)) {
    const char* p = in_register(in + e.offset);
    vec weight = V::broadcast(e.value);
    GRANET_UNROLL
    for (int r = 0; r < R; r++) {
      const char* q = r ? in_register(p + in_row[r]) : p;
      GRANET_UNROLL
      for (int c = 0; c < C; c++) sums[r * C + c] += weight * load<V>(q + c * S * width);
    }
  };

  for (int i = 0; i < t.n; i++) {
    const int channel = t.channels[i];
    char* out = t.out + channel * t.out_channel;
    vec sums[U][T];
    if (t.first) {
      vec bias = V::broadcast(t.bias[channel]);
      GRANET_UNROLL
      for (int k = 0; k < T; k++) sums[0][k] = bias;
      if (t.residual) {
        const char* residual = t.residual + channel * t.residual_channel;
        GRANET_UNROLL
        for (int k = 0; k < T; k++) sums[0][k] += load<V>(residual + t.residual_row[k / C] + k % C * width);
      }
    } else {
      GRANET_UNROLL
      for (int k = 0; k < T; k++) sums[0][k] = load<V>(out + t.out_row[k / C] + k % C * width);
    }
    GRANET_UNROLL
    for (int k = T; k < U * T; k++) sums[k / T][k % T] = vec{};

    if (t.far && i + 1 < t.n) {  // fetch the next channel's output, and with it a residual that it takes the place of
      const char* next = t.out + t.channels[i + 1] * t.out_channel;
      GRANET_UNROLL
      for (int k = 0; k < T; k++) __builtin_prefetch(next + t.out_row[k / C] + k % C * width, 1);
    }

    const Entry* const end = entry + t.counts[i];
    if (U > 1)
      for (; end - entry >= U; entry += U) {
        GRANET_UNROLL
        for (int u = 0; u < U; u++) add_products(sums[u], entry[u]);
      }
    for (; entry < end; entry++) add_products(sums[0], *entry);

    GRANET_UNROLL
    for (int k = T; k < U * T; k++) sums[0][k % T] += sums[k / T][k % T];
    if (t.last) {
      if (t.clamp) {
        vec low = V::broadcast(t.low), high = V::broadcast(t.high);
        GRANET_UNROLL
        for (int k = 0; k < T; k++) sums[0][k] = clamped<V>(sums[0][k], low, high);
      }
      if (t.mask) {
        GRANET_UNROLL
        for (int k = 0; k < T; k++)
          sums[0][k] = (vec)((typename V::ivec)sums[0][k] & *reinterpret_cast<const typename V::ivec*>(t.mask + t.mask_row[k / C] + k % C * width));
      }
    }
    GRANET_UNROLL
    for (int k = 0; k < T; k++) *reinterpret_cast<vec*>(out + t.out_row[k / C] + k % C * width) = sums[0][k];
  }
}

template <class V, int R, int C, int U>
ConvFunction with_stride(int stride) {
  if constexpr (R * C * U <= V::most_vectors) {
    if (C == 1 || stride == 1) return sparse_conv<V, R, C, 1, U>;
    if (stride == 2) return sparse_conv<V, R, C, (C > 1 ? 2 : 1), U>;
  }
  return nullptr;
}

// The compiled tile of this size, or null.
template <class V>
ConvFunction find_conv(int rows, int columns, int stride, int sums) {
#define GRANET_TILE(R, C) \
  if (rows == R && columns == C) return sums == 1 ? with_stride<V, R, C, 1>(stride) : sums == 2 ? with_stride<V, R, C, 2>(stride) : with_stride<V, R, C, 4>(stride);
  GRANET_TILE(1, 1) GRANET_TILE(2, 1) GRANET_TILE(3, 1) GRANET_TILE(4, 1) GRANET_TILE(5, 1) GRANET_TILE(6, 1) GRANET_TILE(7, 1) GRANET_TILE(8, 1)
  GRANET_TILE(1, 2) GRANET_TILE(2, 2) GRANET_TILE(3, 2) GRANET_TILE(4, 2) GRANET_TILE(5, 2) GRANET_TILE(6, 2) GRANET_TILE(7, 2) GRANET_TILE(8, 2)
  GRANET_TILE(1, 3) GRANET_TILE(2, 3) GRANET_TILE(3, 3) GRANET_TILE(4, 3)
  GRANET_TILE(1, 4) GRANET_TILE(2, 4) GRANET_TILE(3, 4) GRANET_TILE(4, 4)
  GRANET_TILE(1, 5) GRANET_TILE(2, 5) GRANET_TILE(1, 6) GRANET_TILE(2, 6)
  GRANET_TILE(1, 7) GRANET_TILE(2, 7) GRANET_TILE(3, 7) GRANET_TILE(4, 7)
  GRANET_TILE(1, 8) GRANET_TILE(2, 8) GRANET_TILE(3, 8)
  GRANET_TILE(1, 10) GRANET_TILE(1, 12) GRANET_TILE(1, 14) GRANET_TILE(2, 14)
#undef GRANET_TILE
  return nullptr;
}

}  // namespace
}  // namespace granet
