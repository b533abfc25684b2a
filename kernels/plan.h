// How an island is computed with one instruction set: buffers in a common block of memory, and steps that fill them.
#pragma once
#include <memory>
#include <vector>

#include "isa.h"
#include "island.h"
#include "layout.h"

namespace granet {

// Memory for a value of each image: NCHW ("plain") or in lanes. A value may have several.
struct Buffer {
  int value = 0;
  bool lanes = false;
  LaneLayout layout;
  float fill = 0;        // what lies outside of the map
  Sampling sampling;     // of the map
  bool clean = false;    // whether lanes beyond the map must hold 0
  int input = -1;        // the data input that this is, in the caller's memory
  int output = -1;       // the same for outputs
  int alias = -1;        // a buffer whose memory this one takes over
  int64_t channel = 0;   // floats
  int64_t image = 0;     // floats, a multiple of 16 but for the caller's
  int64_t offset = 0;    // floats, for one image
  int first = 1 << 30, last = -1;  // steps that use it
};

struct Plan;

// Where things are during one run. At most `images` at a time.
struct Frame {
  const Plan& plan;
  float* memory;
  int images, threads;
  std::vector<const float*> inputs;
  std::vector<float*> outputs;
  float* at(int buffer, int image) const;
};

// Something to do, cut into tasks that may run at the same time.
struct Step {
  virtual ~Step() = default;
  virtual int tasks(const Frame& frame) const = 0;
  virtual void run(const Frame& frame, int task) const = 0;
  virtual std::vector<int> uses() const = 0;  // buffers
  // Pairs of buffers of which the second may take over the memory of the first, if nothing else needs that any more.
  virtual std::vector<std::pair<int, int>> in_place() const { return {}; }
};

struct Plan {
  const Isa& isa;
  Program program;
  std::vector<Buffer> buffers;
  std::vector<std::unique_ptr<Step>> steps;
  int64_t memory = 0;  // floats, for one image
};

std::unique_ptr<Plan> make_plan(Program program, const std::vector<Constant>& constants, const Isa& isa);

// Runs fn(context, i) for each i below count, in any order or at the same time.
struct Threads {
  int count;
  void (*parallel)(void* self, void (*fn)(void*, size_t), size_t count, void* context);
  void* self;
};

// Memory of runs that are over, for those to come. A session may run several times at once.
struct Island {
  std::unique_ptr<Plan> plan;
  struct Memories;
  std::shared_ptr<Memories> memories;
  void run(const std::vector<const float*>& inputs, const std::vector<float*>& outputs, int64_t batch, const Threads& threads) const;
};
Island make_island(std::unique_ptr<Plan> plan);

}  // namespace granet
