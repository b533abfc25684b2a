// Pooling: a window over vectors, in which every lane is a tile of the map.
#pragma once
#include "sparse_conv.h"

namespace granet {
namespace {

template <class V, bool average>
void pool(const PoolRows& t) {
  using vec = typename V::vec;
  for (int r = 0; r < t.rows; r++)
    for (int c = 0; c < t.columns; c++) {
      const float* in = t.in + (r * t.in_row + c * t.in_column) * V::lanes;
      const int at = (r * t.columns + c) * V::lanes;
      vec result = *(const vec*)(in + t.taps[0] * V::lanes);
      for (int k = 1; k < t.n_taps; k++) {
        vec next = *(const vec*)(in + t.taps[k] * V::lanes);
        result = average ? result + next : result > next ? result : next;
      }
      if (average) result = result * *(const vec*)(t.scale + at);
      if (t.mask) result = (vec)((typename V::ivec)result & *(const typename V::ivec*)(t.mask + at * 4));
      *(vec*)(t.out + (r * t.out_row + c) * V::lanes) = result;
    }
}

}  // namespace
}  // namespace granet
