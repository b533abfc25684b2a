"""A compiled step does what the optimizer does, to masked weights and nothing else, and keeps them masked."""

from __future__ import annotations

import copy
import shutil
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from granet import Sparsifier
from granet.errors import UsageError
from granet.methods import Dense, GraNet, Static
from granet.methods.base import Method
from granet.sparsifier import compiled_step
from tests.running import METHODS, Make, identical, make

STEPS = 10
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="compiling for a CPU takes a C++ compiler"
)

# Of the compiler's own making.
quiet = pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.* is deprecated:DeprecationWarning")

OPTIMIZERS: dict[str, Make] = {
    "sgd": make(torch.optim.SGD),
    "sgd-momentum": make(torch.optim.SGD, momentum=0.9, dampening=0.3, weight_decay=1e-2, maximize=True),
    "sgd-nesterov": make(torch.optim.SGD, momentum=0.9, nesterov=True, weight_decay=1e-2),
    "sgd-fused": make(torch.optim.SGD, momentum=0.9, fused=True),
    "adam": make(torch.optim.Adam, weight_decay=1e-2),
    "adam-amsgrad": make(torch.optim.Adam, amsgrad=True, maximize=True),
    "adam-fused": make(torch.optim.Adam, fused=True, betas=(0.8, 0.95)),
    "adamw": make(torch.optim.AdamW, weight_decay=0.1),
    "adamw-foreach": make(torch.optim.AdamW, foreach=True, amsgrad=True),
    "rmsprop": make(torch.optim.RMSprop, weight_decay=1e-2, maximize=True),
    "rmsprop-centered": make(torch.optim.RMSprop, momentum=0.9, centered=True, eps=1e-3),
}
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A compiler that compiles nothing but notes how often it was called: everything else is as it really is."""
    calls: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        calls.append(len(inputs))
        return graph.forward

    monkeypatch.setattr(compiled_step, "BACKEND", backend)
    return calls


def network(kind: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[tuple[str, nn.Module]] = [
        ("conv", nn.Conv2d(2, 4, 3)),
        ("tanh", nn.Tanh()),
        ("flat", nn.Flatten()),
        ("fc1", nn.Linear(64, 8)),
        ("act", nn.Tanh()),
        ("fc2", nn.Linear(8, 3, bias=False)),
    ]
    return nn.Sequential(OrderedDict(layers)).to(kind)


class Run:
    """A run whose learning rate changes at every step."""

    def __init__(self, method: Method, optimizer: Make, *, compiled: bool, **settings: Any) -> None:
        self.model: nn.Module = settings.pop("model", None) or network(settings.pop("kind", torch.float64))
        self.optimizer = optimizer(self.model.parameters())
        self.sparsifier = Sparsifier(self.model, self.optimizer, method, total_steps=16, compiled=compiled)

    def backward(self) -> None:
        step = self.sparsifier.steps
        source = torch.Generator().manual_seed(step)
        like = next(self.model.parameters())
        images, labels = torch.randn(8, 2, 6, 6, generator=source), torch.randint(3, (8,), generator=source)
        for group in self.optimizer.param_groups:
            group["lr"] = 0.02 * (1 - step / 20)
        self.optimizer.zero_grad()
        F.cross_entropy(self.model(images.to(like.device, like.dtype)), labels.to(like.device)).backward()

    def step(self) -> None:
        self.backward()
        self.optimizer.step()
        self.check()
        self.sparsifier.step()
        self.check()

    def check(self) -> None:
        for name, mask in self.sparsifier.masks.items():
            parameter = self.model.get_parameter(name)
            for tensor in (parameter.detach(), *self.optimizer.state[parameter].values()):
                if tensor.shape == mask.shape:
                    assert not tensor[~mask].any(), name
                    assert tensor.isfinite().all(), name

    def state(self) -> dict[str, Any]:
        parts = (self.model, self.optimizer, self.sparsifier)
        return copy.deepcopy({type(part).__name__: part.state_dict() for part in parts})

    def load(self, state: dict[str, Any]) -> None:
        for part in (self.model, self.optimizer, self.sparsifier):
            part.load_state_dict(state[type(part).__name__])  # type: ignore[attr-defined]


def numbers(state: Any) -> Iterator[Tensor]:
    """All tensors in a nested state."""
    if isinstance(state, Tensor):
        yield state.double()
    elif isinstance(state, dict):
        for value in state.values():
            yield from numbers(value)


def close(a: Run, b: Run, tolerance: float) -> bool:
    mine, theirs = list(numbers(a.state())), list(numbers(b.state()))
    assert len(mine) == len(theirs) > 10
    return all(torch.allclose(x, y, rtol=tolerance, atol=tolerance) for x, y in zip(mine, theirs, strict=True))


@every_optimizer
def test_it_is_the_step_of_the_optimizer(optimizer: Make, compiler: list[int]) -> None:
    method = GraNet(density=0.2, initial_density=0.7, interval=4)
    plain, compiled = (Run(method, optimizer, compiled=flag) for flag in (False, True))
    for _ in range(STEPS):
        plain.step()
        compiled.step()
        assert close(plain, compiled, 1e-9)
        assert plain.sparsifier.masks == compiled.sparsifier.masks
    assert len(compiler) == 1, "what changes from step to step is not compiled anew"


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_it_serves_every_method(method: Method, compiler: list[int]) -> None:
    plain, compiled = (Run(method, OPTIMIZERS["sgd-nesterov"], compiled=flag) for flag in (False, True))
    for _ in range(STEPS):
        plain.step()
        compiled.step()
    assert close(plain, compiled, 1e-9)
    assert plain.sparsifier.masks == compiled.sparsifier.masks
    assert compiler


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("optimizer", [OPTIMIZERS["sgd-fused"], OPTIMIZERS["adamw"]], ids=["sgd", "adamw"])
@needs_compiler
@quiet
def test_it_really_compiles(optimizer: Make, device: str) -> None:
    model = network(torch.float32).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    runs = [
        Run(GraNet(density=0.3, interval=4), optimizer, compiled=flag, model=copy.deepcopy(model))
        for flag in (False, True)
    ]
    for _ in range(6):
        for run in runs:
            run.step()
    assert close(*runs, 1e-4)
    assert runs[0].sparsifier.masks == runs[1].sparsifier.masks


@needs_compiler
@quiet
def test_where_arithmetic_is_exact_it_is_the_same_to_the_bit() -> None:
    states = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = nn.Linear(40, 30)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randint(-8, 9, parameter.shape))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.25, momentum=0.5)
        sparsifier = Sparsifier(model, optimizer, Static(density=0.5), total_steps=6, compiled=compiled)
        for step in range(6):
            for parameter in model.parameters():
                parameter.grad = torch.randint(-8, 9, parameter.shape).float()
            if step == 4:  # laid out unlike its parameter, as no gradient was before
                model.weight.grad = model.weight.grad.t().contiguous().t()  # type: ignore[union-attr]
            optimizer.step()
            sparsifier.step()
        states.append([model.state_dict(), optimizer.state_dict()])
    assert identical(*states)


def test_gradients_stay_dense(compiler: list[int]) -> None:
    run = Run(Static(density=0.2), OPTIMIZERS["adam"], compiled=True)
    run.step()
    run.backward()
    gradients = {name: parameter.grad for name, parameter in run.model.named_parameters()}
    copies = {name: gradient.clone() for name, gradient in gradients.items() if gradient is not None}
    run.optimizer.step()
    assert compiler
    assert all(run.model.get_parameter(name).grad is gradient for name, gradient in gradients.items())
    assert identical(gradients, copies)


def test_an_infinite_gradient_of_an_inactive_weight_does_no_harm(compiler: list[int]) -> None:
    run = Run(Static(density=0.2), OPTIMIZERS["sgd-momentum"], compiled=True)
    run.step()
    run.backward()
    for name, mask in run.sparsifier.masks.items():
        run.model.get_parameter(name).grad[~mask] = torch.inf  # type: ignore[index]
    run.optimizer.step()
    run.check()


@pytest.mark.parametrize("pause", [0, 3, 4])
def test_resuming_continues_bit_by_bit(pause: int, compiler: list[int]) -> None:
    method = GraNet(density=0.2, interval=4)
    whole, resumed = (Run(method, OPTIMIZERS["adamw"], compiled=True) for _ in range(2))
    for _ in range(pause):
        whole.step()
    resumed.step()  # the state replaces whatever was there
    resumed.load(whole.state())
    for _ in range(8 - pause):
        whole.step()
        resumed.step()
    assert identical(whole.state(), resumed.state())


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_a_group_without_masked_parameters_is_the_optimizers_own(
    optimizer: Callable[..., torch.optim.Optimizer], compiler: list[int]
) -> None:
    def grouped(parameters: Any) -> torch.optim.Optimizer:
        parameters = list(parameters)
        decaying, others = ([p for p in parameters if (p.dim() > 1) == wide] for wide in (True, False))
        groups = [{"params": others, "weight_decay": 0.0}, {"params": decaying, "weight_decay": 0.1}]
        return optimizer(groups, lr=0.02)

    plain, compiled = (Run(Static(density=0.3), grouped, compiled=flag) for flag in (False, True))
    for _ in range(4):
        plain.step()
        compiled.step()
    assert all(
        torch.allclose(mine, other, rtol=1e-9, atol=1e-9)
        for mine, other in zip(plain.model.parameters(), compiled.model.parameters(), strict=True)
    )
    assert compiler


def test_parameter_groups_keep_their_settings(compiler: list[int]) -> None:
    def grouped(parameters: Any) -> torch.optim.Optimizer:
        one, two, *others = parameters
        groups = [{"params": [one, two], "momentum": 0.9, "nesterov": True}, {"params": others, "weight_decay": 0.1}]
        return torch.optim.SGD(groups, lr=0.02)

    plain, compiled = (Run(Static(density=0.3), grouped, compiled=flag) for flag in (False, True))
    for _ in range(5):
        plain.step()
        compiled.step()
        for run in (plain, compiled):
            run.optimizer.param_groups[0]["momentum"] -= 0.1
    assert close(plain, compiled, 1e-9)
    assert len(compiler) == 1


def cleared(run: Run) -> None:
    run.optimizer.state.clear()


def reloaded(run: Run) -> None:
    run.optimizer.load_state_dict(copy.deepcopy(run.optimizer.state_dict()))


def moved(run: Run) -> None:
    """The weights, and one of the slots, to other memory, which then holds something else."""
    for parameter in run.model.parameters():
        parameter.data = parameter.data * 0.5
    state = run.optimizer.state[run.model.get_parameter("fc1.weight")]
    state["exp_avg"] = state["exp_avg"] * 2


def started_over(run: Run) -> None:
    """One parameter, with a state of its own."""
    parameter = run.model.get_parameter("fc2.weight")
    run.optimizer.state[parameter] = {
        name: torch.zeros_like(slot) for name, slot in run.optimizer.state[parameter].items()
    }


def settled(run: Run) -> None:
    run.optimizer.param_groups[0]["weight_decay"] = 0.0


@pytest.mark.parametrize("change", [cleared, reloaded, moved, started_over, settled])
def test_it_follows_what_others_do_to_weights_and_optimizer(change: Callable[[Run], None], compiler: list[int]) -> None:
    plain, compiled = (Run(Static(density=0.3), OPTIMIZERS["adam"], compiled=flag) for flag in (False, True))
    for step in range(8):
        for run in (plain, compiled):
            if step in (3, 5):
                change(run)
            run.step()
        assert close(plain, compiled, 1e-9)
    assert compiler


def test_a_layer_without_a_gradient_leaves_the_step_to_the_optimizer(compiler: list[int]) -> None:
    plain, compiled = (Run(Static(density=0.3), OPTIMIZERS["adam"], compiled=flag) for flag in (False, True))
    for step in range(6):
        for run in (plain, compiled):
            run.backward()
            if step == 3:
                run.model.get_parameter("fc1.weight").grad = None
            run.optimizer.step()
            run.sparsifier.step()
            run.check()
    assert close(plain, compiled, 1e-9)


def test_the_dense_control_can_be_compiled_too(compiler: list[int]) -> None:
    plain, compiled = (Run(Dense(), OPTIMIZERS["adamw"], compiled=flag) for flag in (False, True))
    for _ in range(4):
        plain.step()
        compiled.step()
    assert close(plain, compiled, 1e-9)


def test_many_of_them_do_not_run_into_a_limit_of_the_compiler(compiler: list[int]) -> None:
    for count in range(1, 12):
        model = nn.Linear(count, 3)
        run = torch.optim.SGD(model.parameters(), lr=0.1)
        sparsifier = Sparsifier(model, run, Static(density=0.5), total_steps=2, compiled=True)
        model(torch.ones(2, count)).sum().backward()
        run.step()
        sparsifier.step()
    assert len(compiler) == 11


# What it cannot do


def test_an_optimizer_without_a_rule_is_refused() -> None:
    model = network()
    with pytest.raises(UsageError, match="Adagrad: the step of this optimizer cannot be compiled; expected one of"):
        Sparsifier(model, torch.optim.Adagrad(model.parameters()), Dense(), total_steps=1, compiled=True)
    with pytest.raises(UsageError, match=r"Adam: .* cannot be compiled; got eps=0; expected one of SGD, Adam, AdamW"):
        Sparsifier(model, torch.optim.Adam(model.parameters(), eps=0.0), Dense(), total_steps=1, compiled=True)


def test_a_closure_is_refused(compiler: list[int]) -> None:
    run = Run(Dense(), OPTIMIZERS["sgd"], compiled=True)
    with pytest.raises(UsageError, match="SGD: a compiled step cannot be done with a closure"):
        run.optimizer.step(lambda: 0.0)


def test_gradients_that_the_optimizer_is_to_unscale_are_refused(compiler: list[int]) -> None:
    for fused in (False, True):
        run = Run(Dense(), make(torch.optim.SGD, momentum=0.9, fused=fused), compiled=True, kind=torch.float32)
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        run.optimizer.zero_grad()
        scaler.scale(run.model(torch.randn(2, 2, 6, 6)).sum()).backward()
        if fused:
            with pytest.raises(UsageError, match=r"SGD: a compiled step cannot unscale gradients. Make .*fused=False"):
                scaler.step(run.optimizer)
        else:
            scaler.step(run.optimizer)
            run.sparsifier.step()


def test_without_a_compiler_it_says_so_and_has_done_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(compiled_step, "BACKEND", missing)
    run = Run(Dense(), OPTIMIZERS["adam"], compiled=True)
    run.step()
    run.backward()
    before = run.state()
    with pytest.raises(UsageError, match=r"Adam: the .* cannot be compiled .*; got No working C\+\+ .* as g\+\+"):
        run.optimizer.step()
    assert identical(run.state(), before)
