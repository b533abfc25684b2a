// The kernels for AVX2 with FMA.
#include <immintrin.h>

#include "isa_table.h"

namespace granet {
namespace {

struct Avx2 {
  static constexpr int lanes = 8, most_vectors = 14;
  typedef float vec __attribute__((vector_size(32), may_alias));
  typedef int32_t ivec __attribute__((vector_size(32), may_alias));
  static inline vec broadcast(float x) { return (vec)_mm256_set1_ps(x); }
  static inline vec permute(vec x, const int32_t* lanes) {
    return (vec)_mm256_permutevar8x32_ps((__m256)x, _mm256_loadu_si256((const __m256i*)lanes));
  }
  static inline vec gather(const float* in, const int32_t* index, float fill) {
    __m256i at = _mm256_loadu_si256((const __m256i*)index);
    return (vec)_mm256_mask_i32gather_ps(_mm256_set1_ps(fill), in, at, _mm256_castsi256_ps(_mm256_cmpgt_epi32(at, _mm256_set1_epi32(-1))), 4);
  }
};

}  // namespace

extern const Isa isa_avx2;
const Isa isa_avx2 = table<Avx2>("avx2");

}  // namespace granet
