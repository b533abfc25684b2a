// From a program to buffers and steps. First every operation says in which layouts it takes and makes its values; then,
// with all layouts known, steps are made in order; then buffers get their places in memory.
#include "plan.h"

#include <algorithm>

#include "convolution.h"
#include "steps.h"

namespace granet {
namespace {

constexpr int64_t most_floats = int64_t(1) << 29;  // of a buffer: byte offsets in it are 32-bit
constexpr int64_t most_indices = int64_t(1) << 27;

// Where an operation finds its inputs, in their order, then its residual, and where it puts its result.
struct Places {
  std::vector<int> from;
  int residual = -1, to = -1;
};

struct Planner {
  Plan& plan;
  const std::vector<Constant>& constants;
  std::vector<int> native;      // by value: the buffer that its operation fills
  std::vector<Places> places;   // by operation
  std::vector<bool> filled;     // by buffer
  int64_t indices = 0, entries = 0;

  const Shape& shape(int value) const { return plan.program.values[size_t(value)]; }
  Buffer& buffer(int number) { return plan.buffers[size_t(number)]; }

  int new_buffer(int value) {
    plan.buffers.emplace_back();
    plan.buffers.back().value = value;
    return int(plan.buffers.size()) - 1;
  }
  int new_lanes(int value, const Grid& grid, float fill = 0) {
    int number = new_buffer(value);
    buffer(number).lanes = true;
    buffer(number).layout.grid = grid;
    buffer(number).fill = fill;
    return number;
  }
  int plain(int value) {
    for (int b = 0; b < int(plan.buffers.size()); b++)
      if (buffer(b).value == value && !buffer(b).lanes && buffer(b).input < 0) return b;
    return new_buffer(value);
  }
  int in_lanes(int value, const Grid& grid, float fill = 0, Sampling sampling = {}) {
    for (int b = 0; b < int(plan.buffers.size()); b++)
      if (buffer(b).value == value && buffer(b).lanes && buffer(b).layout.grid == grid && buffer(b).fill == fill && buffer(b).sampling == sampling) return b;
    const int made = new_lanes(value, grid, fill);
    buffer(made).sampling = sampling;
    return made;
  }
  bool single(int value) const { return shape(value).pixels() == 1; }
  bool has_lanes(int value) const { return plan.buffers[size_t(native[size_t(value)])].lanes; }
  Grid grid_of(int value) {
    return has_lanes(value) ? buffer(native[size_t(value)]).layout.grid : choose_grid(shape(value).height, shape(value).width, plan.isa.lanes);
  }

  // The grid of a window's result: one that suits the result, or the input's when that needs no conversion.
  Grid windowed(int input, const Shape& to, const Window& w) {
    const Shape& from = shape(input);
    auto reduced = [](int size, int stride) { return (size + stride - 1) / stride; };
    Grid best = choose_grid(std::max(to.height, reduced(from.height, w.stride[0])), std::max(to.width, reduced(from.width, w.stride[1])), plan.isa.lanes);
    if (!has_lanes(input)) return best;
    Grid given = grid_of(input);
    if (given.rows % w.stride[0] || given.columns % w.stride[1]) return best;
    given.rows /= w.stride[0];
    given.columns /= w.stride[1];
    return given.covers(to.height, to.width) && grid_cost(given) <= 1.2 * grid_cost(best) ? given : best;
  }
  int window_input(int input, const Grid& to, const Window& w, float fill) {
    Grid grid = to;
    grid.rows *= w.stride[0];
    grid.columns *= w.stride[1];
    int number = in_lanes(input, grid, fill);
    Buffer& found = buffer(number);
    int size[2] = {to.rows, to.columns};
    bool spatial = false;
    for (int axis : {0, 1}) {
      int64_t before = w.begin[axis];
      int64_t last = int64_t(size[axis] - 1) * w.stride[axis] + int64_t(w.kernel[axis] - 1) * w.dilation[axis] - before;
      int64_t after = std::max<int64_t>(0, last - (int64_t(size[axis]) * w.stride[axis] - 1));
      if (before + after > 1 << 24) throw Error("a window that reaches too far");
      found.layout.border[axis][0] = std::max(found.layout.border[axis][0], int(before));
      found.layout.border[axis][1] = std::max(found.layout.border[axis][1], int(after));
      spatial = spatial || w.kernel[axis] > 1 || before || w.end[axis];
    }
    found.clean = found.clean || spatial;
    return number;
  }

  bool is_product(const Operation& op, int result) const { return op.code == Code::convolution && single(op.inputs[0]) && single(result); }

  // Whether it is a convolution of single pixels of which it skips some.
  bool sampled(const Operation& op) const {
    const Window& w = op.window;
    return op.code == Code::convolution && w.kernel[0] == 1 && w.kernel[1] == 1 && (w.stride[0] > 1 || w.stride[1] > 1) && !w.begin[0] && !w.begin[1];
  }

  Places place(const Operation& op, int result) {
    Places p;
    const Shape& to = shape(result);
    if (sampled(op) && !is_product(op, result)) {  // copied, so that what it skips does not fill caches
      Grid grid = choose_grid(to.height, to.width, plan.isa.lanes);
      if (op.residual >= 0 && has_lanes(op.residual)) grid = grid_of(op.residual);
      p.from = {in_lanes(op.inputs[0], grid, 0, {op.window.stride[0], op.window.stride[1]})};
      if (op.residual >= 0) p.residual = in_lanes(op.residual, grid);
      p.to = new_lanes(result, grid);
    } else if (op.code == Code::convolution && !is_product(op, result)) {
      Grid grid = windowed(op.inputs[0], to, op.window);
      p.from = {window_input(op.inputs[0], grid, op.window, 0)};
      if (op.residual >= 0) p.residual = in_lanes(op.residual, grid);
      p.to = new_lanes(result, grid);
    } else if (op.code == Code::max_pool || op.code == Code::average_pool) {
      Grid grid = windowed(op.inputs[0], to, op.window);
      bool zero = op.code == Code::average_pool || not_negative(op.inputs[0]);
      p.from = {window_input(op.inputs[0], grid, op.window, zero ? 0 : -__builtin_inff())};
      p.to = new_lanes(result, grid);
    } else if (op.code == Code::global_average && !single(op.inputs[0])) {
      p.from = {in_lanes(op.inputs[0], grid_of(op.inputs[0]))};
      buffer(p.from[0]).clean = true;
      p.to = new_buffer(result);
    } else if (single(result)) {
      for (int input : op.inputs) p.from.push_back(plain(input));
      if (op.residual >= 0) p.residual = plain(op.residual);
      p.to = new_buffer(result);
    } else {
      Grid grid = grid_of(op.inputs[0]);
      for (int input : op.inputs) p.from.push_back(single(input) ? plain(input) : in_lanes(input, grid));
      p.to = new_lanes(result, grid);
    }
    native.push_back(p.to);
    return p;
  }
  // Whether all elements are known to be 0 or more, so that a border of 0 does not change the largest of a window.
  bool not_negative(int value) const {
    if (value < plan.program.inputs) return false;
    const Activation& a = plan.program.operations[size_t(value - plan.program.inputs)].activation;
    return a.kind == Kind::relu || (a.kind == Kind::clip && a.low >= 0) || a.kind == Kind::sigmoid || a.kind == Kind::hard_sigmoid;
  }

  void measure() {
    for (Buffer& b : plan.buffers) {
      const Shape& s = shape(b.value);
      b.channel = b.lanes ? b.layout.positions() * plan.isa.lanes : s.pixels();
      if (b.channel > most_floats || b.channel * s.channels > most_floats) throw Error("a value of more than 2^31 bytes");
      b.image = b.channel * s.channels;
      if (b.input < 0 && b.output < 0) b.image = (b.image + 15) / 16 * 16;
    }
  }

  void emit(StepPointer step) { plan.steps.push_back(std::move(step)); }
  void emit_convert(int from, int to) {
    indices += std::max(buffer(from).channel, buffer(to).channel);
    if (indices > most_indices) throw Error("conversions of layouts that take more than 2^27 indices");
    emit(convert(plan, from, to));
    filled[size_t(to)] = true;
  }
  int ready(int number) {
    if (!filled[size_t(number)]) emit_convert(native[size_t(buffer(number).value)], number);
    return number;
  }
  // What follows an operation whose result is in lanes.
  void finish(int number, bool masked) {
    Buffer& b = buffer(number);
    filled[size_t(number)] = true;
    if (!b.lanes) return;
    indices += b.channel;
    if (indices > most_indices) throw Error("maps that take more than 2^27 indices");
    if (!masked && needs_mask(number)) emit(clean(plan, number));
    if (b.layout.bordered()) emit(fill_border(plan, number));
  }
  bool needs_mask(int number) {
    const Buffer& b = buffer(number);
    const Shape& s = shape(b.value);
    return b.clean && (b.layout.grid.down * b.layout.grid.rows != s.height || b.layout.grid.right * b.layout.grid.columns != s.width);
  }
  static bool clamps(const Activation& a) { return a.kind == Kind::none || a.kind == Kind::relu || a.kind == Kind::clip; }

  // Operations may share constants, but not so often that a small file takes much memory.
  SparseRows weights(const Operation& op, int64_t rows, int64_t columns) {
    SparseRows found = unpack(op.weight, constants, rows, columns, op.transposed);
    int64_t stored = 0;
    for (const Constant& constant : constants) stored += constant.elements;
    if ((entries += int64_t(found.value.size())) > 4 * stored + (1 << 20)) throw Error("constants that too many operations share");
    return found;
  }

  // A convolution from one pixel to one pixel: the taps that meet it.
  SparseRows center(const Operation& op, const Shape& from, const Shape& to) {
    const Window& w = op.window;
    const int taps = w.kernel[0] * w.kernel[1], group = from.channels / op.groups;
    SparseRows all = weights(op, to.channels, int64_t(group) * taps), some;
    some.start.push_back(0);
    for (int o = 0; o < to.channels; o++) {
      for (size_t e = all.start[size_t(o)]; e < all.start[size_t(o) + 1]; e++) {
        const int tap = all.column[e] % taps;
        if (tap / w.kernel[1] * int64_t(w.dilation[0]) != w.begin[0] || tap % w.kernel[1] * int64_t(w.dilation[1]) != w.begin[1]) continue;
        some.column.push_back(int32_t(int64_t(o) / (to.channels / op.groups) * group + all.column[e] / taps));
        some.value.push_back(all.value[e]);
      }
      some.start.push_back(some.value.size());
    }
    return some;
  }

  void product(const Operation& op, const Places& p, SparseRows rows) {
    const int channels = shape(buffer(p.to).value).channels;
    emit(linear(plan, ready(p.from[0]), p.to, std::move(rows), unpack_bias(op.bias, constants, channels)));
    if (p.residual >= 0) emit(add(plan, p.to, ready(p.residual), p.to));
    if (op.activation.kind != Kind::none) emit(activate(plan, p.to, p.to, op.activation));
    filled[size_t(p.to)] = true;
  }

  void convolution(const Operation& op, const Places& p) {
    const Shape& from = shape(op.inputs[0]);
    const int channels = shape(buffer(p.to).value).channels;
    ready(p.from[0]);
    if (p.residual >= 0) ready(p.residual);
    Window window = op.window;
    if (sampled(op)) window.stride[0] = window.stride[1] = 1;
    const bool masked = clamps(op.activation) && needs_mask(p.to);
    SparseRows rows = weights(op, channels, int64_t(from.channels / op.groups) * window.kernel[0] * window.kernel[1]);
    emit(std::make_unique<Convolution>(plan, ConvolutionSpec{p.from[0], p.to, p.residual, &op, window, masked, std::move(rows), unpack_bias(op.bias, constants, channels)}));
    if (!clamps(op.activation)) emit(activate(plan, p.to, p.to, op.activation));
    finish(p.to, masked);
  }

  void operation(size_t number) {
    const Operation& op = plan.program.operations[number];
    const Places& p = places[number];
    const int result = plan.program.inputs + int(number);
    if (op.code == Code::linear) return product(op, p, weights(op, shape(result).channels, shape(op.inputs[0]).elements()));
    if (is_product(op, result)) return product(op, p, center(op, shape(op.inputs[0]), shape(result)));
    if (op.code == Code::convolution) return convolution(op, p);
    for (int from : p.from) ready(from);
    switch (op.code) {
      case Code::add:
        emit(add(plan, p.from[0], p.from[1], p.to));
        if (op.activation.kind != Kind::none) emit(activate(plan, p.to, p.to, op.activation));
        break;
      case Code::activate: emit(activate(plan, p.from[0], p.to, op.activation)); break;
      case Code::gate: emit(gate(plan, p.from[0], p.from[1], p.to)); break;
      case Code::concatenate: emit(concatenate(plan, p.from, p.to)); break;
      case Code::global_average:
        if (buffer(p.from[0]).lanes)
          emit(global_average(plan, p.from[0], p.to));
        else
          emit_convert(p.from[0], p.to);
        break;
      case Code::flatten: emit_convert(p.from[0], p.to); break;
      default: emit(pool(plan, p.from[0], p.to, op)); break;
    }
    finish(p.to, op.code == Code::max_pool || op.code == Code::average_pool);
  }

  // A step that reads a value for the last time may write its result over it.
  void share_memory() {
    for (size_t i = 0; i < plan.steps.size(); i++)
      for (int used : plan.steps[i]->uses()) {
        buffer(used).first = std::min(buffer(used).first, int(i));
        buffer(used).last = std::max(buffer(used).last, int(i));
      }
    for (size_t i = 0; i < plan.steps.size(); i++)
      for (auto [from, to] : plan.steps[i]->in_place()) {
        if (from == to) continue;
        const std::vector<int> uses = plan.steps[i]->uses();
        Buffer &a = buffer(from), &b = buffer(to);
        if (a.input >= 0 || a.last != int(i) || b.first != int(i) || b.alias >= 0 || a.image != b.image || a.lanes != b.lanes || !(a.layout == b.layout) ||
            a.fill != b.fill || std::count(uses.begin(), uses.end(), from) != 1)
          continue;
        b.alias = from;
        a.last = -2;  // nobody else may take it over
        for (int root = from; root >= 0; root = buffer(root).alias)
          if (buffer(root).alias < 0) b.first = buffer(root).first;
      }
  }
  int root(int number) {
    while (buffer(number).alias >= 0) number = buffer(number).alias;
    return number;
  }
  void lay_out_memory() {
    std::vector<int> last(plan.buffers.size(), -1), first(plan.buffers.size(), 1 << 30);
    for (size_t i = 0; i < plan.steps.size(); i++)
      for (int used : plan.steps[i]->uses()) {
        last[size_t(root(used))] = int(i);
        first[size_t(root(used))] = std::min(first[size_t(root(used))], int(i));
      }
    std::vector<int> laid;  // by offset
    for (int b = 0; b < int(plan.buffers.size()); b++) {
      if (buffer(b).input >= 0 || buffer(b).output >= 0 || buffer(b).alias >= 0 || last[size_t(b)] < 0) continue;
      int64_t offset = 0;
      for (int other : laid) {
        if (last[size_t(other)] < first[size_t(b)] || last[size_t(b)] < first[size_t(other)]) continue;
        if (offset + buffer(b).image <= buffer(other).offset) break;
        offset = std::max(offset, buffer(other).offset + buffer(other).image);
      }
      buffer(b).offset = offset;
      laid.insert(std::upper_bound(laid.begin(), laid.end(), b, [&](int x, int y) { return buffer(x).offset < buffer(y).offset; }), b);
      plan.memory = std::max(plan.memory, offset + buffer(b).image);
    }
  }

  void run() {
    const Program& program = plan.program;
    for (int i = 0; i < program.inputs; i++) {
      native.push_back(new_buffer(i));
      buffer(native.back()).input = i;
    }
    for (size_t i = 0; i < program.operations.size(); i++) places.push_back(place(program.operations[i], program.inputs + int(i)));
    std::vector<int> outputs;
    for (size_t i = 0; i < program.outputs.size(); i++) {
      outputs.push_back(new_buffer(program.outputs[i]));
      buffer(outputs.back()).output = int(i);
    }
    measure();
    filled.assign(plan.buffers.size(), false);
    for (int i = 0; i < program.inputs; i++) filled[size_t(native[size_t(i)])] = true;
    for (size_t i = 0; i < program.operations.size(); i++) try {
        operation(i);
      } catch (const Error& error) {
        throw Error("operation " + std::to_string(i) + ": " + error.what());
      }
    for (int output : outputs) emit_convert(native[size_t(buffer(output).value)], output);
    share_memory();
    lay_out_memory();
    if (plan.memory > 2 * most_floats) throw Error("values of an image that take more than 2^32 bytes together");
  }
};

}  // namespace

std::unique_ptr<Plan> make_plan(Program program, const std::vector<Constant>& constants, const Isa& isa) {
  std::unique_ptr<Plan> plan(new Plan{isa, std::move(program), {}, {}, 0});
  Planner{*plan, constants, {}, {}, {}, 0, 0}.run();
  return plan;
}

}  // namespace granet
