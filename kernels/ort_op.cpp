// The operators Island0 to Island63 of the domain ai.granet, which are one.
#include <sched.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <memory>
#include <thread>

#include "ort_api.h"
#include "plan.h"

namespace granet {
namespace {

constexpr int islands = 64;
const OrtApi* api;

// A status that must be handed on as it is.
struct Failed {
  OrtStatus* status;
};
void check(OrtStatus* status) {
  if (status) throw Failed{status};
}

template <class F>
OrtStatus* guarded(const std::string& where, F body) {
  try {
    body();
    return nullptr;
  } catch (const Failed& failed) {
    return failed.status;
  } catch (const std::exception& error) {
    return api->CreateStatus(ort_invalid_argument, (where + ": " + error.what()).c_str());
  }
}

struct TypeAndShape {
  OrtTensorTypeAndShapeInfo* info = nullptr;
  explicit TypeAndShape(const OrtValue* value) { check(api->GetTensorTypeAndShape(value, &info)); }
  ~TypeAndShape() { api->ReleaseTensorTypeAndShapeInfo(info); }
  TypeAndShape(const TypeAndShape&) = delete;
};

const void* data_of(const OrtValue* value) {
  void* data = nullptr;
  check(api->GetTensorMutableData(const_cast<OrtValue*>(value), &data));
  return data;
}

// How many threads ParallelFor has, which the interface does not tell: as many as are seen to wait for each other.
int count_threads(const OrtKernelContext* context) {
  cpu_set_t set;
  const int most = sched_getaffinity(0, sizeof set, &set) ? int(std::thread::hardware_concurrency()) : CPU_COUNT(&set);
  if (most <= 1) return 1;
  struct Meeting {
    std::atomic<int> here{0}, met{1};
    std::chrono::steady_clock::time_point end = std::chrono::steady_clock::now() + std::chrono::microseconds(200);
  } meeting;
  auto meet = [](void* self, size_t) {
    Meeting& m = *static_cast<Meeting*>(self);
    m.here++;
    do {
      int now = m.here, before = m.met;
      while (now > before && !m.met.compare_exchange_weak(before, now)) {
      }
    } while (std::chrono::steady_clock::now() < m.end);
    m.here--;
  };
  check(api->KernelContext_ParallelFor(context, meet, size_t(most), size_t(most), &meeting));
  return meeting.met;
}

void run_on_threads(void* self, void (*fn)(void*, size_t), size_t count, void* context) {
  check(api->KernelContext_ParallelFor(static_cast<const OrtKernelContext*>(self), fn, count, 0, context));
}

struct Kernel {
  std::string name;
  Island island;
  std::atomic<int> threads{0};

  void compute(OrtKernelContext* context) {
    const Program& program = island.plan->program;
    std::vector<const float*> inputs;
    std::vector<float*> outputs;
    int64_t batch = 0;
    for (int i = 0; i < program.inputs; i++) {
      const OrtValue* value = nullptr;
      check(api->KernelContext_GetInput(context, size_t(i), &value));
      if (!value) throw Error("input " + std::to_string(i) + " is missing");
      TypeAndShape found(value);
      int type = 0;
      size_t count = 0;
      check(api->GetTensorElementType(found.info, &type));
      check(api->GetDimensionsCount(found.info, &count));
      std::vector<int64_t> got(count);
      check(api->GetDimensions(found.info, got.data(), count));
      if (type != ort_float) throw Error("input " + std::to_string(i) + " is not of type float");
      if (!i && count) batch = got[0];
      if (got != dimensions(program.values[size_t(i)], batch)) throw Error("input " + std::to_string(i) + " of shape " + text(got) + "; expected " + text(dimensions(program.values[size_t(i)], batch)));
      inputs.push_back(static_cast<const float*>(data_of(value)));
    }
    for (size_t i = 0; i < program.outputs.size(); i++) {
      std::vector<int64_t> wanted = dimensions(program.values[size_t(program.outputs[i])], batch);
      OrtValue* value = nullptr;
      check(api->KernelContext_GetOutput(context, i, wanted.data(), wanted.size(), &value));
      outputs.push_back(static_cast<float*>(const_cast<void*>(data_of(value))));
    }
    if (!threads) threads = count_threads(context);
    island.run(inputs, outputs, batch, {threads, run_on_threads, context});
  }
  static std::vector<int64_t> dimensions(const Shape& s, int64_t batch) {
    if (s.matrix) return {batch, s.channels};
    return {batch, s.channels, s.height, s.width};
  }
  static std::string text(const std::vector<int64_t>& numbers) {
    std::string all = "[";
    for (size_t i = 0; i < numbers.size(); i++) all += (i ? ", " : "") + std::to_string(numbers[i]);
    return all + "]";
  }
};

std::string name_of(const OrtKernelInfo* info) {
  size_t size = 0;
  if (OrtStatus* status = api->KernelInfo_GetNodeName(info, nullptr, &size)) api->ReleaseStatus(status);
  std::string name(size, '\0');
  if (OrtStatus* status = api->KernelInfo_GetNodeName(info, &name[0], &size)) {
    api->ReleaseStatus(status);
    return "an island";
  }
  name.resize(size ? size - 1 : 0);
  return "island " + name;
}

OrtStatus* create(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo* info, void** out) {
  const std::string name = name_of(info);
  return guarded(name, [&] {
    const Isa* isa = choose_isa(nullptr);
    if (!isa) throw Error("GRANET_KERNELS_ISA names an instruction set that this library or processor does not have");
    size_t length = 0;
    check(api->KernelInfoGetAttributeArray_int64(info, "program", nullptr, &length));
    std::vector<int64_t> integers(length);
    check(api->KernelInfoGetAttributeArray_int64(info, "program", integers.data(), &length));
    Program program = parse(integers.data(), integers.size());
    size_t inputs = 0, outputs = 0;
    check(api->KernelInfo_GetInputCount(info, &inputs));
    check(api->KernelInfo_GetOutputCount(info, &outputs));
    if (inputs != size_t(program.inputs) + size_t(program.constants))
      throw Error(std::to_string(inputs) + " inputs; its program has " + std::to_string(program.inputs) + " and " + std::to_string(program.constants) + " constants");
    if (outputs != program.outputs.size()) throw Error(std::to_string(outputs) + " outputs; its program has " + std::to_string(program.outputs.size()));
    std::vector<Constant> constants;
    for (int i = 0; i < program.constants; i++) {
      int is_constant = 0;
      const OrtValue* value = nullptr;
      check(api->KernelInfoGetConstantInput_tensor(info, size_t(program.inputs + i), &is_constant, &value));
      if (!is_constant || !value) throw Error("constant " + std::to_string(i) + " is not an initializer");
      TypeAndShape found(value);
      Constant constant;
      size_t elements = 0;
      check(api->GetTensorElementType(found.info, &constant.type));
      check(api->GetTensorShapeElementCount(found.info, &elements));
      constant.elements = int64_t(elements);
      constant.data = data_of(value);
      constants.push_back(constant);
    }
    std::unique_ptr<Kernel> kernel(new Kernel{name, make_island(make_plan(std::move(program), constants, *isa)), {}});
    *out = kernel.release();
  });
}

OrtStatus* compute(void* kernel, OrtKernelContext* context) {
  return guarded(static_cast<Kernel*>(kernel)->name, [&] { static_cast<Kernel*>(kernel)->compute(context); });
}

struct Operator : OrtCustomOp {
  std::string name;
};

Operator make_operator(int number) {
  Operator op{};
  op.name = "Island" + std::to_string(number);
  op.version = ort_api_version;
  op.GetName = [](const OrtCustomOp* self) { return static_cast<const Operator*>(self)->name.c_str(); };
  op.GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return "CPUExecutionProvider"; };
  op.GetInputType = [](const OrtCustomOp*, size_t) -> int { return ort_any_type; };
  op.GetOutputType = [](const OrtCustomOp*, size_t) -> int { return ort_float; };
  op.GetInputTypeCount = op.GetOutputTypeCount = [](const OrtCustomOp*) -> size_t { return 1; };
  op.GetInputCharacteristic = op.GetOutputCharacteristic = [](const OrtCustomOp*, size_t) -> int { return ort_variadic; };
  op.GetInputMemoryType = [](const OrtCustomOp*, size_t) { return 0; };
  op.GetVariadicInputMinArity = op.GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 1; };
  op.GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 0; };
  op.GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 1; };
  op.CreateKernelV2 = create;
  op.KernelComputeV2 = compute;
  op.KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  op.GetStartVersion = [](const OrtCustomOp*) { return 1; };
  op.GetEndVersion = [](const OrtCustomOp*) { return 1; };
  return op;
}

}  // namespace
}  // namespace granet

extern "C" __attribute__((visibility("default"))) OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  using namespace granet;
  api = base->GetApi(ort_api_version);
  if (!api) return nullptr;  // too old; it has said so
  return guarded("granet's kernels", [&] {
    static std::array<Operator, islands> operators = [] {
      std::array<Operator, islands> made;
      for (int i = 0; i < islands; i++) made[size_t(i)] = make_operator(i);
      return made;
    }();
    OrtCustomOpDomain* domain = nullptr;
    check(api->CreateCustomOpDomain("ai.granet", &domain));
    for (Operator& op : operators) check(api->CustomOpDomain_Add(domain, &op));
    check(api->AddCustomOpDomain(options, domain));
  });
}
