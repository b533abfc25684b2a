// From the integers of a program to a Program. All of them are untrusted; kernels/README.md describes them.
#include <cstring>
#include <limits>

#include "island.h"

namespace granet {
namespace {

constexpr int64_t largest = std::numeric_limits<int32_t>::max();
constexpr int64_t most_values = 4096, most_channels = 1 << 20, most_side = 1 << 15, most_pixels = 1 << 22;
constexpr int64_t most_channels_together = 1 << 22;

struct Reader {
  const int64_t* at;
  const int64_t* end;

  int64_t next(const char* what, int64_t low, int64_t high) {
    if (at == end) throw Error(std::string("the program ends before ") + what);
    if (*at < low || *at > high)
      throw Error(std::string(what) + " is " + std::to_string(*at) + "; expected " + std::to_string(low) + " to " + std::to_string(high));
    return *at++;
  }
};

struct Parser {
  Reader in;
  Program program;
  int64_t channels = 0;

  const Shape& shape(int value) const { return program.values[value]; }
  int value(const char* what, int low = 0) { return int(in.next(what, low, int64_t(program.values.size()) - 1)); }
  int constant(const char* what, int low = 0) { return int(in.next(what, low, program.constants - 1)); }

  void window(Window& w) {
    for (int& x : w.kernel) x = int(in.next("a kernel's size", 1, most_side));
    for (int& x : w.stride) x = int(in.next("a stride", 1, most_side));
    for (int& x : w.dilation) x = int(in.next("a dilation", 1, most_side));
    for (int& x : w.begin) x = int(in.next("padding", 0, most_side));
    for (int& x : w.end) x = int(in.next("padding", 0, most_side));
  }
  void weight(StoredWeight& w) {
    w.layout = Layout(in.next("a layout", 0, int(Layout::count) - 1));
    w.positions = constant("positions", -1);
    w.values = constant("values");
    w.scales = constant("scales", -1);
    w.count = in.next("a count of codes", 0, largest);
  }
  static float as_float(int64_t bits) {
    uint32_t narrow = uint32_t(bits);
    float number;
    std::memcpy(&number, &narrow, sizeof number);
    return number;
  }
  void activation(Activation& a) {
    a.kind = Kind(in.next("an activation", 0, int(Kind::count) - 1));
    a.low = as_float(in.next("a bound", 0, 0xffffffff));
    a.high = as_float(in.next("a bound", 0, 0xffffffff));
    if (a.kind == Kind::clip && !(a.low <= a.high)) throw Error("a clip whose lower bound is above the upper one");
  }

  // Height or width that the standard gives the result of a window, rounded down.
  static int64_t extent(const Window& w, int axis, int64_t size) {
    int64_t reach = int64_t(w.kernel[axis] - 1) * w.dilation[axis] + 1;
    int64_t room = size + w.begin[axis] + w.end[axis] - reach;
    return room < 0 ? 0 : room / w.stride[axis] + 1;
  }
  Shape image(int value) const {
    if (shape(value).matrix) throw Error("a matrix where an image is needed");
    return shape(value);
  }

  Shape convolution(Operation& op) {
    op.inputs = {value("an input")};
    op.residual = value("a residual", -1);
    op.bias = constant("a bias", -1);
    Shape from = image(op.inputs[0]), to;
    to.channels = int(in.next("output channels", 1, most_channels));
    op.groups = int(in.next("groups", 1, from.channels));
    if (from.channels % op.groups || to.channels % op.groups) throw Error("channels that groups do not divide");
    window(op.window);
    weight(op.weight);
    activation(op.activation);
    to.height = size(extent(op.window, 0, from.height));
    to.width = size(extent(op.window, 1, from.width));
    if (op.residual >= 0 && !(image(op.residual) == to)) throw Error("a residual of another shape than the result");
    check_product({to.channels, from.channels / op.groups, op.window.kernel[0], op.window.kernel[1]});
    return to;
  }
  Shape pool(Operation& op) {
    op.inputs = {value("an input")};
    Shape from = image(op.inputs[0]), to = from;
    window(op.window);
    to.height = int(in.next("output height", 1, most_side));
    to.width = int(in.next("output width", 1, most_side));
    op.count_pads = op.code == Code::average_pool && in.next("count_include_pad", 0, 1);
    for (int axis : {0, 1}) {
      const Window& w = op.window;
      int64_t before = axis ? from.width : from.height, after = axis ? to.width : to.height;
      // Every window must contain a pixel: the first of them, and the last.
      for (int64_t start : {int64_t(-w.begin[axis]), (after - 1) * w.stride[axis] - w.begin[axis]}) {
        int64_t skipped = start < 0 ? (-start + w.dilation[axis] - 1) / w.dilation[axis] : 0;
        if (skipped >= w.kernel[axis] || start + skipped * w.dilation[axis] >= before)
          throw Error("a window of a pool without a pixel");
      }
      if (w.begin[axis] > int64_t(w.kernel[axis] - 1) * w.dilation[axis]) throw Error("a pool with more padding than kernel");
    }
    return to;
  }
  Shape linear(Operation& op) {
    op.inputs = {value("an input")};
    op.bias = constant("a bias", -1);
    Shape to;
    to.matrix = true;
    to.channels = int(in.next("features", 1, most_channels));
    op.transposed = in.next("the orientation of a weight", 0, 1);
    weight(op.weight);
    activation(op.activation);
    check_product({to.channels, shape(op.inputs[0]).elements()});
    return to;
  }
  Shape concatenate(Operation& op, int64_t fields) {
    Shape to;
    int64_t channels = 0;
    if (fields < 1 || fields > most_values) throw Error("a concatenation of nothing");
    for (int64_t i = 0; i < fields; i++) {
      op.inputs.push_back(value("an input"));
      const Shape& from = shape(op.inputs[i]);
      if (i && (from.height != to.height || from.width != to.width || from.matrix != to.matrix))
        throw Error("a concatenation of maps of different sizes");
      to = from;
      channels += from.channels;
    }
    if (channels > most_channels) throw Error("a concatenation of too many channels");
    to.channels = int(channels);
    return to;
  }
  Shape operation(Operation& op, int64_t fields) {
    Shape to;
    switch (op.code) {
      case Code::convolution: return convolution(op);
      case Code::max_pool:
      case Code::average_pool: return pool(op);
      case Code::linear: return linear(op);
      case Code::concatenate: return concatenate(op, fields);
      case Code::add:
        op.inputs = {value("an input"), value("an input")};
        activation(op.activation);
        if (!(shape(op.inputs[0]) == shape(op.inputs[1])) || shape(op.inputs[0]).matrix != shape(op.inputs[1]).matrix)
          throw Error("a sum of values of different shapes");
        return shape(op.inputs[0]);
      case Code::activate:
        op.inputs = {value("an input")};
        activation(op.activation);
        return shape(op.inputs[0]);
      case Code::global_average:
        op.inputs = {value("an input")};
        to.channels = image(op.inputs[0]).channels;
        return to;
      case Code::gate:
        op.inputs = {value("an input"), value("a gate")};
        if (image(op.inputs[1]).pixels() != 1 || shape(op.inputs[1]).channels != image(op.inputs[0]).channels)
          throw Error("a gate that is not one pixel of as many channels as its input");
        return shape(op.inputs[0]);
      case Code::flatten:
        op.inputs = {value("an input")};
        to.matrix = true;
        to.channels = size(shape(op.inputs[0]).elements(), most_channels);
        return to;
      case Code::count: break;
    }
    throw Error("an operation that does not exist");
  }

  static int size(int64_t n, int64_t most = most_side) {
    if (n < 1 || n > most) throw Error("a result of size " + std::to_string(n) + "; expected 1 to " + std::to_string(most));
    return int(n);
  }
  static void check_product(std::initializer_list<int64_t> factors) {
    int64_t product = 1;
    for (int64_t factor : factors) {
      if (factor > largest / product) throw Error("sizes whose product is more than 2^31 - 1");
      product *= factor;
    }
  }
  void add_value(const Shape& s) {
    if (s.pixels() > most_pixels) throw Error("a map of more than 2^22 pixels");
    check_product({s.channels, s.height, s.width});
    if ((channels += s.channels) > most_channels_together) throw Error("values of more than 2^22 channels together");
    program.values.push_back(s);
  }

  void run() {
    if (int64_t format = in.next("the format", std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max()); format != 1)
      throw Error("a program of format " + std::to_string(format) + "; this library knows 1. Install the newest granet");
    program.inputs = int(in.next("the number of inputs", 1, most_values));
    program.constants = int(in.next("the number of constants", 0, 4 * most_values));
    int operations = int(in.next("the number of operations", 0, most_values));
    int outputs = int(in.next("the number of outputs", 1, most_values));
    for (int i = 0; i < program.inputs; i++) {
      Shape s;
      s.channels = int(in.next("channels", 1, most_channels));
      s.height = int(in.next("height", 0, most_side));
      s.width = int(in.next("width", s.height ? 1 : 0, s.height ? most_side : 0));
      s.matrix = !s.height;
      if (s.matrix) s.height = s.width = 1;
      add_value(s);
    }
    for (int i = 0; i < operations; i++) try {
        Operation op;
        op.code = Code(in.next("an operation", 1, int(Code::count) - 1));
        int64_t fields = in.next("the length of an operation", 0, in.end - in.at - 1);
        Reader all = in;
        in.end = in.at + fields;
        Shape to = operation(op, fields);
        if (in.at != in.end) throw Error("more integers than it has fields");
        in.end = all.end;
        add_value(to);
        program.operations.push_back(std::move(op));
      } catch (const Error& error) {
        throw Error("operation " + std::to_string(i) + ": " + error.what());
      }
    for (int i = 0; i < outputs; i++) program.outputs.push_back(value("an output"));
    if (in.at != in.end) throw Error("integers behind the end of the program");
  }
};

}  // namespace

Program parse(const int64_t* integers, size_t count) {
  Parser parser{{integers, integers + count}, {}, 0};
  parser.run();
  return std::move(parser.program);
}

}  // namespace granet
