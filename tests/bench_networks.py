"""Tiny ONNX files and simulated processes for the tests of measurements."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from exporters.bench.comparison import Contender
from exporters.bench.protocol import Opened, Spec


def write_network(
    path: Path,
    *,
    layers: int = 1,
    density: float = 1.0,
    batch: int | str = "batch",
    size: int | str = 12,
    operator: str | None = None,
) -> Path:
    """Convolutions of 8 channels in a row, and one more node of ``operator`` where that is given."""
    generator = np.random.default_rng(0)
    nodes, weights, last = [], [], "images"
    for number in range(layers):
        weight = generator.standard_normal((8, 3 if number == 0 else 8, 3, 3)).astype(np.float32)
        weight[generator.random(weight.shape) >= density] = 0.0
        weights.append(numpy_helper.from_array(weight, f"weight{number}"))
        nodes.append(helper.make_node("Conv", [last, f"weight{number}"], [f"x{number}"], pads=[1, 1, 1, 1]))
        last = f"x{number}"
    if operator is not None:
        nodes.append(helper.make_node(operator, [last], ["extra"]))
        last = "extra"
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["logits"]))
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, size, size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 8, 1, 1])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


class Clock:
    """Time that passes only when simulated processes work."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Machine:
    """Simulated processes, noisy as a shared machine is: alike within a process, drifting, and with outliers.

    Attributes:
        alive: processes that were started and not closed.
        working: bursts since the start, over all processes.
    """

    def __init__(self, *, seed: int, layout: float = 0.01, noise: float = 0.02, drift: float = 0.0) -> None:
        self.clock, self.alive, self.working = Clock(), 0, 0
        self._random = np.random.default_rng(seed)
        self._layout, self._noise, self._drift = layout, noise, drift
        self.latency: dict[str, float] = {}
        self.fails: dict[str, Exception] = {}
        self.interrupt_at: int | None = None

    def start(self, entry: Contender) -> Simulated:
        self.alive += 1
        return Simulated(self, entry.label, float(np.exp(self._random.normal(0.0, self._layout))))

    def times(self, latency: float, runs: int) -> Iterator[float]:
        slower = float(np.exp(abs(self._random.normal(0.0, self._noise))))
        for _ in range(runs):
            self.clock.now += latency
            outlier = 5.0 if self._random.random() < 0.02 else 1.0
            yield latency * slower * outlier * (1.0 + self._drift * self.clock.now)


class Simulated:
    """A process of a ``Machine``."""

    def __init__(self, machine: Machine, label: str, layout: float) -> None:
        self._machine, self._label = machine, label
        self._latency = machine.latency[label] * layout

    def open(self, spec: Spec, *, limit: float) -> Opened:
        if self._label in self._machine.fails:
            raise self._machine.fails[self._label]
        self._machine.clock.now += 0.2
        return Opened(0.1, 0.1, "CPUExecutionProvider", {})

    def burst(self, runs: int, *, drop: int, limit: float) -> list[float]:
        self._machine.working += 1
        if self._machine.working == self._machine.interrupt_at:
            raise KeyboardInterrupt
        return list(self._machine.times(self._latency, runs + drop))[drop:]

    def memory(self) -> tuple[int, int]:
        return 50_000_000, 40_000_000

    def close(self) -> None:
        self._machine.alive -= 1
