// Random layers against a reference in double, and damaged programs and constants that must be refused or run.
//
//     fuzz layers COUNT SEED    each layer on every instruction set, within 1e-5 of the largest output
//     fuzz damage COUNT SEED    a valid island with some numbers or bytes changed; needs a build with sanitizers to tell
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>

#include "../plan.h"

namespace {

using namespace granet;

struct Random {
  std::mt19937_64 engine;
  int below(int n) { return int(engine() % uint64_t(n)); }
  int pick(std::initializer_list<int> from) { return from.begin()[below(int(from.size()))]; }
  bool chance(double p) { return double(engine() >> 11) * 0x1p-53 < p; }
  float number() { return float(int64_t(engine() % 2000001) - 1000000) / 500000.0f; }
};

struct Case {
  std::vector<int64_t> program;
  std::vector<std::vector<uint8_t>> bytes;
  std::vector<int> types;
  std::vector<int64_t> elements;

  int add(int type, int64_t count, const void* data, size_t size) {
    const uint8_t* first = static_cast<const uint8_t*>(data);
    bytes.emplace_back(first, first + size);
    types.push_back(type);
    elements.push_back(count);
    return int(types.size()) - 1;
  }
  int floats(const std::vector<float>& numbers) { return add(type_float, int64_t(numbers.size()), numbers.data(), numbers.size() * 4); }

  // A weight in a layout, as the record of a program.
  std::vector<int64_t> weight(const std::vector<float>& w, Layout layout) {
    if (layout == Layout::dense) return {0, -1, floats(w), -1, 0};
    std::vector<float> values;
    std::vector<uint8_t> codes;
    const bool steps = layout == Layout::gaps8_steps;
    const size_t size = w.size(), filler = layout == Layout::gaps4 || layout == Layout::gaps4_packed ? 15 : 255;
    if (!steps) values.push_back(0);
    if (layout == Layout::bitmask) {
      codes.assign((size + 7) / 8, 0);
      for (size_t i = 0; i < size; i++)
        if (w[i] != 0) codes[i / 8] |= uint8_t(1 << i % 8), values.push_back(w[i]);
      return {5, add(type_uint8, int64_t(codes.size()), codes.data(), codes.size()), floats(values), -1, 0};
    }
    size_t gap = 0;
    for (size_t i = 0; i < size; i++) {
      if (w[i] != 0) codes.push_back(uint8_t(gap)), values.push_back(w[i]), gap = 0;
      else if (++gap == filler) {
        codes.push_back(uint8_t(filler)), gap = 0;
        if (steps) values.push_back(0);
      }
    }
    const int64_t count = int64_t(codes.size());
    if (steps)
      for (size_t i = 0; i < codes.size(); i++) codes[i] = uint8_t(std::min<int>(codes[i], 254) + (i > 0));
    if (filler == 15) {
      if (count % 2) codes.push_back(layout == Layout::gaps4 ? 0 : 15);
      for (size_t i = 0; i < codes.size() / 2; i++) codes[i] = uint8_t(codes[2 * i] | codes[2 * i + 1] << 4);
      codes.resize(codes.size() / 2);
    }
    const bool nibbles = layout == Layout::gaps4;
    int positions = add(nibbles ? type_uint4 : type_uint8, nibbles ? count : int64_t(codes.size()), codes.data(), codes.size());
    return {int64_t(layout), positions, floats(values), -1, layout == Layout::gaps4_packed ? count : 0};
  }
  std::vector<Constant> constants() const {
    std::vector<Constant> all;
    for (size_t i = 0; i < types.size(); i++) all.push_back({types[i], elements[i], bytes[i].data()});
    return all;
  }
};

struct Layer {
  int in, out, groups, height, width, result[2], kernel[2], stride[2], dilation[2], begin[2], end[2];
  int batch, activation;
  bool residual;
  std::vector<float> weight, bias;
};

Layer random_layer(Random& r, int largest, int channels) {
  Layer l;
  l.groups = r.pick({1, 1, 1, 2, 3});
  l.in = l.groups * (1 + r.below(channels));
  l.out = l.groups * (1 + r.below(channels));
  if (r.chance(0.1)) l.in = l.out = l.groups = 1 + r.below(channels * 2);
  int* size[2] = {&l.height, &l.width};
  for (int a : {0, 1}) {
    l.kernel[a] = r.pick({1, 1, 2, 3, 3, 5, 7});
    l.stride[a] = r.pick({1, 1, 1, 2, 2, 3});
    l.dilation[a] = r.pick({1, 1, 1, 2, 3});
    l.begin[a] = r.below(4), l.end[a] = r.below(4);
    const int reach = (l.kernel[a] - 1) * l.dilation[a] + 1;
    *size[a] = std::max({1 + r.below(largest), reach - l.begin[a] - l.end[a], 1});
    l.result[a] = (*size[a] + l.begin[a] + l.end[a] - reach) / l.stride[a] + 1;
  }
  l.batch = r.pick({1, 1, 2, 3, 5});
  l.activation = r.pick({0, 1, 2});
  l.residual = r.chance(0.4);
  l.weight.resize(size_t(l.out) * size_t(l.in / l.groups * l.kernel[0] * l.kernel[1]));
  const double density = double(r.pick({0, 2, 10, 30, 100})) / 100;
  const float scale = float(1 / std::sqrt(1 + density * double(l.weight.size()) / l.out));  // results of about 1
  for (float& x : l.weight) x = r.chance(density) ? r.number() * scale : 0;
  for (int i = 0; i < l.out; i++) l.bias.push_back(r.number());
  return l;
}

Case as_case(const Layer& l, Layout layout) {
  Case c;
  const uint32_t one = 0x3f800000;
  std::vector<int64_t> weight = c.weight(l.weight, layout);
  const int bias = c.floats(l.bias);
  std::vector<int64_t> fields = {0, l.residual ? 1 : -1, bias, l.out, l.groups};
  for (const int* pair : {l.kernel, l.stride, l.dilation, l.begin, l.end}) fields.insert(fields.end(), pair, pair + 2);
  fields.insert(fields.end(), weight.begin(), weight.end());
  fields.insert(fields.end(), {l.activation, 0, one});
  c.program = {1, 1 + l.residual, int64_t(c.types.size()), 1, 1, l.in, l.height, l.width};
  if (l.residual) c.program.insert(c.program.end(), {l.out, l.result[0], l.result[1]});
  c.program.insert(c.program.end(), {1, int64_t(fields.size())});
  c.program.insert(c.program.end(), fields.begin(), fields.end());
  c.program.push_back(1 + l.residual);
  return c;
}

std::vector<double> reference(const Layer& l, const std::vector<float>& x, const std::vector<float>& residual) {
  std::vector<double> y;
  const int group_in = l.in / l.groups, group_out = l.out / l.groups;
  for (int n = 0; n < l.batch; n++)
    for (int o = 0; o < l.out; o++)
      for (int oy = 0; oy < l.result[0]; oy++)
        for (int ox = 0; ox < l.result[1]; ox++) {
          double sum = l.bias[size_t(o)];
          const float* w = &l.weight[size_t(o) * size_t(group_in * l.kernel[0] * l.kernel[1])];
          for (int i = 0; i < group_in; i++)
            for (int ky = 0; ky < l.kernel[0]; ky++)
              for (int kx = 0; kx < l.kernel[1]; kx++, w++) {
                const int iy = oy * l.stride[0] - l.begin[0] + ky * l.dilation[0], ix = ox * l.stride[1] - l.begin[1] + kx * l.dilation[1];
                if (*w == 0 || iy < 0 || ix < 0 || iy >= l.height || ix >= l.width) continue;
                sum += double(*w) * double(x[(size_t(n * l.in + o / group_out * group_in + i) * size_t(l.height) + size_t(iy)) * size_t(l.width) + size_t(ix)]);
              }
          if (l.residual) sum += double(residual[y.size()]);
          if (l.activation) sum = std::max(sum, 0.0);
          if (l.activation == 2) sum = std::min(sum, 1.0);
          y.push_back(sum);
        }
  return y;
}

void run_tasks(void*, void (*fn)(void*, size_t), size_t count, void* context) {
  for (size_t i = count; i-- > 0;) fn(context, i);  // the order must not matter
}

std::vector<std::vector<float>> run(const Island& island, const std::vector<std::vector<float>>& inputs, int batch, int threads) {
  const Program& program = island.plan->program;
  std::vector<const float*> in;
  std::vector<float*> out;
  std::vector<std::vector<float>> outputs;
  for (const auto& input : inputs) in.push_back(input.data());
  for (int value : program.outputs) outputs.emplace_back(size_t(program.values[size_t(value)].elements() * batch));
  for (auto& output : outputs) out.push_back(output.data());
  island.run(in, out, batch, {threads, run_tasks, nullptr});
  return outputs;
}

std::vector<const Isa*> isas() {
  std::vector<const Isa*> found;
  for (const char* name : {"plain", "neon", "avx2", "avx512"})
    if (const Isa* isa = choose_isa(name)) found.push_back(isa);
  return found;
}

int layers(int count, Random& r) {
  double worst = 0;
  for (int i = 0; i < count; i++) {
    Layer l = random_layer(r, 67, 12);
    Case c = as_case(l, Layout(r.below(int(Layout::count))));
    std::vector<std::vector<float>> inputs(1 + l.residual);
    inputs[0].resize(size_t(l.batch * l.in * l.height * l.width));
    if (l.residual) inputs[1].resize(size_t(l.batch * l.out * l.result[0] * l.result[1]));
    for (auto& input : inputs)
      for (float& x : input) x = r.number();
    const std::vector<double> right = reference(l, inputs[0], l.residual ? inputs[1] : inputs[0]);
    double largest = 1e-30;
    for (double y : right) largest = std::max(largest, std::fabs(y));
    for (const Isa* isa : isas()) {
      Island island = make_island(make_plan(parse(c.program.data(), c.program.size()), c.constants(), *isa));
      const std::vector<float> y = run(island, inputs, l.batch, 1)[0];
      double error = 0;
      for (size_t k = 0; k < y.size(); k++) error = std::fabs(y[k] - right[k]) <= 1e30 ? std::max(error, std::fabs(y[k] - right[k]) / largest) : 1e30;
      worst = std::max(worst, error);
      const std::vector<float> again = run(island, inputs, l.batch, 3)[0];
      if (error > 1e-5 || std::memcmp(y.data(), again.data(), y.size() * 4)) {
        std::printf("layer %d on %s: error %g%s\n", i, isa->name, error, error > 1e-5 ? "" : "; another result with 3 threads");
        return 1;
      }
    }
  }
  std::printf("%d layers, largest error %.2g of the largest output\n", count, worst);
  return 0;
}

// Several operations of every kind, so that there is something to damage.
Case island_of_all(Random& r) {
  Layer l = random_layer(r, 9, 5);
  l.residual = false;
  Case c = as_case(l, Layout(r.below(int(Layout::count))));
  c.program.pop_back();
  std::vector<int64_t>& p = c.program;
  const int64_t height = l.result[0], width = l.result[1], relu[3] = {1, 0, 0};
  auto add = [&](int64_t code, std::vector<int64_t> fields) {
    p.push_back(code);
    p.push_back(int64_t(fields.size()));
    p.insert(p.end(), fields.begin(), fields.end());
    p[3]++;
  };
  add(2, {1, 1, relu[0], relu[1], relu[2]});
  add(3, {2, 3, 0, 0});
  add(4, {3, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, height + 1, width + 1});
  add(5, {3, 1, 1, 2, 2, 1, 1, 0, 0, 0, 0, (height + 1) / 2, (width + 1) / 2, 1});
  add(6, {3});
  add(9, {3, 6});
  add(7, {3, 7});
  std::vector<float> w;
  for (int i = 0; i < 3 * l.out; i++) w.push_back(r.chance(0.5) ? r.number() : 0);
  std::vector<int64_t> linear = {6, -1, 3, r.below(2)}, stored = c.weight(w, Layout(r.below(int(Layout::count))));
  linear.insert(linear.end(), stored.begin(), stored.end());
  linear.insert(linear.end(), relu, relu + 3);
  add(8, linear);
  add(10, {8});
  p[2] = int64_t(c.types.size());
  p[4] = 2;
  p.push_back(9);
  p.push_back(10);
  return c;
}

int damage(int count, Random& r) {
  int opened = 0, refused = 0, skipped = 0;
  const std::vector<const Isa*> sets = isas();
  for (int i = 0; i < count; i++) {
    Case c = island_of_all(r);
    for (int changes = r.below(4); changes-- > 0;) {
      if (r.chance(0.5)) {
        int64_t& number = c.program[size_t(r.below(int(c.program.size())))];
        const int64_t extremes[] = {0, -1, 1, 2, 7, 255, 1 << 15, 1 << 20, INT32_MAX, INT64_MAX, INT64_MIN};
        number = r.chance(0.5) ? int64_t(uint64_t(number) + uint64_t(r.pick({-1, 1, 2}))) : extremes[r.below(11)];
      } else {
        const size_t which = size_t(r.below(int(c.bytes.size())));
        std::vector<uint8_t>& bytes = c.bytes[which];
        if (r.chance(0.1) && c.elements[which] > 0) c.elements[which]--;
        else if (r.chance(0.1)) c.types[which] = r.pick({0, 1, 2, 3, 10, 21});
        else if (!bytes.empty()) bytes[size_t(r.below(int(bytes.size())))] = uint8_t(r.below(256));
        const int64_t width = c.types[which] == type_float ? 4 : c.types[which] == type_float16 ? 2 : 1;  // a tensor is as long as it says
        c.elements[which] = std::min<int64_t>(c.elements[which], int64_t(bytes.size()) * (c.types[which] == type_uint4 ? 2 : 1) / width);
      }
    }
    if (r.chance(0.02)) c.program.resize(size_t(r.below(int(c.program.size()))));
    try {
      Program program = parse(c.program.data(), c.program.size());
      if (program.constants != int(c.types.size())) throw Error("another number of constants");
      int64_t floats = 0;
      for (const Shape& s : program.values) floats += s.elements();
      if (floats > 1 << 20) {
        skipped++;
        continue;
      }
      Island island = make_island(make_plan(std::move(program), c.constants(), *sets[size_t(r.below(int(sets.size())))]));
      opened++;
      if (island.plan->memory > 1 << 24) continue;
      const int batch = r.pick({0, 1, 2, 9});
      std::vector<std::vector<float>> inputs;
      for (int k = 0; k < island.plan->program.inputs; k++) inputs.emplace_back(size_t(island.plan->program.values[size_t(k)].elements() * batch), 0.5f);
      run(island, inputs, batch, r.pick({1, 3}));
    } catch (const std::exception&) {
      refused++;
    }
  }
  std::printf("%d islands: %d ran, %d were refused, %d were too large to run\n", count, opened, refused, skipped);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return std::fprintf(stderr, "fuzz layers|damage COUNT SEED\n"), 2;
  Random r{std::mt19937_64(std::strtoull(argv[3], nullptr, 10))};
  return std::strcmp(argv[1], "layers") ? damage(std::atoi(argv[2]), r) : layers(std::atoi(argv[2]), r);
}
