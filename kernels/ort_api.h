// The part of ONNX Runtime's C interface that is used here, declared by position: the interface only ever grows at its
// end, so that a slot keeps its number.
#pragma once
#include <cstddef>
#include <cstdint>

extern "C" {

struct OrtStatus;
struct OrtSessionOptions;
struct OrtKernelInfo;
struct OrtKernelContext;
struct OrtValue;
struct OrtCustomOpDomain;
struct OrtTensorTypeAndShapeInfo;
struct OrtCustomOp;

constexpr uint32_t ort_api_version = 18;  // the oldest that is supported; a newer runtime gives it out too

struct OrtApi {
  OrtStatus* (*CreateStatus)(int code, const char* message);
  void* skip1[26 - 1];
  OrtStatus* (*CreateCustomOpDomain)(const char* domain, OrtCustomOpDomain** out);
  OrtStatus* (*CustomOpDomain_Add)(OrtCustomOpDomain*, const OrtCustomOp*);
  OrtStatus* (*AddCustomOpDomain)(OrtSessionOptions*, OrtCustomOpDomain*);
  void* skip29[51 - 29];
  OrtStatus* (*GetTensorMutableData)(OrtValue*, void** out);
  void* skip52[60 - 52];
  OrtStatus* (*GetTensorElementType)(const OrtTensorTypeAndShapeInfo*, int* out);
  OrtStatus* (*GetDimensionsCount)(const OrtTensorTypeAndShapeInfo*, size_t* out);
  OrtStatus* (*GetDimensions)(const OrtTensorTypeAndShapeInfo*, int64_t* out, size_t count);
  void* skip63[1];
  OrtStatus* (*GetTensorShapeElementCount)(const OrtTensorTypeAndShapeInfo*, size_t* out);
  OrtStatus* (*GetTensorTypeAndShape)(const OrtValue*, OrtTensorTypeAndShapeInfo** out);
  void* skip66[90 - 66];
  OrtStatus* (*KernelContext_GetInput)(const OrtKernelContext*, size_t index, const OrtValue** out);
  OrtStatus* (*KernelContext_GetOutput)(OrtKernelContext*, size_t index, const int64_t* dimensions, size_t count, OrtValue** out);
  void* skip92[93 - 92];
  void (*ReleaseStatus)(OrtStatus*);
  void* skip94[99 - 94];
  void (*ReleaseTensorTypeAndShapeInfo)(OrtTensorTypeAndShapeInfo*);
  void* skip100[163 - 100];
  OrtStatus* (*KernelInfoGetAttributeArray_int64)(const OrtKernelInfo*, const char* name, int64_t* out, size_t* size);
  void* skip164[230 - 164];
  OrtStatus* (*KernelInfo_GetInputCount)(const OrtKernelInfo*, size_t* out);
  OrtStatus* (*KernelInfo_GetOutputCount)(const OrtKernelInfo*, size_t* out);
  void* skip232[244 - 232];
  OrtStatus* (*KernelInfo_GetNodeName)(const OrtKernelInfo*, char* out, size_t* size);
  void* skip245[249 - 245];
  OrtStatus* (*KernelInfoGetConstantInput_tensor)(const OrtKernelInfo*, size_t index, int* is_constant, const OrtValue** out);
  void* skip250[274 - 250];
  OrtStatus* (*KernelContext_ParallelFor)(const OrtKernelContext*, void (*fn)(void*, size_t), size_t total, size_t batches, void* data);
};

#define GRANET_SLOT(name, number) static_assert(offsetof(OrtApi, name) == (number) * sizeof(void*), #name)
GRANET_SLOT(CreateCustomOpDomain, 26);
GRANET_SLOT(GetTensorMutableData, 51);
GRANET_SLOT(GetTensorElementType, 60);
GRANET_SLOT(GetTensorShapeElementCount, 64);
GRANET_SLOT(GetTensorTypeAndShape, 65);
GRANET_SLOT(KernelContext_GetInput, 90);
GRANET_SLOT(KernelContext_GetOutput, 91);
GRANET_SLOT(ReleaseStatus, 93);
GRANET_SLOT(ReleaseTensorTypeAndShapeInfo, 99);
GRANET_SLOT(KernelInfoGetAttributeArray_int64, 163);
GRANET_SLOT(KernelInfo_GetInputCount, 230);
GRANET_SLOT(KernelInfo_GetOutputCount, 231);
GRANET_SLOT(KernelInfo_GetNodeName, 244);
GRANET_SLOT(KernelInfoGetConstantInput_tensor, 249);
GRANET_SLOT(KernelContext_ParallelFor, 274);
#undef GRANET_SLOT

struct OrtApiBase {
  const OrtApi* (*GetApi)(uint32_t version);
  const char* (*GetVersionString)();
};

enum { ort_invalid_argument = 2, ort_not_implemented = 9 };                                // codes of a status
enum { ort_any_type = 0, ort_float = 1 };                                                  // element types
enum { ort_required = 0, ort_optional = 1, ort_variadic = 2 };                             // characteristics

// What ONNX Runtime calls. The order is the interface; functions that are null are not called.
struct OrtCustomOp {
  uint32_t version;
  void* (*CreateKernel)(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*);
  const char* (*GetName)(const OrtCustomOp*);
  const char* (*GetExecutionProviderType)(const OrtCustomOp*);
  int (*GetInputType)(const OrtCustomOp*, size_t);
  size_t (*GetInputTypeCount)(const OrtCustomOp*);
  int (*GetOutputType)(const OrtCustomOp*, size_t);
  size_t (*GetOutputTypeCount)(const OrtCustomOp*);
  void (*KernelCompute)(void*, OrtKernelContext*);
  void (*KernelDestroy)(void*);
  int (*GetInputCharacteristic)(const OrtCustomOp*, size_t);
  int (*GetOutputCharacteristic)(const OrtCustomOp*, size_t);
  int (*GetInputMemoryType)(const OrtCustomOp*, size_t);
  int (*GetVariadicInputMinArity)(const OrtCustomOp*);
  int (*GetVariadicInputHomogeneity)(const OrtCustomOp*);
  int (*GetVariadicOutputMinArity)(const OrtCustomOp*);
  int (*GetVariadicOutputHomogeneity)(const OrtCustomOp*);
  OrtStatus* (*CreateKernelV2)(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*, void** kernel);
  OrtStatus* (*KernelComputeV2)(void* kernel, OrtKernelContext*);
  OrtStatus* (*InferOutputShapeFn)(const OrtCustomOp*, void*);
  int (*GetStartVersion)(const OrtCustomOp*);
  int (*GetEndVersion)(const OrtCustomOp*);
  size_t (*GetMayInplace)(int** inputs, int** outputs);
  void (*ReleaseMayInplace)(int* inputs, int* outputs);
  size_t (*GetAliasMap)(int** inputs, int** outputs);
  void (*ReleaseAliasMap)(int* inputs, int* outputs);
};

}  // extern "C"
