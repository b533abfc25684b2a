// Executes a plan: a few images at a time, step by step, each step's tasks on the threads that there are.
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <mutex>

#include "plan.h"

namespace granet {

struct Island::Memories {
  struct Free {
    void operator()(float* p) const { std::free(p); }
  };
  using Memory = std::unique_ptr<float, Free>;
  struct Sized {
    Memory memory;
    size_t bytes;
  };
  std::mutex mutex;
  std::vector<Sized> idle;

  Sized take(size_t bytes) {
    {
      std::lock_guard<std::mutex> lock(mutex);
      for (size_t i = 0; i < idle.size(); i++)
        if (idle[i].bytes >= bytes) {
          Sized found = std::move(idle[i]);
          idle.erase(idle.begin() + ptrdiff_t(i));
          return found;
        }
      if (!idle.empty()) idle.pop_back();  // too small for the batches of now
    }
    Memory memory(static_cast<float*>(std::aligned_alloc(64, bytes)));
    if (!memory) throw Error("no memory for " + std::to_string(bytes) + " bytes of values");
    return {std::move(memory), bytes};
  }
  void give_back(Sized sized) {
    std::lock_guard<std::mutex> lock(mutex);
    idle.push_back(std::move(sized));
  }
};

float* Frame::at(int number, int image) const {
  const Buffer* buffer = &plan.buffers[size_t(number)];
  if (buffer->input >= 0) return const_cast<float*>(inputs[size_t(buffer->input)]) + image * buffer->image;
  if (buffer->output >= 0) return outputs[size_t(buffer->output)] + image * buffer->image;
  while (buffer->alias >= 0) buffer = &plan.buffers[size_t(buffer->alias)];
  return memory + buffer->offset * images + image * buffer->image;
}

Island make_island(std::unique_ptr<Plan> plan) { return {std::move(plan), std::make_shared<Island::Memories>()}; }

void Island::run(const std::vector<const float*>& inputs, const std::vector<float*>& outputs, int64_t batch, const Threads& threads) const {
  constexpr int64_t near_floats = 8 << 20;  // 32 MiB of values at a time, but four images in any case
  const int64_t most = std::clamp<int64_t>(near_floats / std::max<int64_t>(plan->memory, 1), 4, 16);
  const int together = int(std::min(batch, most));
  if (!together) return;
  const uint64_t bytes = (uint64_t(plan->memory) * uint64_t(together) * sizeof(float) + 64 + 63) / 64 * 64;
  Memories::Sized memory = memories->take(size_t(bytes));
  Frame frame{*plan, memory.memory.get(), together, threads.count, inputs, outputs};
  for (int64_t done = 0; done < batch; done += frame.images) {
    frame.images = int(std::min<int64_t>(together, batch - done));
    for (const Buffer& b : plan->buffers) {
      if (b.input >= 0) frame.inputs[size_t(b.input)] = inputs[size_t(b.input)] + done * b.image;
      if (b.output >= 0) frame.outputs[size_t(b.output)] = outputs[size_t(b.output)] + done * b.image;
    }
    for (const auto& step : plan->steps) {
      struct Work {
        const Frame& frame;
        const Step& step;
        std::atomic<bool> failed;
      } work{frame, *step, {false}};
      auto task = [](void* self, size_t i) {
        Work& w = *static_cast<Work*>(self);
        try {  // threads of others must not see exceptions
          w.step.run(w.frame, int(i));
        } catch (...) {
          w.failed = true;
        }
      };
      const int tasks = step->tasks(frame);
      if (tasks == 1 || threads.count == 1)
        for (int i = 0; i < tasks; i++) task(&work, size_t(i));
      else
        threads.parallel(threads.self, task, size_t(tasks), &work);
      if (work.failed) throw Error("no memory");
    }
  }
  memories->give_back(std::move(memory));
}

}  // namespace granet
