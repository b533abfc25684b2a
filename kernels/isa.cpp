// Which kernels this processor can run.
#include "isa.h"

#include <cstdlib>
#include <cstring>

namespace granet {

extern const Isa isa_plain;
#if defined(__x86_64__)
extern const Isa isa_avx2, isa_avx512;
#elif defined(__aarch64__)
extern const Isa isa_neon;
#endif

const Isa* choose_isa(const char* name) {
  if (!name || !*name) name = std::getenv("GRANET_KERNELS_ISA");
  if (name && !*name) name = nullptr;
  auto wanted = [name](const Isa& isa) { return !name || !std::strcmp(name, isa.name); };
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx2 && __builtin_cpu_supports("avx512f") && wanted(isa_avx512)) return &isa_avx512;
  if (avx2 && wanted(isa_avx2)) return &isa_avx2;
#elif defined(__aarch64__)
  if (wanted(isa_neon)) return &isa_neon;
#endif
  return wanted(isa_plain) ? &isa_plain : nullptr;
}

}  // namespace granet
