"""Networks of random sparse weights as ONNX: dense, and with an island that the kernels run.

The architectures are those of the papers, with what batch normalisation becomes when it is folded: biases. Weights are
random at an exact density for each layer. The stem and the classifier stay outside of the island.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from exporters.encoding import layouts
from exporters.encoding.decoder_functions import DOMAIN, function
from granet.kernels.program import (
    ATTRIBUTE,
    NONE,
    Activation,
    Convolution,
    MaxPool,
    Nonlinearity,
    Program,
    Shape,
    Weight,
    WeightLayout,
    encode,
    island_name,
)

Array = NDArray[np.float32]
OPSET, IR = 18, 9
DENSITIES: Mapping[str, tuple[float, float]] = {
    "uniform 0.05": (0.05, 0.05),
    "uniform 0.1": (0.1, 0.1),
    "uniform 0.2": (0.2, 0.2),
    "ERK-like 0.1": (0.15, 0.07),
}
"""Of layers of one pixel, and of 3 x 3."""


class Builder:
    """Nodes of a network, and the operations of its island."""

    def __init__(self, density: tuple[float, float], seed: int = 0) -> None:
        self._density, self._rng = density, np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.plain: list[onnx.TensorProto] = []
        self.weights: dict[str, Array] = {}
        self.operations: list[Any] = []
        self.constants: list[str] = []
        self.packed: list[onnx.TensorProto] = []
        self.decoders: list[onnx.NodeProto] = []
        self.shapes: dict[str, tuple[int, int]] = {}
        self._numbers: dict[str, int] = {}

    def start(self, channels: int, size: int) -> str:
        """Return the island's input."""
        self._numbers["island_in"], self.shapes["island_in"] = 0, (channels, size)
        return "island_in"

    def weight(self, shape: tuple[int, ...], density: float) -> Array:
        """Return a random weight with an exact share of numbers that are not zero."""
        size, fan_in = int(np.prod(shape)), int(np.prod(shape[1:]))
        weight = np.zeros(size, np.float32)
        chosen = self._rng.permutation(size)[: max(round(size * density), 1)]
        weight[chosen] = self._rng.standard_normal(chosen.size) * np.sqrt(2 / (fan_in * density))
        return weight.reshape(shape)

    def conv(
        self, x: str, outs: int, k: int, stride: int = 1, *, groups: int = 1, relu: bool = True, add: str | None = None
    ) -> str:
        """Add a convolution, a sum and a ReLU; a depthwise one is dense."""
        ins, size = self.shapes[x]
        name = f"c{len(self.operations)}"
        density = 1.0 if groups > 1 else self._density[k > 1]
        weight = self.weight((outs, ins // groups, k, k), density) * np.float32(0.5 if add or not relu else 1)
        bias = self._rng.standard_normal(outs).astype(np.float32) * np.float32(0.05)
        window = {"kernel_shape": [k, k], "strides": [stride, stride], "pads": [k // 2] * 4, "group": groups}
        self.nodes.append(helper.make_node("Conv", [x, f"{name}w", f"{name}b"], [f"{name}_sum"], **window))
        last = f"{name}_sum"
        if add:
            self.nodes.append(helper.make_node("Add", [last, add], [f"{name}_added"]))
            last = f"{name}_added"
        if relu:
            self.nodes.append(helper.make_node("Relu", [last], [f"{name}_relu"]))
            last = f"{name}_relu"
        self.plain += [numpy_helper.from_array(weight, f"{name}w"), numpy_helper.from_array(bias, f"{name}b")]
        stored = layouts.pack("Gaps8", weight.reshape(-1))
        first = len(self.constants)
        self.constants += [f"{name}/codes", f"{name}/values", f"{name}b"]
        self.packed += [
            numpy_helper.from_array(stored.positions, f"{name}/codes"),
            numpy_helper.from_array(stored.values, f"{name}/values"),
            self.plain[-1],
        ]
        self.decoders.append(
            helper.make_node(
                "Gaps8",
                self.constants[first : first + 2],
                [f"{name}w"],
                domain=DOMAIN,
                shape=weight.shape,
                size=[weight.size],
            )
        )
        operation = Convolution(
            input=self._numbers[x],
            weight=Weight(layout=WeightLayout.GAPS8, positions=first, values=first + 1),
            channels=outs,
            kernel=(k, k),
            bias=first + 2,
            residual=NONE if add is None else self._numbers[add],
            groups=groups,
            strides=(stride, stride),
            pads=(k // 2,) * 4,
            activation=Activation(kind=Nonlinearity.RELU if relu else Nonlinearity.NONE),
        )
        return self._add(operation, last, outs, (size + 2 * (k // 2) - k) // stride + 1)

    def max_pool(self, x: str) -> str:
        """Add a max pool that halves the map."""
        channels, size = self.shapes[x]
        name = f"p{len(self.operations)}"
        self.nodes.append(helper.make_node("MaxPool", [x], [name], kernel_shape=[2, 2], strides=[2, 2]))
        pool = MaxPool(input=self._numbers[x], kernel=(2, 2), size=(size // 2, size // 2), strides=(2, 2))
        return self._add(pool, name, channels, size // 2)

    def _add(self, operation: Any, name: str, channels: int, size: int) -> str:
        self.operations.append(operation)
        self._numbers[name], self.shapes[name] = len(self.operations), (channels, size)
        return name

    def model(self, last: str, stem: Stem, *, island: bool, batch: int) -> onnx.ModelProto:
        """Return the network; with ``island``, what lies between stem and head is one."""
        (channels, size), (outs, _) = self.shapes["island_in"], self.shapes[last]
        rng = np.random.default_rng(1)
        head = rng.standard_normal((stem.classes, outs)).astype(np.float32) * np.float32(0.05)
        first = rng.standard_normal((channels, 3, stem.kernel, stem.kernel)).astype(np.float32) * np.float32(0.1)
        window = {"kernel_shape": [stem.kernel] * 2, "strides": [stem.stride] * 2, "pads": [stem.kernel // 2] * 4}
        before = [
            helper.make_node("Conv", ["x", "stem"], ["stem_sum"], **window),
            helper.make_node("Relu", ["stem_sum"], ["stem_relu" if stem.pool else "island_in"]),
        ]
        if stem.pool:
            pool = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}
            before.append(helper.make_node("MaxPool", ["stem_relu"], ["island_in"], **pool))
        after = [
            helper.make_node("GlobalAveragePool", [last], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
            helper.make_node("Gemm", ["flat", "head"], ["y"], transB=1),
        ]
        imports = [helper.make_opsetid("", OPSET)]
        functions, inside, stored = [], self.nodes, self.plain
        if island:
            program = Program(
                inputs=(Shape(channels=channels, height=size, width=size),),
                constants=len(self.constants),
                operations=tuple(self.operations),
                outputs=(self._numbers[last],),
            )
            imports.append(helper.make_opsetid(DOMAIN, 1))
            names = ["island_in", *self.constants]
            body = [*self.decoders, *self.nodes]
            made = helper.make_function(DOMAIN, island_name(0), names, [last], body, imports, attributes=[ATTRIBUTE])
            functions = [function("Gaps8", OPSET), made]
            node = helper.make_node(island_name(0), names, [last], domain=DOMAIN, **{ATTRIBUTE: encode(program)})
            inside, stored = [node], self.packed
        graph = helper.make_graph(
            [*before, *inside, *after],
            "network",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, stem.size, stem.size])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, stem.classes])],
            [*stored, numpy_helper.from_array(first, "stem"), numpy_helper.from_array(head, "head")],
        )
        return helper.make_model(graph, opset_imports=imports, ir_version=IR, functions=functions)


class Stem:
    """What comes before an island."""

    def __init__(self, size: int, kernel: int, stride: int, *, pool: bool, classes: int) -> None:
        self.size, self.kernel, self.stride, self.pool, self.classes = size, kernel, stride, pool, classes


def resnet50(b: Builder) -> tuple[str, Stem]:
    """ResNet-50 at 224."""
    x = b.start(64, 56)
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            stride = 2 if width > 64 and not block else 1
            y = b.conv(b.conv(x, width, 1), width, 3, stride)
            short = b.conv(x, 4 * width, 1, stride, relu=False) if not block else x
            x = b.conv(y, 4 * width, 1, add=short)
    return x, Stem(224, 7, 2, pool=True, classes=1000)


def resnet20(b: Builder) -> tuple[str, Stem]:
    """ResNet-20 at 32."""
    x = b.start(16, 32)
    for width in (16, 32, 64):
        for block in range(3):
            stride = 2 if width > 16 and not block else 1
            short = b.conv(x, width, 1, stride, relu=False) if stride == 2 else x
            x = b.conv(b.conv(x, width, 3, stride), width, 3, add=short)
    return x, Stem(32, 3, 1, pool=False, classes=10)


def vgg19(b: Builder) -> tuple[str, Stem]:
    """VGG-19 at 32, without its first convolution, which is the stem."""
    x = b.start(64, 32)
    for stage, (width, layers) in enumerate(((64, 1), (128, 2), (256, 4), (512, 4), (512, 4))):
        x = b.max_pool(x) if stage else x
        for _ in range(layers):
            x = b.conv(x, width, 3)
    return x, Stem(32, 3, 1, pool=False, classes=10)


def mobilenet(b: Builder) -> tuple[str, Stem]:
    """MobileNetV1 at 224."""
    x = b.start(32, 112)
    for width, stride in (
        (64, 1),
        (128, 2),
        (128, 1),
        (256, 2),
        (256, 1),
        (512, 2),
        *[(512, 1)] * 5,
        (1024, 2),
        (1024, 1),
    ):
        channels = b.shapes[x][0]
        x = b.conv(b.conv(x, channels, 3, stride, groups=channels), width, 1)
    return x, Stem(224, 3, 2, pool=False, classes=1000)


NETWORKS: Mapping[str, Callable[[Builder], tuple[str, Stem]]] = {
    "resnet50": resnet50,
    "resnet20": resnet20,
    "vgg19": vgg19,
    "mobilenet": mobilenet,
}
