#include "convolution.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace granet {
namespace {

constexpr int far_bytes = 1 << 20;  // an output larger than this is not in the second cache when it is written
constexpr int segment = 64;  // output channels that are sorted together, and the least that a thread takes

// What a walk costs, in cycles for each output channel. Calibrated by benchmarks/kernels.py.
struct CostModel {
  double entry = 1.2, row = 0.3, vector = 0.55, far_vector = 1.1, sum = 1.5, channel = 14;
  double cache = 36 * 1024;
};

std::vector<int> split(int size, int most) {
  int parts = (size + most - 1) / most;
  std::vector<int> sizes;
  for (int i = 0; i < parts; i++) sizes.push_back(size / parts + (i < size % parts));
  return sizes;
}

// Sets of sums for the tiles of a convolution: one number for all of them, whatever is joined to a tile, so that every
// output is summed up in one order.
int sets_of_sums(int largest) { return largest <= 2 ? 4 : largest <= 4 ? 2 : 1; }

struct Problem {
  int rows, columns, stride[2], reach[2];  // reach: rows and columns that a window spans
  int in_channels, vector_bytes;  // channels that an output channel sees
  double entries;  // of an output channel
};

double tile_cost(const Problem& p, int rows, int columns, int blocks) {
  const CostModel model;
  double spread = double((rows - 1) * p.stride[0] + p.reach[0]) * ((columns - 1) * p.stride[1] + p.reach[1]);
  double bytes = spread * p.vector_bytes * p.in_channels / blocks, near = std::min(1.0, model.cache / bytes);
  double vectors = rows * columns, load = model.vector * near + model.far_vector * (1 - near), latency = vectors <= 2 ? 1.0 : 0.0;
  return p.entries * (model.entry + model.row * (rows - 1) + vectors * load + latency) + blocks * (model.channel + vectors * model.sum);
}

Tiling choose_tiling(const Isa& isa, const Problem& p) {
  Tiling best;
  double least = std::numeric_limits<double>::infinity();
  for (int most_row = 1; most_row <= std::min(p.rows, most_rows); most_row++)
    for (int most_column = 1; most_column <= std::min(p.columns, isa.most_vectors); most_column++) {
      const std::vector<int> rows = split(p.rows, most_row), columns = split(p.columns, most_column);
      bool possible = true;
      for (int r : {rows.front(), rows.back()})
        for (int c : {columns.front(), columns.back()}) possible = possible && isa.conv(r, c, p.stride[1], sets_of_sums(rows.front() * columns.front()));
      if (!possible) continue;
      for (int blocks = 1; blocks == 1 || (blocks <= p.in_channels && p.entries / blocks >= 3); blocks *= 2) {
        double cost = 0;
        for (int r : rows)
          for (int c : columns) cost += tile_cost(p, r, c, blocks);
        if (cost >= least) continue;
        least = cost;
        best = {{}, blocks};
        for (int row = 0, i = 0; i < int(rows.size()); row += rows[size_t(i++)])
          for (int column = 0, j = 0; j < int(columns.size()); column += columns[size_t(j++)]) best.tiles.push_back({row, column, rows[size_t(i)], columns[size_t(j)]});
      }
    }
  return best;
}

LaneLayout flattened(LaneLayout layout) {
  layout.grid.columns *= layout.grid.rows;
  layout.grid.rows = 1;
  return layout;
}

}  // namespace

Convolution::Convolution(const Plan& plan, ConvolutionSpec spec)
    : isa(plan.isa), in_buffer(spec.in), out_buffer(spec.out), residual_buffer(spec.residual), bias(std::move(spec.bias)) {
  const Operation& op = *spec.operation;
  const SparseRows& weights = spec.weights;
  const Window& w = spec.window;
  const Buffer& from = plan.buffers[size_t(in_buffer)];
  in = from.layout;
  out = plan.buffers[size_t(out_buffer)].layout;
  if (residual_buffer >= 0) residual = plan.buffers[size_t(residual_buffer)].layout;
  channels = int(bias.size());
  // Without borders, and with windows of one pixel, all positions are one row.
  bool flat = !in.bordered() && !out.bordered() && !residual.bordered();
  for (int axis : {0, 1}) flat = flat && w.kernel[axis] == 1 && w.stride[axis] == 1 && w.begin[axis] == 0;
  if (flat) in = flattened(in), out = flattened(out), residual = flattened(residual);

  const int group = plan.program.values[size_t(from.value)].channels / op.groups, taps = w.kernel[0] * w.kernel[1], vector_bytes = isa.lanes * 4;
  Problem problem{out.grid.rows, out.grid.columns, {}, {}, group, vector_bytes, double(weights.value.size()) / channels};
  for (int axis : {0, 1}) {
    problem.stride[axis] = stride[axis] = w.stride[axis];
    problem.reach[axis] = std::min((w.kernel[axis] - 1) * w.dilation[axis] + 1, axis ? in.pitch() : int(in.positions() / in.pitch()));
  }
  tiling = choose_tiling(isa, problem);
  sums = sets_of_sums(tiling.tiles.front().rows * tiling.tiles.front().columns);
  const int blocks = tiling.blocks;

  std::vector<int32_t> tap_offset;
  for (int ky = 0; ky < w.kernel[0]; ky++)
    for (int kx = 0; kx < w.kernel[1]; kx++)
      tap_offset.push_back(int32_t(((ky * w.dilation[0] - w.begin[0] + in.border[0][0]) * int64_t(in.pitch()) + kx * w.dilation[1] - w.begin[1] + in.border[1][0]) * vector_bytes));
  const int64_t channel_bytes = from.channel * 4;

  entries.reserve(weights.value.size());
  std::vector<size_t> next(weights.start.begin(), weights.start.end() - 1);
  std::vector<int32_t> number(static_cast<size_t>(channels));
  for (int block = 0; block < blocks; block++) {
    const int64_t limit = int64_t(group) * (block + 1) / blocks * taps;
    std::vector<size_t> begin = next;
    for (int o = 0; o < channels; o++) {
      size_t& at = next[size_t(o)];
      at = size_t(std::lower_bound(weights.column.begin() + ptrdiff_t(at), weights.column.begin() + ptrdiff_t(weights.start[size_t(o) + 1]), limit) - weights.column.begin());
      number[size_t(o)] = int32_t(at - begin[size_t(o)]);
    }
    for (int first = 0; first < channels; first += segment) {
      const size_t sorted = order.size();
      starts.push_back(entries.size());
      for (int o = first; o < std::min(channels, first + segment); o++) order.push_back(o);
      std::stable_sort(order.begin() + ptrdiff_t(sorted), order.end(), [&](int a, int b) { return number[size_t(a)] < number[size_t(b)]; });
      for (size_t i = sorted; i < order.size(); i++) {
        const size_t o = size_t(order[i]), base = entries.size();
        const int64_t first_channel = int64_t(o) / (channels / op.groups) * group;
        counts.push_back(number[o]);
        for (size_t e = begin[o]; e < next[o]; e++)
          entries.push_back({int32_t((first_channel + weights.column[e] / taps) * channel_bytes + tap_offset[size_t(weights.column[e] % taps)]), weights.value[e]});
        if (i % 2) std::reverse(entries.begin() + ptrdiff_t(base), entries.end());  // begin with what the last channel ended with
      }
    }
  }
  if (spec.mask) mask = lane_mask(plan.buffers[size_t(out_buffer)].layout.grid, plan.program.values[size_t(plan.buffers[size_t(out_buffer)].value)], isa.lanes);
  clamp = op.activation.kind == Kind::relu || op.activation.kind == Kind::clip;
  low = op.activation.kind == Kind::clip ? op.activation.low : 0;
  high = op.activation.kind == Kind::clip ? op.activation.high : std::numeric_limits<float>::infinity();
}

int Convolution::joined(const Frame& frame) const {
  const RegisterTile& largest = tiling.tiles.front();  // parts never grow
  for (int images = std::min(frame.images, most_rows / largest.rows); images > 1; images--)
    if (images * largest.rows * largest.columns <= 16 && isa.conv(images * largest.rows, largest.columns, stride[1], sums)) return images;
  return 1;
}

int Convolution::pieces(const Frame& frame) const {
  const int tasks = int(tiling.tiles.size()) * ((frame.images + joined(frame) - 1) / joined(frame));
  const int segments = (channels + segment - 1) / segment;
  if (frame.threads == 1 || tasks >= 4 * frame.threads) return 1;
  return std::min(segments, (4 * frame.threads + tasks - 1) / tasks);
}

int Convolution::tasks(const Frame& frame) const {
  const int together = joined(frame);
  return int(tiling.tiles.size()) * ((frame.images + together - 1) / together) * pieces(frame);
}

void Convolution::run(const Frame& frame, int task) const {
  const int together = joined(frame), cuts = pieces(frame), segments = (channels + segment - 1) / segment;
  const int piece = task % cuts, tile = task / cuts % int(tiling.tiles.size()), image = task / cuts / int(tiling.tiles.size()) * together;
  run_tile(frame, tile, image, std::min(together, frame.images - image), segments * piece / cuts, segments * (piece + 1) / cuts);
}

void Convolution::run_tile(const Frame& frame, int number, int image, int images, int first_segment, int last_segment) const {
  const RegisterTile& tile = tiling.tiles[size_t(number)];
  ConvFunction function = isa.conv(images * tile.rows, tile.columns, stride[1], sums);
  if (!function) {  // this many images do not make a register tile
    for (int i = 0; i < images; i++) run_tile(frame, number, image + i, 1, first_segment, last_segment);
    return;
  }
  const int vector_bytes = isa.lanes * 4, segments = (channels + segment - 1) / segment;
  auto bytes = [&](int buffer) { return frame.plan.buffers[size_t(buffer)].image * 4; };
  ConvTile t{};
  t.in = reinterpret_cast<const char*>(frame.at(in_buffer, image)) + (int64_t(tile.row) * stride[0] * in.pitch() + int64_t(tile.column) * stride[1]) * vector_bytes;
  t.out = reinterpret_cast<char*>(frame.at(out_buffer, image)) + out.at(tile.row, tile.column) * vector_bytes;
  t.out_channel = frame.plan.buffers[size_t(out_buffer)].channel * 4;
  if (residual_buffer >= 0) {
    t.residual = reinterpret_cast<const char*>(frame.at(residual_buffer, image)) + residual.at(tile.row, tile.column) * vector_bytes;
    t.residual_channel = frame.plan.buffers[size_t(residual_buffer)].channel * 4;
  }
  if (!mask.empty()) t.mask = reinterpret_cast<const char*>(mask.data()) + (int64_t(tile.row) * out.grid.columns + tile.column) * vector_bytes;
  for (int i = 0; i < images; i++)
    for (int r = 0; r < tile.rows; r++) {
      const int at = i * tile.rows + r;
      t.in_row[at] = i * bytes(in_buffer) + int64_t(r) * stride[0] * in.pitch() * vector_bytes;
      t.out_row[at] = i * bytes(out_buffer) + int64_t(r) * out.pitch() * vector_bytes;
      t.mask_row[at] = int64_t(r) * out.grid.columns * vector_bytes;
      if (residual_buffer >= 0) t.residual_row[at] = i * bytes(residual_buffer) + int64_t(r) * residual.pitch() * vector_bytes;
    }
  t.bias = bias.data();
  t.clamp = clamp, t.low = low, t.high = high;
  const int first = first_segment * segment, end = std::min(channels, last_segment * segment);
  t.n = end - first;
  for (int block = 0; block < tiling.blocks; block++) {
    t.entries = entries.data() + starts[size_t(block * segments + first_segment)];
    t.counts = counts.data() + int64_t(block) * channels + first;
    t.channels = order.data() + int64_t(block) * channels + first;
    t.first = block == 0;
    t.far = t.first && t.out_channel * channels > far_bytes;
    t.last = block == tiling.blocks - 1;
    function(t);
  }
}

std::vector<int> Convolution::uses() const { return residual_buffer >= 0 ? std::vector<int>{in_buffer, residual_buffer, out_buffer} : std::vector<int>{in_buffer, out_buffer}; }

std::vector<std::pair<int, int>> Convolution::in_place() const {
  if (residual_buffer < 0) return {};
  return {{residual_buffer, out_buffer}};
}

}  // namespace granet
