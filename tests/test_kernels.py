"""The native kernels: what they compute, on every instruction set that this processor has, and what they refuse."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import granet.kernels
from granet.kernels.program import (
    Activation,
    Add,
    Convolution,
    GlobalAverage,
    Linear,
    MaxPool,
    Nonlinearity,
    Program,
    Shape,
    WeightLayout,
    encode,
)
from tests import random_programs
from tests.native_kernels import Constants, KernelError, Kernels, check
from tests.random_programs import sparse_weight

ISAS = ("plain", "avx2", "avx512", "neon")


@pytest.fixture(scope="module")
def kernels() -> Kernels:
    found = granet.kernels.path()
    if found is None:
        pytest.skip(granet.kernels.MISSING)
    return Kernels(str(found))


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest, kernels: Kernels) -> str:
    if not kernels.has(request.param):
        pytest.skip("not on this processor")
    return str(request.param)


def test_random_layers_are_what_float64_says_on_any_number_of_threads(kernels: Kernels, isa: str) -> None:
    for seed in range(60):
        program, constants, inputs = random_programs.layer(np.random.default_rng(seed))
        assert check(kernels, program, constants, inputs, isa) < 1e-5, program


def test_random_islands_are_what_float64_says_on_any_number_of_threads(kernels: Kernels, isa: str) -> None:
    for seed in range(40):
        program, constants, inputs = random_programs.chain(np.random.default_rng(seed))
        assert check(kernels, program, constants, inputs, isa) < 1e-4, program


def bottleneck(rng: np.random.Generator) -> tuple[Program, Constants, list[Any]]:
    """Two residual blocks of three convolutions, large enough to be done tile by tile, pooled and classified."""
    constants, relu = Constants(), Activation(kind=Nonlinearity.RELU)

    def convolution(source: int, ins: int, outs: int, k: int, **more: Any) -> Convolution:
        weight = sparse_weight(rng, (outs, ins, k, k), 0.2) / np.float32(np.sqrt(0.2 * ins * k * k))
        bias = constants.add(rng.standard_normal(outs).astype(np.float32))
        stored = constants.add_weight(weight, WeightLayout.GAPS8)
        return Convolution(
            input=source, weight=stored, channels=outs, kernel=(k, k), bias=bias, pads=(k // 2,) * 4, **more
        )

    blocks = [
        operation
        for first in (1, 4)
        for operation in (
            convolution(first, 64, 16, 1, activation=relu),
            convolution(first + 1, 16, 16, 3, activation=relu),
            convolution(first + 2, 16, 64, 1, residual=first, activation=relu),
        )
    ]
    head = [
        GlobalAverage(input=7),
        Linear(
            input=8,
            weight=constants.add_weight(sparse_weight(rng, (10, 64), 0.5), WeightLayout.BITMASK),
            features=10,
        ),
    ]
    start = MaxPool(input=0, kernel=(3, 3), size=(56, 56), strides=(2, 2), pads=(1, 1, 1, 1))
    program = Program(
        inputs=(Shape(channels=64, height=112, width=112),),
        constants=len(constants.stored),
        operations=(start, *blocks, *head),
        outputs=(9, 7),
    )
    return program, constants, [rng.standard_normal((3, 64, 112, 112)).astype(np.float32)]


def test_residual_blocks_of_a_large_map_are_what_float64_says(kernels: Kernels, isa: str) -> None:
    assert check(kernels, *bottleneck(np.random.default_rng(0)), isa) < 1e-5


@pytest.mark.parametrize("batch", [1, 8, 32])
def test_images_of_a_batch_do_not_depend_on_each_other(kernels: Kernels, batch: int) -> None:
    rng = np.random.default_rng(1)
    constants = Constants()
    weight = constants.add_weight(sparse_weight(rng, (20, 12, 3, 3), 0.2), WeightLayout.GAPS4)
    convolution = Convolution(input=0, weight=weight, channels=20, kernel=(3, 3), pads=(1, 1, 1, 1))
    program = Program(
        inputs=(Shape(channels=12, height=7, width=7),), constants=2, operations=(convolution,), outputs=(1,)
    )
    island = kernels.open(encode(program), constants.packed)
    images = rng.standard_normal((batch, 12, 7, 7)).astype(np.float32)
    together = island.run([images], [(20, 7, 7)])[0]
    alone = np.concatenate([island.run([images[i : i + 1]], [(20, 7, 7)])[0] for i in range(batch)])
    assert np.array_equal(together, alone)


def small() -> tuple[Program, Constants]:
    rng = np.random.default_rng(2)
    constants = Constants()
    stored = [constants.add_weight(sparse_weight(rng, (5, 5, 3, 3), 0.3), layout, "int8") for layout in WeightLayout]
    bias = constants.add(np.ones(5, np.float32))
    convolutions = [
        Convolution(
            input=i,
            weight=weight,
            channels=5,
            kernel=(3, 3),
            bias=bias,
            residual=max(i - 1, 0),
            pads=(1, 1, 1, 1),
        )
        for i, weight in enumerate(stored)
    ]
    operations = (*convolutions, Add(inputs=(5, 6)), MaxPool(input=7, kernel=(2, 2), size=(2, 2), strides=(2, 2)))
    shape = Shape(channels=5, height=4, width=5)
    return Program(inputs=(shape,), constants=len(constants.stored), operations=operations, outputs=(8,)), constants


def test_a_program_with_any_number_changed_is_refused_or_runs(kernels: Kernels) -> None:
    program, constants = small()
    integers, packed = encode(program), constants.packed
    inputs = np.zeros((2, 5, 4, 5), np.float32)
    refused = 0
    for at in range(len(integers)):
        for value in (-(2**63), -1, 0, integers[at] + 1, 2**31, 2**63 - 1):
            damaged = [*integers[:at], value, *integers[at + 1 :]]
            try:
                island = kernels.open(damaged, packed)
            except KernelError:
                refused += 1
                continue
            if damaged[5:8] == integers[5:8] and damaged[-1] == integers[-1]:
                island.run([inputs], [(5, 40, 40)])
    assert refused > 3 * len(integers)
    for end in range(len(integers)):
        with pytest.raises(KernelError):
            kernels.open(integers[:end], packed)


DAMAGE: dict[str, Callable[[random.Random, Any], None]] = {
    "a code": lambda rng, constant: (
        constant.data.reshape(-1).view(np.uint8).__setitem__(rng.randrange(constant.data.nbytes), rng.randrange(256))
    ),
    "the number of elements": lambda rng, constant: setattr(
        constant, "elements", max(constant.elements - rng.randrange(1, 3), 0)
    ),
    "the type": lambda rng, constant: setattr(constant, "type", rng.choice([0, 3, 6, 7])),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_constants_are_refused_or_run(kernels: Kernels, damage: str) -> None:
    program, constants = small()
    rng, refused = random.Random(3), 0
    for _ in range(300):
        packed = constants.packed
        chosen = rng.choice(packed)
        chosen.data = chosen.data.copy()
        if not chosen.data.nbytes:
            continue
        DAMAGE[damage](rng, chosen)
        try:
            kernels.open(encode(program), packed).run([np.zeros((1, 5, 4, 5), np.float32)], [(5, 2, 2)])
        except KernelError:
            refused += 1
    assert refused


def test_what_is_wrong_is_named(kernels: Kernels) -> None:
    program, constants = small()
    integers = encode(program)
    with pytest.raises(KernelError, match=r"a program of format 2; this library knows 1"):
        kernels.open([2, *integers[1:]], constants.packed)
    packed = constants.packed
    packed[-1].elements -= 1
    with pytest.raises(KernelError, match=r"operation 0: numbers of a bias: 4; expected 5"):
        kernels.open(integers, packed)
