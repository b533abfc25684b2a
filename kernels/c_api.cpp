// A plain C interface to islands, for tests, fuzzing and other hosts than ONNX Runtime. Functions return 0, or 1 with a
// message in `error`.
#include <cstdio>
#include <thread>

#include "plan.h"

namespace granet {
namespace {

// As many tasks at a time as there are threads, in whatever order they come.
void run_on_threads(void* self, void (*fn)(void*, size_t), size_t count, void* context) {
  const size_t threads = size_t(*static_cast<int*>(self));
  std::vector<std::thread> running;
  for (size_t t = 0; t < threads; t++)
    running.emplace_back([=] {
      for (size_t i = t; i < count; i += threads) fn(context, i);
    });
  for (std::thread& thread : running) thread.join();
}

template <class F>
int guarded(char* error, size_t size, F body) {
  try {
    body();
    return 0;
  } catch (const std::exception& e) {
    if (error && size) std::snprintf(error, size, "%s", e.what());
    return 1;
  }
}

}  // namespace
}  // namespace granet

extern "C" {
#define GRANET_EXPORT __attribute__((visibility("default")))

GRANET_EXPORT const char* granet_kernels_isa(const char* name) {
  const granet::Isa* isa = granet::choose_isa(name);
  return isa ? isa->name : nullptr;
}

GRANET_EXPORT int granet_kernels_open(const int64_t* program, size_t length, const int* types, const int64_t* elements, const void* const* data, size_t count,
                                      const char* isa_name, void** island, char* error, size_t error_size) {
  return granet::guarded(error, error_size, [&] {
    const granet::Isa* isa = granet::choose_isa(isa_name);
    if (!isa) throw granet::Error("no such instruction set here");
    granet::Program parsed = granet::parse(program, length);
    if (size_t(parsed.constants) != count) throw granet::Error("another number of constants than the program has");
    std::vector<granet::Constant> constants;
    for (size_t i = 0; i < count; i++) constants.push_back({types[i], elements[i], data[i]});
    *island = new granet::Island(granet::make_island(granet::make_plan(std::move(parsed), constants, *isa)));
  });
}

GRANET_EXPORT int granet_kernels_run(const void* island, const float* const* inputs, float* const* outputs, int64_t batch, int threads, char* error, size_t error_size) {
  return granet::guarded(error, error_size, [&] {
    const granet::Island& opened = *static_cast<const granet::Island*>(island);
    const granet::Program& program = opened.plan->program;
    if (batch < 0 || threads < 1) throw granet::Error("a negative batch, or no thread");
    opened.run({inputs, inputs + program.inputs}, {outputs, outputs + program.outputs.size()}, batch, {threads, granet::run_on_threads, &threads});
  });
}

GRANET_EXPORT void granet_kernels_close(void* island) { delete static_cast<granet::Island*>(island); }
}
