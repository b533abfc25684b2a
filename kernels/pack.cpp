// Stored weights to values and positions. Codes, bitmasks and values are untrusted; docs/onnx-encodings.md describes them.
#include <cstring>

#include "island.h"

namespace granet {
namespace {

float from_half(uint16_t half) {
  uint32_t sign = uint32_t(half & 0x8000) << 16, exponent = half >> 10 & 31, fraction = half & 1023, bits;
  if (exponent == 31) {
    bits = sign | 0x7f800000 | fraction << 13;
  } else if (exponent) {
    bits = sign | (exponent + 112) << 23 | fraction << 13;
  } else {
    float small = float(fraction) / 16777216.0f;  // subnormal: units of 2^-24
    std::memcpy(&bits, &small, 4);
    bits |= sign;
  }
  float number;
  std::memcpy(&number, &bits, 4);
  return number;
}

// Values as floats, one at a time, whatever their type.
struct Values {
  const Constant& stored;
  float operator[](int64_t i) const {
    switch (stored.type) {
      case type_float: return static_cast<const float*>(stored.data)[i];
      case type_float16: return from_half(static_cast<const uint16_t*>(stored.data)[i]);
      default: return static_cast<const int8_t*>(stored.data)[i];
    }
  }
};

const Constant& constant(int number, const std::vector<Constant>& constants, std::initializer_list<int> types, const char* what) {
  if (number < 0) throw Error(std::string(what) + " are missing");
  const Constant& found = constants.at(size_t(number));
  for (int type : types)
    if (found.type == type) return found;
  throw Error(std::string(what) + " of element type " + std::to_string(found.type) + " in constant " + std::to_string(number));
}

std::string numbers(int64_t got, int64_t expected) { return std::to_string(got) + "; expected " + std::to_string(expected); }

// Calls entry(position, index into values) for each value, positions increasing and below size.
template <class F>
void each_step(const Constant& codes, const Constant& values, int64_t size, F entry) {
  const uint8_t* steps = static_cast<const uint8_t*>(codes.data);
  if (values.elements != codes.elements) throw Error("values for steps: " + numbers(values.elements, codes.elements));
  int64_t at = codes.elements ? 0 : -1;
  for (int64_t i = 0; i < codes.elements; i++) {
    if (i && !steps[i]) throw Error("two values for one position");
    at += steps[i];
    if (at >= size) throw Error("a position past the end of a weight");
    entry(at, i);
  }
  if (size - 1 - at >= 255) throw Error("steps that end before the weight does");
}

template <class F>
int64_t each_gap(const Constant& codes, int bits, int64_t count, int64_t size, F entry) {
  const uint8_t* bytes = static_cast<const uint8_t*>(codes.data);
  const int filler = (1 << bits) - 1;
  int64_t at = 0, found = 0;
  for (int64_t i = 0; i < count; i++) {
    int code = bits == 8 ? bytes[i] : bytes[i / 2] >> (i % 2 * 4) & 15;
    at += code;
    if (code == filler) continue;
    if (at >= size) throw Error("a position past the end of a weight");
    entry(at++, ++found);
  }
  if (at > size) throw Error("gaps that end past the end of a weight");
  if (size - at >= filler) throw Error("gaps that end before the weight does");
  return found;
}

template <class F>
int64_t each_bit(const Constant& mask, int64_t size, F entry) {
  const uint8_t* bytes = static_cast<const uint8_t*>(mask.data);
  if (mask.elements != (size + 7) / 8) throw Error("bytes of a bitmask: " + numbers(mask.elements, (size + 7) / 8));
  if (size % 8 && bytes[size / 8] >> (size % 8)) throw Error("bits behind the end of a bitmask");
  int64_t found = 0;
  for (int64_t byte = 0; byte < mask.elements; byte++)
    for (int bits = bytes[byte]; bits; bits &= bits - 1) entry(byte * 8 + __builtin_ctz(unsigned(bits)), ++found);
  return found;
}

// Calls entry(position, value) for each stored value. The first pass checks, so that the second may trust.
template <class F>
void each_value(const StoredWeight& w, const std::vector<Constant>& constants, int64_t size, F entry) {
  const Constant& stored = constant(w.values, constants, {type_float, type_float16, type_int8}, "values");
  Values values{stored};
  if (w.layout == Layout::dense) {
    if (stored.elements != size) throw Error("values of a dense weight: " + numbers(stored.elements, size));
    for (int64_t i = 0; i < size; i++) entry(i, values[i]);
    return;
  }
  const Constant& positions = constant(w.positions, constants, {w.layout == Layout::gaps4 ? int(type_uint4) : int(type_uint8)}, "positions");
  if (w.layout == Layout::gaps8_steps) return each_step(positions, stored, size, [&](int64_t at, int64_t i) { entry(at, values[i]); });
  auto visit = [&](auto each) {
    switch (w.layout) {
      case Layout::gaps8: return each_gap(positions, 8, positions.elements, size, each);
      case Layout::gaps4: return each_gap(positions, 4, positions.elements, size, each);
      case Layout::gaps4_packed:
        if (positions.elements != (w.count + 1) / 2) throw Error("bytes of packed codes: " + numbers(positions.elements, (w.count + 1) / 2));
        if (w.count % 2 && static_cast<const uint8_t*>(positions.data)[w.count / 2] >> 4 != 15) throw Error("padding of codes that is not 15");
        return each_gap(positions, 4, w.count, size, each);
      default: return each_bit(positions, size, each);
    }
  };
  int64_t found = visit([](int64_t, int64_t) {});
  if (stored.elements != found + 1) throw Error("values for positions: " + numbers(stored.elements, found + 1));
  const size_t width = stored.type == type_float ? 4 : stored.type == type_float16 ? 2 : 1;
  for (size_t i = 0; i < width; i++)
    if (static_cast<const uint8_t*>(stored.data)[i]) throw Error("values that do not begin with 0");
  visit([&](int64_t at, int64_t i) { entry(at, values[i]); });
}

}  // namespace

SparseRows unpack(const StoredWeight& w, const std::vector<Constant>& constants, int64_t rows, int64_t columns, bool transposed) {
  const float* scales = nullptr;
  if (w.values >= 0 && constants.at(size_t(w.values)).type == type_int8) {
    const Constant& found = constant(w.scales, constants, {type_float}, "scales");
    if (found.elements != rows) throw Error("scales: " + numbers(found.elements, rows));
    scales = static_cast<const float*>(found.data);
  } else if (w.scales >= 0) {
    throw Error("scales of values that are not int8");
  }
  std::vector<int32_t> position;
  SparseRows sparse;
  each_value(w, constants, rows * columns, [&](int64_t at, float value) {
    if (scales) value *= scales[transposed ? at % rows : at / columns];
    if (value == 0) return;
    position.push_back(int32_t(at));
    sparse.value.push_back(value);
  });
  const size_t entries = position.size();
  sparse.start.assign(size_t(rows) + 1, 0);
  for (int32_t at : position) sparse.start[size_t(transposed ? at % rows : at / columns) + 1]++;
  for (size_t row = 0; row < size_t(rows); row++) sparse.start[row + 1] += sparse.start[row];
  if (!transposed) {
    for (int32_t& at : position) at %= int32_t(columns);
    sparse.column = std::move(position);
    return sparse;
  }
  std::vector<size_t> next(sparse.start.begin(), sparse.start.end() - 1);
  std::vector<float> value(entries);
  sparse.column.resize(entries);
  for (size_t i = 0; i < entries; i++) {
    size_t to = next[size_t(position[i] % rows)]++;
    sparse.column[to] = int32_t(position[i] / rows);
    value[to] = sparse.value[i];
  }
  sparse.value = std::move(value);
  return sparse;
}

std::vector<float> unpack_bias(int bias, const std::vector<Constant>& constants, int64_t channels) {
  if (bias < 0) return std::vector<float>(size_t(channels));
  const Constant& found = constant(bias, constants, {type_float}, "a bias's numbers");
  if (found.elements != channels) throw Error("numbers of a bias: " + numbers(found.elements, channels));
  const float* data = static_cast<const float*>(found.data);
  return std::vector<float>(data, data + channels);
}

}  // namespace granet
