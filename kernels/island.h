// An island as data: what parse.cpp makes of a program, and what plan.cpp makes of that for one instruction set.
#pragma once
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace granet {

// Anything that is wrong with an island or its inputs. Caught before the C boundary.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// One image of a value; a matrix has height and width 1.
struct Shape {
  int channels = 0, height = 1, width = 1;
  bool matrix = false;
  int64_t pixels() const { return int64_t(height) * width; }
  int64_t elements() const { return channels * pixels(); }
  bool operator==(const Shape& o) const { return channels == o.channels && height == o.height && width == o.width; }
};

struct Window {
  int kernel[2] = {1, 1}, stride[2] = {1, 1}, dilation[2] = {1, 1}, begin[2] = {0, 0}, end[2] = {0, 0};
};

// Numbers are those of granet/kernels/program.py.
enum class Kind { none, relu, clip, silu, hard_swish, sigmoid, hard_sigmoid, count };
struct Activation {
  Kind kind = Kind::none;
  float low = 0, high = 0;
};

enum class Layout { dense, gaps8_steps, gaps8, gaps4, gaps4_packed, bitmask, count };
struct StoredWeight {
  Layout layout = Layout::dense;
  int positions = -1, values = -1, scales = -1;
  int64_t count = 0;
};

enum class Code { convolution = 1, add, activate, max_pool, average_pool, global_average, concatenate, linear, gate, flatten, count };
struct Operation {
  Code code;
  std::vector<int> inputs;  // numbers of values
  int residual = -1, bias = -1, groups = 1;
  bool transposed = false, count_pads = false;
  Window window;
  StoredWeight weight;
  Activation activation;
};

struct Program {
  int inputs = 0, constants = 0;
  std::vector<Shape> values;  // of the inputs, then of each operation
  std::vector<Operation> operations;
  std::vector<int> outputs;
};

// A constant input of the node: element type as in ONNX, elements in the memory format of ONNX Runtime.
enum Type { type_float = 1, type_uint8 = 2, type_int8 = 3, type_float16 = 10, type_uint4 = 21 };
struct Constant {
  int type = 0;
  int64_t elements = 0;
  const void* data = nullptr;
};

// Weights that are not zero, by output channel: entries of channel o are [start[o], start[o + 1]).
struct SparseRows {
  std::vector<size_t> start;
  std::vector<int32_t> column;  // in the flattened rest of the weight
  std::vector<float> value;
};

// parse.cpp. Throws Error.
Program parse(const int64_t* integers, size_t count);
// pack.cpp. Checks everything, and allocates in proportion to the constants only. Throws Error.
SparseRows unpack(const StoredWeight& stored, const std::vector<Constant>& constants, int64_t rows, int64_t columns, bool transposed);
std::vector<float> unpack_bias(int bias, const std::vector<Constant>& constants, int64_t channels);

}  // namespace granet
