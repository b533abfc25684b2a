// A convolution: its weights as lists of entries, its map as register tiles.
#pragma once
#include <memory>

#include "plan.h"

namespace granet {

struct RegisterTile {
  int row, column, rows, columns;  // in vectors, of the output
};

// A cut of rows x columns vectors into register tiles, and of input channels into blocks that stay in the first cache.
struct Tiling {
  std::vector<RegisterTile> tiles;
  int blocks = 1;
};

// What is to be computed, from buffers whose layouts are final.
struct ConvolutionSpec {
  int in, out, residual;  // buffers
  const Operation* operation;
  Window window;
  bool mask;  // whether lanes beyond the map must become 0
  SparseRows weights;
  std::vector<float> bias;
};

struct Convolution : Step {
  Convolution(const Plan& plan, ConvolutionSpec spec);
  int tasks(const Frame& frame) const override;
  void run(const Frame& frame, int task) const override;
  std::vector<int> uses() const override;
  std::vector<std::pair<int, int>> in_place() const override;
  void run_tile(const Frame& frame, int tile, int image, int images, int first_segment, int last_segment) const;
  int joined(const Frame& frame) const;   // images whose vectors share a register tile
  int pieces(const Frame& frame) const;   // cuts of the output channels, for threads

  const Isa& isa;
  int in_buffer, out_buffer, residual_buffer;
  Tiling tiling;
  LaneLayout in, out, residual;  // with one row when flat
  int channels, stride[2], sums;
  std::vector<Entry> entries;
  std::vector<int32_t> counts, order;    // [block][output channel], sorted within segments
  std::vector<size_t> starts;            // [block][segment] of entries
  std::vector<float> bias;
  Aligned<int32_t> mask;
  bool clamp = false;
  float low = 0, high = 0;
};

}  // namespace granet
