#include "layout.h"

#include <algorithm>
#include <map>

namespace granet {
namespace {

int divide_up(int64_t a, int64_t b) { return int((a + b - 1) / b); }
int floor_divide(int a, int b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }

}  // namespace

double grid_cost(const Grid& g) {
  // Vectors to compute, and a share of those that a border of one around the tile adds.
  double inside = double(g.rows) * g.columns, around = double(g.rows + 2) * (g.columns + 2) - inside;
  return inside + 0.05 * around;
}

Grid choose_grid(int height, int width, int lanes) {
  Grid best;
  double least = 1e300;
  for (int down = 1; down <= lanes; down *= 2) {
    Grid grid{down, lanes / down, divide_up(height, down), divide_up(width, lanes / down)};
    if (grid_cost(grid) < least) least = grid_cost(grid), best = grid;
  }
  return best;
}

std::vector<int32_t> lanes_from_map(const LaneLayout& to, const Shape& shape, int lanes, Sampling sampling) {
  std::vector<int32_t> index(size_t(to.positions() * lanes), -1);
  const Grid& g = to.grid;
  for (int row = -to.border[0][0]; row < g.rows + to.border[0][1]; row++)
    for (int column = -to.border[1][0]; column < g.columns + to.border[1][1]; column++)
      for (int lane = 0; lane < lanes; lane++) {
        int64_t y = (int64_t(lane / g.right) * g.rows + row) * sampling.down, x = (int64_t(lane % g.right) * g.columns + column) * sampling.right;
        if (y >= 0 && x >= 0 && y < shape.height && x < shape.width) index[size_t(to.at(row, column) * lanes + lane)] = int32_t(y * shape.width + x);
      }
  return index;
}

std::vector<int32_t> map_from_lanes(const LaneLayout& from, const Shape& shape, int lanes) {
  std::vector<int32_t> index(size_t(divide_up(shape.pixels(), lanes)) * size_t(lanes), -1);
  const Grid& g = from.grid;
  for (int y = 0; y < shape.height; y++)
    for (int x = 0; x < shape.width; x++)
      index[size_t(y) * size_t(shape.width) + size_t(x)] = int32_t(from.at(y % g.rows, x % g.columns) * lanes + y / g.rows * g.right + x / g.columns);
  return index;
}

std::vector<int32_t> lanes_from_lanes(const LaneLayout& to, const LaneLayout& from, const Shape& shape, int lanes, Sampling sampling) {
  std::vector<int32_t> index = lanes_from_map(to, shape, lanes, sampling), source = map_from_lanes(from, shape, lanes);
  for (int32_t& i : index)
    if (i >= 0) i = source[size_t(i)];
  return index;
}

Aligned<int32_t> lane_mask(const Grid& g, const Shape& shape, int lanes) {
  const std::vector<int32_t> index = lanes_from_map(LaneLayout{g}, shape, lanes);
  Aligned<int32_t> mask;
  for (int32_t i : index) mask.push_back(i < 0 ? 0 : -1);
  return mask;
}

Moves borders(const LaneLayout& layout, int lanes) {
  const Grid& g = layout.grid;
  std::vector<int32_t> index(size_t(layout.positions() * lanes), -1);
  for (int row = -layout.border[0][0]; row < g.rows + layout.border[0][1]; row++)
    for (int column = -layout.border[1][0]; column < g.columns + layout.border[1][1]; column++)
      for (int lane = 0; lane < lanes; lane++) {
        const int down = floor_divide(row, g.rows), right = floor_divide(column, g.columns), y = lane / g.right + down, x = lane % g.right + right;
        if (y >= 0 && x >= 0 && y < g.down && x < g.right)
          index[size_t(layout.at(row, column) * lanes + lane)] = int32_t(layout.at(row - down * g.rows, column - right * g.columns) * lanes + y * g.right + x);
      }
  Moves all = moves_of(index, lanes);
  auto inside = [&](const Move& move) {
    const int row = move.to / layout.pitch() - layout.border[0][0], column = move.to % layout.pitch() - layout.border[1][0];
    return row >= 0 && row < g.rows && column >= 0 && column < g.columns;
  };
  all.moves.erase(std::remove_if(all.moves.begin(), all.moves.end(), inside), all.moves.end());
  return all;
}

Moves moves_of(const std::vector<int32_t>& index, int lanes) {
  Moves found;
  std::map<std::vector<int32_t>, int> known;  // permutations
  for (size_t to = 0; to * size_t(lanes) < index.size(); to++) {
    int32_t from = -1;
    std::vector<int32_t> permutation(size_t(lanes) * 2, 0);
    for (size_t lane = 0; lane < size_t(lanes); lane++) {
      const int32_t i = index[to * size_t(lanes) + lane];
      if (i < 0) continue;
      if (from >= 0 && from != i / lanes) return {};
      from = i / lanes;
      permutation[lane] = i % lanes;
      permutation[size_t(lanes) + lane] = -1;
    }
    auto [entry, added] = known.try_emplace(permutation, int(known.size()));
    if (added) found.permutations.insert(found.permutations.end(), permutation.begin(), permutation.end());
    found.moves.push_back({int32_t(to), std::max(from, 0), entry->second});
  }
  return found;
}

}  // namespace granet
