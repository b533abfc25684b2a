"""The rule of each operator, and their application to a traced network."""

from __future__ import annotations

from collections.abc import Mapping

from torch.fx import Node

from granet.coupling import elementwise, rearranging
from granet.coupling.analysis import Analysis, Rule
from granet.coupling.channels import FeatureMap
from granet.coupling.contraction import contraction
from granet.coupling.tracing import Trace, operation, overload

# All of them are finite where their argument is: see `binary` for why it matters.
_FUNCTIONS = """
    abs celu clamp clamp_max clamp_min elu gelu hardshrink hardsigmoid hardswish hardtanh leaky_relu log_sigmoid mish
    neg relu relu6 rsub selu sigmoid silu softplus softshrink square tanh threshold
"""
_POOLING = """
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
    adaptive_max_pool3d avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool3d
    upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_trilinear3d
"""
_LAYERS = "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d linear"
_COPIES = "alias alpha_dropout clone contiguous detach dropout feature_alpha_dropout feature_dropout to"

RULES: Mapping[str, Rule] = {
    **dict.fromkeys(_LAYERS.split(), contraction),
    **dict.fromkeys(_FUNCTIONS.split(), elementwise.elementwise),
    **dict.fromkeys(("add", "div", "maximum", "minimum", "mul", "sub"), elementwise.binary),
    **dict.fromkeys(_COPIES.split(), elementwise.identity),
    **dict.fromkeys(("batch_norm", "instance_norm"), elementwise.normalisation),
    **dict.fromkeys(_POOLING.split(), rearranging.pooling),
    **dict.fromkeys(("amax.default", "mean.dim"), rearranging.reduction),
    **dict.fromkeys(("permute.default", "swapaxes.default", "transpose.int"), rearranging.permutation),
    **dict.fromkeys(("select.int", "slice.Tensor", "squeeze.dim"), rearranging.piece),
    **dict.fromkeys(("flatten.using_ints", "reshape.default", "view.default"), rearranging.flattening),
    **dict.fromkeys(("constant_pad_nd.default", "pad.default"), rearranging.padding),
    "cat.default": rearranging.concatenation,
    "getitem": rearranging.item,
    "prelu.default": elementwise.prelu,
    "unsqueeze.default": rearranging.insertion,
}
"""Rules by the name of the operator, with its overload where others need another rule."""


def analyse(trace: Trace) -> Analysis:
    """Apply the rules of all operators in the order in which they run."""
    analysis = Analysis(trace)
    for node in trace.nodes:
        if node.op != "placeholder" and (feature := _apply(analysis, node)) is not None:
            analysis.features[node] = feature
    return analysis


def _apply(analysis: Analysis, node: Node) -> FeatureMap | None:
    name = operation(node)
    rule = RULES.get(f"{name}.{overload(node)}", RULES.get(name))
    feature = None if rule is None or node in analysis.trace.opaque else rule(analysis, node)
    if feature is None:
        followed = [analysis.keep_all(argument) for argument in node.all_input_nodes]
        if any(followed) and node.op != "output":
            analysis.unknown[name] += 1
    return feature
