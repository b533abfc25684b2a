#include "steps.h"

#include <algorithm>
#include <cstring>

namespace granet {
namespace {

constexpr int channels_per_task = 64;

// A step over channels of images: a task is some channels of one image.
struct ChannelStep : Step {
  int channels = 0;
  std::vector<int> buffers;
  std::vector<int> uses() const override { return buffers; }
  int parts(const Frame& frame) const { return frame.threads == 1 ? 1 : (channels + channels_per_task - 1) / channels_per_task; }
  int tasks(const Frame& frame) const override { return parts(frame) * frame.images; }
  void run(const Frame& frame, int task) const override {
    const int cuts = parts(frame), part = task % cuts;
    work(frame, task / cuts, int(int64_t(channels) * part / cuts), int(int64_t(channels) * (part + 1) / cuts));
  }
  virtual void work(const Frame& frame, int image, int begin, int end) const = 0;
};

const Buffer& buffer_of(const Frame& frame, int number) { return frame.plan.buffers[size_t(number)]; }
const Shape& shape_of(const Plan& plan, int buffer) { return plan.program.values[size_t(plan.buffers[size_t(buffer)].value)]; }

float* channel_of(const Frame& frame, int buffer, int image, int channel) { return frame.at(buffer, image) + channel * buffer_of(frame, buffer).channel; }

// Calls f(Rows) for channels [begin, end) of an image; b may be -1. Unbordered channels are one long row.
template <class F>
void each_rows(const Frame& frame, int image, int begin, int end, int a, int b, int out, F f) {
  const int lanes = frame.plan.isa.lanes;
  bool whole = true;
  for (int buffer : {a, b, out})
    if (buffer >= 0) whole = whole && !buffer_of(frame, buffer).layout.bordered();
  for (int channel = begin; channel < end; channel++) {
    Rows rows{};
    auto place = [&](int buffer, ptrdiff_t& pitch) {
      const LaneLayout& layout = buffer_of(frame, buffer).layout;
      pitch = ptrdiff_t(layout.pitch()) * lanes;
      return channel_of(frame, buffer, image, channel) + layout.at(0, 0) * lanes;
    };
    rows.a = place(a, rows.a_row);
    if (b >= 0) rows.b = place(b, rows.b_row);
    rows.out = place(out, rows.out_row);
    const Grid& grid = buffer_of(frame, out).layout.grid;
    rows.rows = whole ? 1 : grid.rows;
    rows.floats = (whole ? grid.rows : 1) * grid.columns * lanes;
    f(rows, channel);
  }
}

// The same for plain buffers of one pixel: all channels are one row.
Rows plain_rows(const Frame& frame, int image, int a, int b, int out) {
  const int64_t floats = buffer_of(frame, out).image;
  return {frame.at(out, image), frame.at(a, image), b < 0 ? nullptr : frame.at(b, image), 0, 0, 0, 1, int(floats)};
}

struct Convert : ChannelStep {
  std::vector<int32_t> index;  // empty for a copy
  Moves moves;                 // instead of the index, where whole vectors move
  int count = 0;
  float fill = 0;
  void work(const Frame& frame, int image, int begin, int end) const override {
    const Buffer &from = buffer_of(frame, buffers[0]), &to = buffer_of(frame, buffers[1]);
    const float* source = channel_of(frame, buffers[0], image, begin);
    float* target = channel_of(frame, buffers[1], image, begin);
    if (index.empty())
      std::memcpy(frame.at(buffers[1], image) + int64_t(begin) * count, source, size_t(end - begin) * size_t(count) * sizeof(float));
    else if (!moves.moves.empty())
      frame.plan.isa.move(source, from.channel, target, to.channel, end - begin, moves.moves.data(), int(moves.moves.size()), moves.permutations.data());
    else
      frame.plan.isa.gather(source, from.channel, target, to.channel, end - begin, index.data(), count, fill);
  }
};

struct Border : ChannelStep {
  Moves moves;
  void work(const Frame& frame, int image, int begin, int end) const override {
    float* value = channel_of(frame, buffers[0], image, begin);
    const int64_t channel = buffer_of(frame, buffers[0]).channel;
    frame.plan.isa.move(value, channel, value, channel, end - begin, moves.moves.data(), int(moves.moves.size()), moves.permutations.data());
  }
};

struct Clean : ChannelStep {
  Aligned<int32_t> mask;
  void work(const Frame& frame, int image, int begin, int end) const override {
    each_rows(frame, image, begin, end, buffers[0], -1, buffers[0], [&](const Rows& rows, int) {
      const int32_t* bits = mask.data();
      for (int r = 0; r < rows.rows; r++)
        for (int i = 0; i < rows.floats; i++, bits++)
          if (!*bits) rows.out[r * rows.out_row + i] = 0;
    });
  }
};

// Element by element; the buffers are all plain or all in lanes of one grid.
struct Elementwise : ChannelStep {
  enum What { activation, sum, factor } what;
  Activation function;
  std::vector<std::pair<int, int>> in_place() const override { return {{buffers.front(), buffers.back()}}; }
  int tasks(const Frame& frame) const override { return buffer_of(frame, buffers.back()).lanes ? ChannelStep::tasks(frame) : frame.images; }
  void run(const Frame& frame, int task) const override {
    if (buffer_of(frame, buffers.back()).lanes) return ChannelStep::run(frame, task);
    Rows rows = plain_rows(frame, task, buffers.front(), what == activation ? -1 : buffers[1], buffers.back());
    if (what == factor)
      for (int i = 0; i < rows.floats; i++) rows.out[i] = rows.a[i] * rows.b[i];
    else
      apply(frame, rows, 0);
  }
  void work(const Frame& frame, int image, int begin, int end) const override {
    const float* factors = what == factor ? frame.at(buffers[1], image) : nullptr;
    each_rows(frame, image, begin, end, buffers[0], what == sum ? buffers[1] : -1, buffers.back(),
              [&](const Rows& rows, int channel) { apply(frame, rows, factors ? factors[channel] : 0); });
  }
  void apply(const Frame& frame, const Rows& rows, float number) const {
    if (what == activation) frame.plan.isa.activate(rows, int(function.kind), function.low, function.high);
    if (what == sum) frame.plan.isa.add(rows);
    if (what == factor) frame.plan.isa.scale(rows, number);
  }
};

struct Concatenate : Step {
  std::vector<int> from;
  int to = 0;
  std::vector<int> uses() const override {
    std::vector<int> all = from;
    all.push_back(to);
    return all;
  }
  int tasks(const Frame& frame) const override { return frame.images; }
  void run(const Frame& frame, int image) const override {
    int channel = 0;
    for (int source : from) {
      const int channels = shape_of(frame.plan, source).channels;
      const Buffer& buffer = buffer_of(frame, source);
      for (int c = 0; c < channels; c++, channel++) {
        float* target = channel_of(frame, to, image, channel);
        const float* origin = channel_of(frame, source, image, c);
        if (!buffer.lanes) {
          *target = *origin;
          continue;
        }
        const LaneLayout &a = buffer.layout, &b = buffer_of(frame, to).layout;
        const int lanes = frame.plan.isa.lanes;
        for (int r = 0; r < a.grid.rows; r++)
          std::memcpy(target + b.at(r, 0) * lanes, origin + a.at(r, 0) * lanes, size_t(a.grid.columns) * size_t(lanes) * sizeof(float));
      }
    }
  }
};

struct Pool : ChannelStep {
  bool average = false;
  PoolRows pattern{};
  int64_t in_at = 0, out_at = 0;  // floats in a channel
  std::vector<int32_t> taps;
  Aligned<int32_t> mask;
  Aligned<float> scale;
  void work(const Frame& frame, int image, int begin, int end) const override {
    for (int channel = begin; channel < end; channel++) {
      PoolRows rows = pattern;
      rows.in = channel_of(frame, buffers[0], image, channel) + in_at;
      rows.out = channel_of(frame, buffers[1], image, channel) + out_at;
      (average ? frame.plan.isa.average_pool : frame.plan.isa.max_pool)(rows);
    }
  }
};

struct GlobalAverage : ChannelStep {
  void work(const Frame& frame, int image, int begin, int end) const override {
    float* means = frame.at(buffers[1], image);
    const float pixels = float(shape_of(frame.plan, buffers[0]).pixels());
    each_rows(frame, image, begin, end, buffers[0], -1, buffers[0], [&](const Rows& rows, int channel) { means[channel] = frame.plan.isa.sum(rows) / pixels; });
  }
};

struct Linear : Step {
  static constexpr int rows_per_task = 128;
  int from, to;
  SparseRows weights;
  std::vector<float> bias;
  std::vector<int> uses() const override { return {from, to}; }
  bool together(const Frame& frame) const { return frame.images * 4 >= frame.plan.isa.lanes && frame.images > 1; }
  int parts() const { return int((bias.size() + rows_per_task - 1) / rows_per_task); }
  int tasks(const Frame& frame) const override { return parts() * (together(frame) ? (frame.images + frame.plan.isa.lanes - 1) / frame.plan.isa.lanes : frame.images); }
  void run(const Frame& frame, int task) const override {
    const int part = task % parts(), group = task / parts(), lanes = frame.plan.isa.lanes;
    LinearRows rows{nullptr, nullptr, weights.start.data(), weights.column.data(), weights.value.data(), bias.data(), part * rows_per_task,
                    std::min(int(bias.size()), (part + 1) * rows_per_task)};
    if (!together(frame)) {
      rows.x = frame.at(from, group);
      rows.y = frame.at(to, group);
      return frame.plan.isa.linear(rows);
    }
    const int images = std::min(lanes, frame.images - group * lanes);
    const size_t inputs = size_t(buffer_of(frame, from).image), count = size_t(rows.end - rows.begin);
    Aligned<float> memory((inputs + count) * size_t(lanes));
    float* x = memory.data();
    float* y = x + inputs * size_t(lanes);
    for (int l = 0; l < images; l++) {
      const float* source = frame.at(from, group * lanes + l);
      for (size_t i = 0; i < inputs; i++) x[i * size_t(lanes) + size_t(l)] = source[i];
    }
    rows.x = x;
    rows.y = y - ptrdiff_t(rows.begin) * lanes;
    frame.plan.isa.linear_batch(rows);
    for (int l = 0; l < images; l++) {
      float* target = frame.at(to, group * lanes + l) + rows.begin;
      for (size_t i = 0; i < count; i++) target[i] = y[i * size_t(lanes) + size_t(l)];
    }
  }
};

template <class S>
std::unique_ptr<S> channel_step(const Plan& plan, std::vector<int> buffers) {
  auto step = std::make_unique<S>();
  step->channels = shape_of(plan, buffers.back()).channels;
  step->buffers = std::move(buffers);
  return step;
}

}  // namespace

StepPointer convert(const Plan& plan, int from, int to) {
  auto step = channel_step<Convert>(plan, {from, to});
  const Buffer &a = plan.buffers[size_t(from)], &b = plan.buffers[size_t(to)];
  const Shape& shape = shape_of(plan, from);
  const int lanes = plan.isa.lanes;
  step->fill = b.fill;
  step->channels = shape.channels;
  step->count = int(b.lanes ? b.channel : shape.pixels());
  if (a.lanes && b.lanes) {
    step->index = lanes_from_lanes(b.layout, a.layout, shape, lanes, b.sampling);
    if (b.fill == 0) step->moves = moves_of(step->index, lanes);
  }
  if (a.lanes && !b.lanes) step->index = map_from_lanes(a.layout, shape, lanes);
  if (!a.lanes && b.lanes) step->index = lanes_from_map(b.layout, shape, lanes, b.sampling);
  return step;
}

StepPointer fill_border(const Plan& plan, int buffer) {
  auto step = channel_step<Border>(plan, {buffer});
  step->moves = borders(plan.buffers[size_t(buffer)].layout, plan.isa.lanes);
  return step;
}

StepPointer clean(const Plan& plan, int buffer) {
  auto step = channel_step<Clean>(plan, {buffer});
  step->mask = lane_mask(plan.buffers[size_t(buffer)].layout.grid, shape_of(plan, buffer), plan.isa.lanes);
  return step;
}

StepPointer activate(const Plan& plan, int from, int to, const Activation& activation) {
  auto step = channel_step<Elementwise>(plan, {from, to});
  step->what = Elementwise::activation;
  step->function = activation;
  return step;
}

StepPointer add(const Plan& plan, int a, int b, int to) {
  auto step = channel_step<Elementwise>(plan, {a, b, to});
  step->what = Elementwise::sum;
  return step;
}

StepPointer gate(const Plan& plan, int from, int factors, int to) {
  auto step = channel_step<Elementwise>(plan, {from, factors, to});
  step->what = Elementwise::factor;
  return step;
}

StepPointer concatenate(const Plan&, std::vector<int> from, int to) {
  auto step = std::make_unique<Concatenate>();
  step->from = std::move(from);
  step->to = to;
  return step;
}

StepPointer pool(const Plan& plan, int from, int to, const Operation& op) {
  auto step = channel_step<Pool>(plan, {from, to});
  const LaneLayout &in = plan.buffers[size_t(from)].layout, &out = plan.buffers[size_t(to)].layout;
  const Shape &before = shape_of(plan, from), &after = shape_of(plan, to);
  const Window& w = op.window;
  const int lanes = plan.isa.lanes;
  step->average = op.code == Code::average_pool;
  for (int ky = 0; ky < w.kernel[0]; ky++)
    for (int kx = 0; kx < w.kernel[1]; kx++) step->taps.push_back(int32_t((ky * w.dilation[0]) * int64_t(in.pitch()) + kx * w.dilation[1]));
  step->in_at = ((in.border[0][0] - w.begin[0]) * int64_t(in.pitch()) + in.border[1][0] - w.begin[1]) * lanes;
  step->out_at = out.at(0, 0) * lanes;
  step->mask = lane_mask(out.grid, after, lanes);
  if (step->average) {
    std::vector<int32_t> pixel = lanes_from_map(LaneLayout{out.grid}, after, lanes);
    step->scale.assign(pixel.size(), 0);
    // How many elements of a window count: those on the map, or on the map and its pads.
    auto counted = [&](int axis, int at, int size) {
      int count = 0, low = op.count_pads ? -w.begin[axis] : 0, high = op.count_pads ? size + w.end[axis] : size;
      for (int k = 0, x = at * w.stride[axis] - w.begin[axis]; k < w.kernel[axis]; k++, x += w.dilation[axis]) count += x >= low && x < high;
      return float(count);
    };
    std::vector<float> down, right;
    for (int y = 0; y < after.height; y++) down.push_back(counted(0, y, before.height));
    for (int x = 0; x < after.width; x++) right.push_back(counted(1, x, before.width));
    for (size_t i = 0; i < pixel.size(); i++)
      if (pixel[i] >= 0) step->scale[i] = 1 / (down[size_t(pixel[i] / after.width)] * right[size_t(pixel[i] % after.width)]);
  }
  step->pattern.scale = step->scale.data();
  step->pattern.mask = reinterpret_cast<const char*>(step->mask.data());
  step->pattern.taps = step->taps.data();
  step->pattern.n_taps = int(step->taps.size());
  step->pattern.rows = out.grid.rows;
  step->pattern.columns = out.grid.columns;
  step->pattern.in_row = ptrdiff_t(w.stride[0]) * in.pitch();
  step->pattern.in_column = w.stride[1];
  step->pattern.out_row = out.pitch();
  return step;
}

StepPointer global_average(const Plan& plan, int from, int to) { return channel_step<GlobalAverage>(plan, {from, to}); }

StepPointer linear(const Plan&, int from, int to, SparseRows weights, std::vector<float> bias) {
  auto step = std::make_unique<Linear>();
  step->from = from;
  step->to = to;
  step->weights = std::move(weights);
  step->bias = std::move(bias);
  return step;
}

}  // namespace granet
