// The kernels for AVX-512 F.
#include <immintrin.h>

#include "isa_table.h"

namespace granet {
namespace {

struct Avx512 {
  static constexpr int lanes = 16, most_vectors = 28;
  typedef float vec __attribute__((vector_size(64), may_alias));
  typedef int32_t ivec __attribute__((vector_size(64), may_alias));
  static inline vec broadcast(float x) { return (vec)_mm512_set1_ps(x); }
  static inline vec permute(vec x, const int32_t* lanes) { return (vec)_mm512_permutexvar_ps(_mm512_loadu_si512(lanes), (__m512)x); }
  static inline vec gather(const float* in, const int32_t* index, float fill) {
    __m512i at = _mm512_loadu_si512(index);
    return (vec)_mm512_mask_i32gather_ps(_mm512_set1_ps(fill), _mm512_cmpge_epi32_mask(at, _mm512_setzero_si512()), at, in, 4);
  }
};

}  // namespace

extern const Isa isa_avx512;
const Isa isa_avx512 = table<Avx512>("avx512");

}  // namespace granet
