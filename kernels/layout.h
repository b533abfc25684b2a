// Lanes are tiles: a map is cut into down x right equal tiles, one for each lane of a vector, and a value is stored as
// [channel][position][lane], where position runs over the rows and columns of a tile and the border around it. Lane l
// of position (row, column) is the pixel (l / right * rows + row, l % right * columns + column).
#pragma once
#include <cstdint>
#include <vector>

#include "aligned.h"
#include "isa.h"
#include "island.h"

namespace granet {

struct Grid {
  int down = 1, right = 1, rows = 1, columns = 1;
  bool operator==(const Grid& o) const { return down == o.down && right == o.right && rows == o.rows && columns == o.columns; }
  bool covers(int height, int width) const { return int64_t(down) * rows >= height && int64_t(right) * columns >= width; }
};

// The border holds what neighbouring tiles have there, and 0 outside of the map.
struct LaneLayout {
  Grid grid;
  int border[2][2] = {{0, 0}, {0, 0}};  // axis; before and after
  int pitch() const { return grid.columns + border[1][0] + border[1][1]; }
  int64_t positions() const { return int64_t(grid.rows + border[0][0] + border[0][1]) * pitch(); }
  int64_t at(int row, int column) const { return int64_t(row + border[0][0]) * pitch() + column + border[1][0]; }
  bool bordered() const { return border[0][0] || border[0][1] || border[1][0] || border[1][1]; }
  bool operator==(const LaneLayout& o) const {
    for (int a : {0, 1})
      for (int s : {0, 1})
        if (border[a][s] != o.border[a][s]) return false;
    return grid == o.grid;
  }
};

// The grid whose walk takes the least time for a map of this size.
Grid choose_grid(int height, int width, int lanes);
// An estimate of that time.
double grid_cost(const Grid& grid);

// Distances, down and right, between the pixels of a map that are taken.
struct Sampling {
  int down = 1, right = 1;
  bool operator==(const Sampling& o) const { return down == o.down && right == o.right; }
};

// For each element of a channel where in the other form of the channel it is, -1 for nowhere: [positions][lanes] of a
// layout, and [pixels] of a map, padded to a multiple of `lanes`. The shape is that of the map before sampling.
std::vector<int32_t> lanes_from_map(const LaneLayout& to, const Shape& shape, int lanes, Sampling sampling = {});
std::vector<int32_t> map_from_lanes(const LaneLayout& from, const Shape& shape, int lanes);
std::vector<int32_t> lanes_from_lanes(const LaneLayout& to, const LaneLayout& from, const Shape& shape, int lanes, Sampling sampling);

// Bits of all ones where a lane of a tile's position lies on the map: [rows * columns][lanes].
Aligned<int32_t> lane_mask(const Grid& grid, const Shape& shape, int lanes);

// Vectors as permutations of others.
struct Moves {
  std::vector<Move> moves;
  Aligned<int32_t> permutations;  // each [lanes] indices and [lanes] masks
};
Moves borders(const LaneLayout& layout, int lanes);
// The same as [positions][lanes] indices, if each vector has its lanes from a single one; else no moves.
Moves moves_of(const std::vector<int32_t>& index, int lanes);

}  // namespace granet
