// What one instruction set offers: functions over vectors of `lanes` floats. Plain data only, because the files that
// include this are compiled for processors that may not be the one at hand: nothing inline may be shared with others.
#pragma once
#include <cstddef>
#include <cstdint>

namespace granet {

// A weight that is not zero: where its input begins, in bytes from that of a tile, and its value.
struct Entry {
  int32_t offset;
  float value;
};

constexpr int most_rows = 8;  // of a register tile

// A register tile of one convolution: `rows x columns` vectors of each of `n` output channels. Strides are in bytes.
struct ConvTile {
  const char* in;
  const Entry* entries;    // of the channels, one after the other
  const int32_t* counts;   // of entries
  const int32_t* channels;
  int n;
  const float* bias;
  char* out;
  const char* residual;  // or null
  const char* mask;      // of lanes that lie on the map; null when all do
  ptrdiff_t out_channel, residual_channel;
  ptrdiff_t in_row[most_rows], out_row[most_rows], residual_row[most_rows], mask_row[most_rows];
  bool first, last;  // block of input channels: starts from bias and residual; ends with activation and mask
  bool clamp;
  bool far;  // whether the output is unlikely to be in a near cache
  float low, high;
};
typedef void (*ConvFunction)(const ConvTile&);

// A vector that is a permutation of the lanes of another one of the same channel. Positions in vectors.
struct Move {
  int32_t to, from, permutation;
};

// Rows of vectors: out = f(a, b).
struct Rows {
  float *out;
  const float *a, *b;
  ptrdiff_t out_row, a_row, b_row;  // in floats
  int rows, floats;                 // floats: of a row, a multiple of `lanes`
};

// A window over one channel. Positions in vectors.
struct PoolRows {
  const float* in;
  float* out;
  const float* scale;  // [rows * columns * lanes], for averages
  const char* mask;    // as in ConvTile
  const int32_t* taps;
  int n_taps, rows, columns;
  ptrdiff_t in_row, in_column, out_row;
};

// Products of sparse rows [begin, end) with one vector, or with `lanes` vectors side by side.
struct LinearRows {
  const float* x;
  float* y;
  const size_t* start;
  const int32_t* column;
  const float *value, *bias;
  int begin, end;
};

struct Isa {
  const char* name;
  int lanes;
  int most_vectors;  // in registers, for sums
  ConvFunction (*conv)(int rows, int columns, int stride, int sums);  // null when there is none; sums: 1, 2 or 4
  // Out [channels][count] from in by index, or fill where the index is -1. Indices: a multiple of lanes.
  void (*gather)(const float* in, ptrdiff_t in_channel, float* out, ptrdiff_t out_channel, int channels, const int32_t* index, int count, float fill);
  void (*move)(const float* in, ptrdiff_t in_channel, float* out, ptrdiff_t out_channel, int channels, const Move* moves, int count, const int32_t* permutations);
  void (*activate)(const Rows&, int kind, float low, float high);
  void (*add)(const Rows&);
  void (*scale)(const Rows&, float factor);
  void (*max_pool)(const PoolRows&);
  void (*average_pool)(const PoolRows&);
  float (*sum)(const Rows&);
  void (*linear)(const LinearRows&);
  void (*linear_batch)(const LinearRows&);
};

// The best one for this processor, or the one that GRANET_KERNELS_ISA names; null when that is not to be had.
const Isa* choose_isa(const char* name);

}  // namespace granet
