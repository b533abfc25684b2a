"""Build and initialise a network by its name, and check that it takes the data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from granet.errors import ModelError, UnknownNameError, UsageError
from granet.models import own_network
from granet.models.catalog import CATALOG
from granet.models.factory import call
from granet.models.failures import network_errors
from granet.models.logits import check_logits
from granet.models.timm_networks import build_timm
from granet.models.torchvision_networks import build_torchvision
from granet.randomness import key

_LIBRARIES = {"torchvision": build_torchvision, "timm": build_timm}
"""Builders of other libraries' networks, by the prefix before the colon of a name."""


def build(
    name: str, *, in_channels: int, classes: int, image_size: int, seed: int = 0, trial: bool = True
) -> nn.Module:
    """Build a freshly initialised network on the CPU, in training mode, that maps images to logits.

    Initialisation is a function of ``seed`` alone, given the name and the three sizes: it draws from torch's CPU
    generator, which is seeded for the purpose and restored afterwards. The network is tried on one image of noise,
    so that a size that does not fit is an error here and not in the middle of a run.

    Args:
        name: a name of :data:`CATALOG`, ``torchvision:NAME``, ``timm:NAME``, or ``package.module:factory``, a
            callable of the user's that takes any of ``in_channels``, ``classes`` and ``image_size`` as keyword
            arguments. The latter runs the code it names: see :func:`is_factory`.
        in_channels: channels of the images, 1 for grey.
        classes: number of logits.
        image_size: height and width of the images in pixels.
        seed: key of the initialisation.
        trial: False leaves that image out, for networks that take something else than one batch of images.

    Returns:
        A network that maps float [N, in_channels, image_size, image_size] to [N, classes].

    Raises:
        UsageError: a size is not positive, or the name is malformed.
        UnknownNameError: there is no network of that name.
        ModelError: the network cannot be built, or does not map such images to that many logits.
    """
    with _keyed_generator(seed), torch.device("cpu"):
        network = own_network.on_cpu(_construct(name, in_channels, classes, image_size), name)
        if trial:
            _try_out(network, name, (1, in_channels, image_size, image_size), classes)
    return network


def outline(name: str, *, in_channels: int, classes: int, image_size: int) -> nn.Module:
    """Build the network with weights that have a shape and no data, on torch's meta device.

    It takes neither time nor memory, whatever the sizes, so that a description of unknown origin can be compared
    with what it claims to describe before anything is allocated. Arguments and errors are those of ``build``.
    """
    with torch.random.fork_rng(devices=()), _WeightsWithoutData():
        return _construct(name, in_channels, classes, image_size)


def is_factory(name: str) -> bool:
    """Whether building the network called ``name`` would run code of the user's."""
    library, colon, _ = name.partition(":")
    return bool(colon) and library not in _LIBRARIES


def check_confirmed(name: str, factory: str | None) -> None:
    """Check that the network ``name`` of a file may be built: code of the user's runs only when named once more.

    Raises:
        ModelError: the file names code, and ``factory``, what the user named, is not the same.
    """
    if is_factory(name) and factory != name:
        raise ModelError(
            "the file names code to run",
            where=f"network {name}",
            got=repr(factory) if factory else None,
            remedy=f"if you trust it, confirm with --model {name}",
        )


def _construct(name: str, in_channels: int, classes: int, image_size: int) -> nn.Module:
    for option, value in (("in_channels", in_channels), ("classes", classes), ("image_size", image_size)):
        if value < 1:
            raise UsageError("must be at least 1", where=option, got=value)
    if is_factory(name):
        network = call(name, in_channels=in_channels, classes=classes, image_size=image_size)
        return own_network.checked(network, name)
    library, colon, rest = name.partition(":")
    try:
        if colon:
            return _LIBRARIES[library](rest, in_channels=in_channels, classes=classes)
        if name in CATALOG:
            return CATALOG[name].build(in_channels, classes, image_size)
    except (RuntimeError, MemoryError, TypeError, OverflowError) as error:  # torch's words for too large vary
        raise ModelError(
            "the network cannot be built for these sizes",
            where=name,
            got=f"in_channels {in_channels}, classes {classes}, image_size {image_size}; {error}",
        ) from error
    raise UnknownNameError("model", name, CATALOG)


class _WeightsWithoutData(TorchFunctionMode):
    """Put what ``torch.empty`` makes, as torch's layers make their weights, on the meta device.

    ``torch.device("meta")`` would put everything there, also tensors that networks calculate their widths with.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        return func(*args, **{**(kwargs or {}), **({"device": "meta"} if func is torch.empty else {})})


@contextmanager
def _keyed_generator(seed: int) -> Iterator[None]:
    """Seed torch's CPU generator inside the block, and restore it afterwards.

    ``torch.manual_seed`` would change the generators of accelerators too.
    """
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(key(seed, "initialisation"))
        yield


def _try_out(network: nn.Module, name: str, shape: tuple[int, ...], classes: int) -> None:
    """Run an image of noise through the network in evaluation mode, which changes no statistics."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    size = f"{shape[1]} x {shape[2]} x {shape[3]}"
    try:
        with (
            torch.no_grad(),
            network_errors(
                f"the network cannot take images of {size}", where=name, network=network, remedy=_remedy(network)
            ),
        ):
            output = network(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    finally:
        for module, training in modes.items():
            module.training = training
    check_logits(output, (1, classes), where=name, mode="evaluation", own=is_factory(name))


def _remedy(network: nn.Module) -> str:
    odd = next((p for p in network.parameters() if p.is_floating_point() and p.dtype != torch.float32), None)
    if odd is not None:
        return (
            f"images are float32 and weights {odd.dtype}: let the factory make float32; training.precision has others"
        )
    return (
        "choose a network for that size and number of channels, or another image size; it has to take any number of "
        "images, here one"
    )
