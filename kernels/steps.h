// Everything but convolutions: conversions of layouts, borders, sums, activations, pools, products.
#pragma once
#include <memory>

#include "plan.h"

namespace granet {

using StepPointer = std::unique_ptr<Step>;

StepPointer convert(const Plan& plan, int from, int to);           // between plain and lanes, or other lanes
StepPointer fill_border(const Plan& plan, int buffer);             // from the tiles next to it
StepPointer clean(const Plan& plan, int buffer);                   // 0 in lanes beyond the map
StepPointer activate(const Plan& plan, int from, int to, const Activation& activation);
StepPointer add(const Plan& plan, int a, int b, int to);
StepPointer gate(const Plan& plan, int from, int factors, int to);  // factors: plain
StepPointer concatenate(const Plan& plan, std::vector<int> from, int to);
StepPointer pool(const Plan& plan, int from, int to, const Operation& operation);
StepPointer global_average(const Plan& plan, int from, int to);
StepPointer linear(const Plan& plan, int from, int to, SparseRows weights, std::vector<float> bias);

}  // namespace granet
