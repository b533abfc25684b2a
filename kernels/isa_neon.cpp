// The kernels for NEON of 64-bit ARM.
#include <arm_neon.h>

#include "isa_table.h"

namespace granet {
namespace {

struct Neon {
  static constexpr int lanes = 4, most_vectors = 24;
  typedef float vec __attribute__((vector_size(16), may_alias));
  typedef int32_t ivec __attribute__((vector_size(16), may_alias));
  static inline vec broadcast(float x) { return (vec)vdupq_n_f32(x); }
  static inline vec permute(vec x, const int32_t* lanes) { return vec{x[lanes[0]], x[lanes[1]], x[lanes[2]], x[lanes[3]]}; }
  static inline vec gather(const float* in, const int32_t* index, float fill) {
    vec found;
    for (int l = 0; l < lanes; l++) found[l] = index[l] < 0 ? fill : in[index[l]];
    return found;
  }
};

}  // namespace

extern const Isa isa_neon;
const Isa isa_neon = table<Neon>("neon");

}  // namespace granet
