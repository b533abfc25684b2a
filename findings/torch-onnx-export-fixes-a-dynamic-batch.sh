#!/usr/bin/env bash
# torch 2.13.0 (with onnx 1.23.2, onnxscript 0.7.2): torch.onnx.export(dynamo=True) succeeds where the network fixes the
# batch that was asked to be dynamic, here because forward divides by len(x). torch.export.export raises for the same named
# Dim; the ONNX export returns a graph whose input has the example's batch. With Dim.AUTO the program of torch.export has a
# guard that refuses another batch; the ONNX graph declares a symbolic batch, has the example's 4 in it as a constant, and
# gives wrong numbers for every other batch.
# Seen: Dim("batch"): torch.export.export raises UserError, the ONNX input is [4, 3]; Dim.AUTO: the torch program refuses
# batch 8, the ONNX input is a symbol by 3, and a batch of 8 ones has the mean 2.0 instead of 1.0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6 \
  onnx==1.23.2 onnx-ir==1.1.0 onnxscript==0.7.2
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import onnx
import torch
from onnx.reference import ReferenceEvaluator
from torch.export import Dim


class BatchMean(torch.nn.Module):
    def forward(self, x):
        return x.sum(0) / len(x)


def exported(dimension):
    program = torch.onnx.export(
        BatchMean(), (torch.ones(4, 3),), dynamo=True, dynamic_shapes=({0: dimension},), verbose=False
    )
    return program.model_proto


def input_shape(model):
    return [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]


try:
    torch.export.export(BatchMean(), (torch.ones(4, 3),), dynamic_shapes=({0: Dim("batch")},))
    verdict = "succeeds"
except Exception as error:
    verdict = f"raises {type(error).__name__}: {str(error).split('!')[0]}"
named = input_shape(exported(Dim("batch")))
print(f'Dim("batch"): torch.export.export {verdict}; ONNX input {named}')

program = torch.export.export(BatchMean(), (torch.ones(4, 3),), dynamic_shapes=({0: Dim.AUTO},))
try:
    program.module()(torch.ones(8, 3))
    guard = "accepts batch 8"
except Exception as error:
    guard = f"refuses batch 8: {error}"
model = exported(Dim.AUTO)
onnx.checker.check_model(model)
means = ReferenceEvaluator(model).run(None, {model.graph.input[0].name: torch.ones(8, 3).numpy()})[0].tolist()
print(f"Dim.AUTO: the torch program {guard}; ONNX input {input_shape(model)}, mean of 8 ones {means}")

assert verdict.startswith("raises UserError"), "torch.export.export no longer raises"
assert named == [4, 3], "the ONNX export with a named Dim no longer returns a static batch"
assert guard.startswith("refuses"), "the torch program no longer refuses another batch"
assert isinstance(input_shape(model)[0], str), "the ONNX export with Dim.AUTO no longer declares a symbolic batch"
assert means == [2.0, 2.0, 2.0], "the ONNX graph is now right for another batch"
PYTHON
