#!/usr/bin/env bash
# onnx-ir 1.1.0 (with onnx 1.23.2): reading a valid model whose weight is a sparse initializer and writing it back loses
# the weight. The call succeeds; a log line says that the model is invalid, although onnx.checker accepts it. What is
# written has a node whose input nothing defines, which the checker refuses.
# Seen: before: checker passes, 1 sparse initializer; after: 0 sparse, 0 dense initializers, checker refuses.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet onnx==1.23.2 onnx-ir==1.1.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import onnx
import onnx_ir
from onnx import TensorProto, helper

values = helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 2.0])
indices = helper.make_tensor("w_indices", TensorProto.INT64, [2], [0, 3])
graph = helper.make_graph(
    [helper.make_node("MatMul", ["x", "w"], ["y"])],
    "sparse",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])],
    sparse_initializer=[helper.make_sparse_tensor(values, indices, [2, 2])],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
onnx.checker.check_model(model)
print(f"before: checker passes, {len(model.graph.sparse_initializer)} sparse initializer")

back = onnx_ir.to_proto(onnx_ir.from_proto(model))
sparse, dense = len(back.graph.sparse_initializer), len(back.graph.initializer)
try:
    onnx.checker.check_model(back)
    verdict = "passes"
except onnx.checker.ValidationError:
    verdict = "refuses"
print(f"after: {sparse} sparse, {dense} dense initializers, checker {verdict}")
assert (sparse, dense, verdict) == (0, 0, "refuses"), "onnx-ir now keeps sparse initializers, or refuses them"
PYTHON
