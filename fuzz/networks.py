"""Generated networks of users: each is a function of its number.

``made.n17`` is the factory of network 17, so that ``fuzz.networks:made.n17`` names it on the command line too. Most can
train; some have outputs, wrappers, frozen layers or errors such as people's networks have.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

CHANNELS, SIZE, CLASSES, BATCH = 3, 8, 3, 4
"""Of the images that the networks are made for."""

Random = random.Random
Shape = tuple[int, int]
"""Channels, and height and width, of a feature map."""


class Made:
    """Factories by number: ``made.n17``."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if not name[1:].isdecimal() or name[:1] != "n":
            raise AttributeError(name)
        return partial(network, int(name[1:]))


made = Made()


def network(number: int) -> Any:
    """Return network ``number``, in whatever wrapper it has."""
    rng = random.Random(number)  # noqa: S311  repeatable, not secret
    return _wrapped(rng, Generated(rng))


def fails_later(number: int) -> bool:
    """Whether network ``number`` fails on purpose after some steps."""
    inner = network(number)
    return any(isinstance(module, Fails) and module.call > 0 for module in getattr(inner, "modules", list)())


class Outputs(NamedTuple):
    """What some networks return."""

    logits: Tensor
    features: Tensor


class Generated(nn.Module):
    """Blocks that keep a feature map, a flattening, a head, and a form of output."""

    def __init__(self, rng: Random) -> None:
        super().__init__()
        shape = (CHANNELS, SIZE)
        blocks: list[nn.Module] = []
        for _ in range(rng.randint(0, 4)):
            block, shape = _block(rng, shape)
            blocks.append(block)
        self.body = nn.Sequential(*blocks) if rng.random() < 0.8 else nn.ModuleList(blocks)
        self.flat, features = _flattening(rng, shape)
        self.head = _head(rng, features)
        odd = ("tuple in training", "dict in training", "tuple", "named", "none", "squeezed", "map", "classes")
        self.output = _pick(rng, {"logits": 40, "log_softmax": 2, **dict.fromkeys(odd, 1)})
        _extras(rng, self)

    def forward(self, images: Tensor) -> Any:
        """Return logits, mostly."""
        x = images
        for block in self.body:
            x = block(x)
        logits = self.head(self.flat(x))
        if self.output.endswith("training"):
            return logits if not self.training else (logits, x) if self.output[0] == "t" else {"out": logits}
        return _OUTPUTS.get(self.output, _identity)(logits)


def _identity(x: Tensor) -> Tensor:
    return x


_OUTPUTS: dict[str, Callable[[Tensor], Any]] = {
    "log_softmax": lambda x: F.log_softmax(x, 1),
    "tuple": lambda x: (x, x),
    "named": lambda x: Outputs(x, x),
    "none": lambda _: None,
    "squeezed": lambda x: x.squeeze(),
    "map": lambda x: x[:, :, None, None],
    "classes": lambda x: x.argmax(1),
}


class Apply(nn.Module):
    """A module from a function of its submodules and the input."""

    def __init__(self, function: Callable[..., Tensor], *modules: nn.Module) -> None:
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(modules)

    def forward(self, x: Tensor) -> Tensor:
        """Call the function."""
        return self.function(x, *self.parts)


class Scale(nn.Module):
    """A bare parameter, buffers of several kinds, and a tensor that is neither."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels, 1, 1))
        self.register_buffer("shift", torch.zeros(channels, 1, 1), persistent=channels % 2 == 0)
        self.register_buffer("calls", torch.tensor(0))
        self.plain = torch.ones(1)

    def forward(self, x: Tensor) -> Tensor:
        """Scale and shift."""
        if self.training:
            self.calls += 1
        return x * self.scale * self.plain + self.shift


class Fails(nn.Module):
    """Raise an error at the given call of training or evaluation, the first being 0."""

    def __init__(self, error: Exception, call: int, training: bool) -> None:
        super().__init__()
        self.error, self.call, self.when, self.calls = error, call, training, 0

    def forward(self, x: Tensor) -> Tensor:
        """Count the calls of a mode."""
        if self.training == self.when:
            self.calls += 1
            if self.calls > self.call:
                raise self.error
        return x


class StochasticDepth(nn.Module):
    """Skip a block in half of the steps of training."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        """Skip or not."""
        return x if self.training and float(torch.rand(())) < 0.5 else x + self.block(x)


def _pick(rng: Random, weights: dict[str, int]) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]


def _conv(rng: Random, shape: Shape, out: int | None = None) -> tuple[nn.Module, Shape]:
    channels, size = shape
    out = out or rng.choice((channels, 4, 6, 8))
    kernel = rng.choice([k for k in (1, 2, 3, 5) if k <= size])
    groups = rng.choice([g for g in (1, 1, 1, 2, 3, channels) if channels % g == 0 == out % g])
    stride = rng.choice((1, 1, 1, 2))
    padding: int | str = rng.choice((0, kernel // 2, kernel // 2))
    if stride == 1 and rng.random() < 0.1:
        padding = "same"
    dilation = 2 if kernel == 3 and size >= 5 and rng.random() < 0.2 else 1
    mode = rng.choice(("zeros", "zeros", "circular", "replicate")) if padding else "zeros"
    layer = nn.Conv2d(
        channels, out, kernel, stride, padding, dilation, groups, bias=rng.random() < 0.6, padding_mode=mode
    )
    reach = dilation * (kernel - 1) + 1
    after = size if padding == "same" else (size + 2 * int(padding) - reach) // stride + 1
    return layer, (out, after)


def _norm(rng: Random, shape: Shape) -> nn.Module:
    channels, size = shape
    kinds: list[Callable[[], nn.Module]] = [
        lambda: nn.BatchNorm2d(channels),
        lambda: nn.BatchNorm2d(channels, affine=False),
        lambda: nn.BatchNorm2d(channels, track_running_stats=False),
        lambda: nn.BatchNorm2d(channels, momentum=None),
        lambda: nn.GroupNorm(1, channels),
        lambda: nn.InstanceNorm2d(channels, affine=True),
        lambda: nn.LayerNorm([channels, size, size]),
        lambda: nn.LocalResponseNorm(3),
    ]
    return rng.choice(kinds)()


def _activation(rng: Random) -> nn.Module:
    kinds = (nn.ReLU, partial(nn.ReLU, inplace=True), nn.GELU, nn.SiLU, nn.PReLU, nn.Hardswish, nn.Tanh, nn.ELU)
    return rng.choice(kinds)()  # type: ignore[operator]


def _channel_shuffle(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


def _tokens(x: Tensor, layer: nn.Module) -> Tensor:
    """Apply a layer of [N, tokens, channels] to a feature map."""
    found = layer(x.flatten(2).transpose(1, 2))
    found = found[0] if isinstance(found, tuple) else found
    return found.transpose(1, 2).reshape(x.shape)


def _attention(x: Tensor, layer: nn.Module) -> Tensor:
    tokens = x.flatten(2).transpose(1, 2)
    return (tokens + layer(tokens, tokens, tokens)[0]).transpose(1, 2).reshape(x.shape)


def _block(rng: Random, shape: Shape) -> tuple[nn.Module, Shape]:
    """Return a random block for a feature map, and the shape of what it returns."""
    channels, size = shape
    same = partial(_same, rng, shape)
    keeping: dict[str, Callable[[], nn.Module]] = {
        "norm": lambda: _norm(rng, shape),
        "activation": lambda: _activation(rng),
        "dropout": lambda: rng.choice((nn.Dropout, nn.Dropout2d, nn.AlphaDropout))(0.3),
        "residual": lambda: Apply(lambda x, f: x + f(x), same()),
        "shared": lambda: Apply(lambda x, f: f(F.relu(f(x))), same()),
        "twice": lambda: nn.Sequential(layer := same(), nn.ReLU(), layer),
        "depthwise": lambda: nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
        "excite": lambda: Apply(
            lambda x, f, g: x * torch.sigmoid(g(F.relu(f(x.mean((2, 3), keepdim=True))))),
            nn.Conv2d(channels, 4, 1),
            nn.Conv2d(4, channels, 1),
        ),
        "linear": lambda: Apply(_tokens, nn.Linear(channels, channels)),
        "nhwc": lambda: Apply(lambda x, f: f(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), nn.Linear(channels, channels)),
        "conv1d": lambda: Apply(
            lambda x, f: f(x.flatten(2)).view(x.shape), nn.Conv1d(channels, channels, 3, padding=1)
        ),
        "conv3d": lambda: Apply(lambda x, f: f(x[:, None])[:, 0], nn.Conv3d(1, 1, 3, padding=1)),
        "attention": lambda: Apply(_attention, nn.MultiheadAttention(channels, 1, batch_first=True)),
        "gru": lambda: Apply(_tokens, nn.GRU(channels, channels, batch_first=True)),
        "encoder": lambda: Apply(_tokens, nn.TransformerEncoderLayer(channels, 1, 8, batch_first=True)),
        "scale": lambda: Scale(channels),
        "weight_norm": lambda: parametrizations.weight_norm(nn.Conv2d(channels, channels, 1)),
        "spectral_norm": lambda: parametrizations.spectral_norm(nn.Conv2d(channels, channels, 1)),
        "old_weight_norm": lambda: nn.utils.weight_norm(nn.Conv2d(channels, channels, 1)),
        "checkpointed": lambda: Apply(lambda x, f: checkpoint(f, x, use_reentrant=False), same()),
        "stochastic_depth": lambda: StochasticDepth(same()),
        "branch": lambda: Apply(lambda x: x if float(x.detach().mean()) > 0 else x * 2),
        "loop": lambda: Apply(lambda x: torch.stack([x[i] for i in range(x.shape[0])])),
        "detached": lambda: Apply(lambda x, f: x + f(x).detach(), same()),
        "noise": lambda: Apply(lambda x: x + 0.1 * torch.randn_like(x)),
        "lazy": lambda: nn.LazyConv2d(channels, 1),
        "bilinear": lambda: Apply(lambda x, f: x + f(x.mean((2, 3)), x.amax((2, 3)))[:, :, None, None],
                                  nn.Bilinear(channels, channels, channels)),
        "complex": lambda: Apply(lambda x: torch.fft.ifft2(torch.fft.fft2(x)).real),
        "modulelist": lambda: nn.Sequential(nn.Sequential(), nn.Identity()),
        "frozen": lambda: same().requires_grad_(False),
        "eval_only": lambda: same().eval(),
        "fails": lambda: _failing(rng),
    }  # fmt: skip
    odd = {"fails", "frozen", "branch", "stochastic_depth", "old_weight_norm", "weight_norm", "spectral_norm", "noise"}
    if rng.random() < 0.5 or size < 2:
        layer, after = _conv(rng, shape)
        return nn.Sequential(layer, _norm(rng, after), _activation(rng)) if rng.random() < 0.5 else layer, after
    if rng.random() < 0.25:
        return _resizing(rng, shape)
    weights = {name: 1 if name in odd else 4 for name in keeping}
    if channels % 2:
        weights.pop("bilinear")
    else:
        keeping["shuffle"] = lambda: Apply(_channel_shuffle)
        weights["shuffle"] = 4
    return keeping[_pick(rng, weights)](), shape


def _same(rng: Random, shape: Shape) -> nn.Module:
    """Return a convolution that keeps the shape."""
    channels, size = shape
    kernel = rng.choice([k for k in (1, 3) if k <= size])
    return nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=rng.random() < 0.5)


def _resizing(rng: Random, shape: Shape) -> tuple[nn.Module, Shape]:
    channels, size = shape
    kind = rng.choice(("max", "avg", "adaptive", "up", "transposed", "concat", "pixels", "unfold", "pad"))
    if kind in ("max", "avg"):
        return (nn.MaxPool2d(2) if kind == "max" else nn.AvgPool2d(2)), (channels, size // 2)
    if kind == "adaptive":
        return nn.AdaptiveAvgPool2d(2), (channels, 2)
    if kind == "up":
        return nn.Upsample(scale_factor=2, mode=rng.choice(("nearest", "bilinear"))), (channels, size * 2)
    if kind == "transposed":
        groups = rng.choice((1, 1, channels))
        layer = nn.ConvTranspose2d(channels, channels, 2, stride=2, groups=groups)
        return nn.Sequential(layer, nn.AvgPool2d(2)), shape
    if kind == "concat":
        return Apply(lambda x, f, g: torch.cat([f(x), g(x)], 1), _same(rng, shape), _same(rng, shape)), (
            2 * channels,
            size,
        )
    if kind == "pixels":
        return nn.PixelUnshuffle(2) if size % 2 == 0 else nn.Identity(), (
            (4 * channels, size // 2) if size % 2 == 0 else shape
        )
    if kind == "unfold":
        return Apply(lambda x: F.unfold(x, 3, padding=1).view(x.shape[0], -1, *x.shape[2:])), (9 * channels, size)
    return nn.ZeroPad2d(1), (channels, size + 2)


def _failing(rng: Random) -> nn.Module:
    errors = (
        ValueError("not today"),
        KeyError("weights"),
        AssertionError(),
        StopIteration(),
        RuntimeError("multi\nline"),
        TypeError("[bold]markup[/bold]"),
        OSError(2, "No such file", "table.csv"),
        NotImplementedError("forward"),
        RecursionError("too deep"),
    )
    return Fails(rng.choice(errors), rng.choice((0, 0, 2, 3)), rng.random() < 0.7)


def _flattening(rng: Random, shape: Shape) -> tuple[nn.Module, int]:
    channels, size = shape
    whole = channels * size * size
    if rng.random() < 0.3:
        pooled: tuple[nn.Module, ...] = (
            Apply(lambda x: x.mean((2, 3))),
            Apply(lambda x: x.mean([-1, -2])),
            Apply(lambda x: F.adaptive_avg_pool2d(x, 1).view(x.size(0), -1)),
            Apply(lambda x: F.adaptive_max_pool2d(x, 1)[:, :, 0, 0]),
            Apply(lambda x: F.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1)),
            Apply(lambda x: F.adaptive_avg_pool2d(x, 1).squeeze()),
            Apply(lambda x: torch.einsum("nchw->nc", x)),
        )
        return rng.choice(pooled), channels
    flat: tuple[Callable[[Tensor], Tensor], ...] = (
        lambda x: x.view(x.size(0), -1),
        lambda x: x.view(-1, whole),
        lambda x: x.reshape(x.shape[0], -1),
        lambda x: x.reshape(len(x), whole),
        lambda x: x.flatten(1),
        lambda x: torch.flatten(x, start_dim=1),
        lambda x: x.view(x.size(0), 1, -1).flatten(1),
        lambda x: x.permute(0, 2, 3, 1).reshape(x.size(0), -1),
        lambda x: x.contiguous().view(x.size(0), -1),
        lambda x: torch.cat([part.flatten(1) for part in x.unbind(1)], 1),
    )
    if rng.random() < 0.03:
        return Apply(lambda x: x.view(BATCH, -1)), whole
    return (nn.Flatten(), whole) if rng.random() < 0.2 else (Apply(rng.choice(flat)), whole)


def _head(rng: Random, features: int) -> nn.Module:
    classes = CLASSES + (rng.random() < 0.02)
    kind = rng.random()
    if kind < 0.6:
        return nn.Linear(features, classes, bias=rng.random() < 0.8)
    if kind < 0.8:
        return nn.Sequential(nn.Linear(features, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, classes))
    if kind < 0.85:
        return nn.LazyLinear(classes)
    if kind < 0.9:
        return nn.Sequential(nn.Linear(features, 6), nn.BatchNorm1d(6), nn.Linear(6, classes))
    if kind < 0.95:
        return Apply(lambda x, f: f(x[:, :, None])[:, :, 0], nn.Conv1d(features, classes, 1))
    tied = nn.Linear(features, 4, bias=False)
    return Apply(lambda x, f, g: g(F.relu(F.linear(f(x), f.weight.t())) @ f.weight.t()), tied, nn.Linear(4, classes))


def _extras(rng: Random, module: nn.Module) -> None:
    """Give some networks a layer without use, frozen layers, hooks, extra attributes or weights of another kind."""
    kind = rng.random()
    if kind < 0.03:
        module.unused = nn.Linear(4, 4)
    elif kind < 0.05:
        module.requires_grad_(False)
    elif kind < 0.07:
        module.table = nn.Embedding(4, 4)
    elif kind < 0.09:
        module.register_forward_hook(_watch)
    elif kind < 0.11:
        module.weights = nn.ParameterList([nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.tensor(1.0))])
    elif kind < 0.13:
        module.register_buffer("flag", torch.tensor([True, False]))
    elif kind < 0.15:
        module.empty = nn.Parameter(torch.empty(0, 3))
    elif kind < 0.17:
        module.half_of_it = nn.Parameter(torch.ones(3, dtype=torch.float64))
    elif kind < 0.18:
        module.phase = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    elif kind < 0.20:
        first = next((p for p in module.parameters() if p.dim() > 1), None)
        if first is not None:
            module.again = first


def _watch(module: nn.Module, images: object, output: object) -> None:
    """Do nothing, as a forward hook."""


def _wrapped(rng: Random, module: nn.Module) -> Any:
    changed: dict[str, Callable[[], Any]] = {
        "sequential": lambda: nn.Sequential(module),
        "compiled": lambda: torch.compile(module, backend="eager"),
        "inside": lambda: nn.Sequential(torch.compile(module, backend="eager")),  # type: ignore[arg-type]
        "parallel": lambda: nn.DataParallel(module),
        "averaged": lambda: torch.optim.swa_utils.AveragedModel(module),
        "pair": lambda: (module, {}),
        "class": lambda: type(module),
        "eval": module.eval,
        "half": module.half,
        "double": module.double,
        "bf16": module.bfloat16,
        "channels_last": lambda: module.to(memory_format=torch.channels_last),  # type: ignore[call-overload]
        "meta": lambda: module.to("meta"),
        "list": lambda: [module],
        "buffers": lambda: _with_buffers(module),
        "graph": lambda: _graph(module),
    }
    return rng.choice([*changed.values(), *[lambda: module] * 50])()


def _graph(module: nn.Module) -> nn.Module:
    try:
        return torch.fx.symbolic_trace(module)
    except Exception:  # what cannot be traced stays as it is
        return module


def _with_buffers(module: nn.Module) -> nn.Module:
    buffers: Iterable[tuple[str, Tensor]] = (
        ("a", torch.zeros(0)),
        ("b", torch.arange(3)),
        ("c", torch.ones(2, 2).half()),
    )
    for name, value in buffers:
        module.register_buffer(name, value)
    return module
