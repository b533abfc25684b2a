// Products with a sparse matrix: one vector by gathering, or as many as there are lanes side by side.
#pragma once
#include "sparse_conv.h"

namespace granet {
namespace {

template <class V>
void linear(const LinearRows& t) {
  using vec = typename V::vec;
  for (int row = t.begin; row < t.end; row++) {
    size_t i = t.start[row];
    const size_t end = t.start[row + 1];
    vec sums[2] = {};
    for (; i + 2 * V::lanes <= end; i += 2 * V::lanes)
      for (int u = 0; u < 2; u++) {
        vec values;
        __builtin_memcpy(&values, t.value + i + u * V::lanes, sizeof values);
        sums[u] += values * V::gather(t.x, t.column + i + u * V::lanes, 0.0f);
      }
    sums[0] += sums[1];
    float total = t.bias[row];
    for (int l = 0; l < V::lanes; l++) total += sums[0][l];
    for (; i < end; i++) total += t.value[i] * t.x[t.column[i]];
    t.y[row] = total;
  }
}

template <class V>
void linear_batch(const LinearRows& t) {
  using vec = typename V::vec;
  for (int row = t.begin; row < t.end; row++) {
    size_t i = t.start[row];
    const size_t end = t.start[row + 1];
    vec sums[4] = {V::broadcast(t.bias[row])};
    for (; i + 4 <= end; i += 4)
      for (int u = 0; u < 4; u++) sums[u] += V::broadcast(t.value[i + u]) * *(const vec*)(t.x + ptrdiff_t(t.column[i + u]) * V::lanes);
    for (; i < end; i++) sums[0] += V::broadcast(t.value[i]) * *(const vec*)(t.x + ptrdiff_t(t.column[i]) * V::lanes);
    *(vec*)(t.y + ptrdiff_t(row) * V::lanes) = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  }
}

}  // namespace
}  // namespace granet
