// All templates for one vector type V, as an Isa. Included by each isa_*.cpp behind its V.
#pragma once
#include "elementwise.h"
#include "linear.h"
#include "pool.h"

namespace granet {
namespace {

template <class V>
constexpr Isa table(const char* name) {
  return {name, V::lanes, V::most_vectors, find_conv<V>, gather<V>, move<V>, activate<V>, add<V>, scale<V>,
          pool<V, false>, pool<V, true>, sum<V>, linear<V>, linear_batch<V>};
}

}  // namespace
}  // namespace granet
