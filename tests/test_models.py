"""Networks by name: what they are, how they start, and what happens when a name or a size is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from granet.errors import ModelError, UnknownNameError, UsageError
from granet.models import CATALOG, build, load_weights, outline
from granet.models.torchvision_networks import replace_first_convolution


def size(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("name", "millions"),
    [("resnet20", 0.27), ("resnet32", 0.47), ("resnet56", 0.85), ("resnet50", 23.5), ("vgg19", 20.0)],
)
def test_catalog_networks_have_their_published_size(name: str, millions: float) -> None:
    assert size(outline(name, in_channels=3, classes=10, image_size=32)) / 1e6 == pytest.approx(millions, rel=0.01)


def test_lenet_has_its_published_size() -> None:
    assert size(build("lenet-300-100", in_channels=1, classes=10, image_size=28)) == 266_610


@pytest.mark.parametrize("name", CATALOG)
def test_every_network_follows_the_data(name: str) -> None:
    """Small grey images, which the papers do not use; building tries a network out on one."""
    network = build(name, in_channels=1, classes=7, image_size=28)
    assert network.training
    assert list(network.parameters())[-1].shape[0] == 7


@pytest.mark.parametrize("image_size", [28, 32])
def test_vgg_averages_what_is_left_of_the_image(image_size: int) -> None:
    network = build("vgg19", in_channels=3, classes=7, image_size=image_size)
    assert network(torch.zeros(2, 3, image_size, image_size)).shape == (2, 7)


def test_every_network_has_a_description() -> None:
    assert all(entry.name == name and entry.description for name, entry in CATALOG.items())


def test_initialisation_is_a_function_of_the_seed() -> None:
    def start(seed: int) -> torch.Tensor:
        return build("resnet8", in_channels=1, classes=10, image_size=8, seed=seed).get_parameter("fc.weight")

    first = start(3)
    torch.rand(5)
    assert torch.equal(start(3), first)
    assert not torch.equal(start(4), first)


def test_building_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    build("resnet8", in_channels=1, classes=10, image_size=8)
    outline("resnet8", in_channels=1, classes=10, image_size=8)
    assert torch.equal(torch.get_rng_state(), before)


def test_initialisation_is_that_of_the_papers_code() -> None:
    def deviation(network: nn.Module, layer: str) -> float:
        return float(network.get_parameter(f"{layer}.weight").detach().std())

    kaiming = (2 / (64 * 9)) ** 0.5
    resnet = build("resnet20", in_channels=3, classes=10, image_size=8)
    assert deviation(resnet, "layer3.1.conv1") == pytest.approx(kaiming, rel=0.03)
    vgg = build("vgg19", in_channels=3, classes=10, image_size=16)
    assert deviation(vgg, "conv1_1") == pytest.approx(kaiming, rel=0.05)
    assert deviation(vgg, "classifier") == pytest.approx(0.01, rel=0.05)
    assert bool((vgg.get_parameter("bn1_1.weight") == 1).all())


def test_an_outline_has_shapes_and_no_data() -> None:
    network = outline("lenet-300-100", in_channels=3, classes=10, image_size=10_000_000)
    assert network.get_parameter("fc1.weight").shape == (300, 300_000_000_000_000)


def test_an_unknown_name_gets_the_nearest_one() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown model 'resnet_20'. Did you mean 'resnet20'"):
        build("resnet_20", in_channels=3, classes=10, image_size=32)


def test_an_image_too_small_for_the_network_is_an_error() -> None:
    with pytest.raises(ModelError, match=r"vgg19: the network cannot take images of 3 x 8 x 8"):
        build("vgg19", in_channels=3, classes=10, image_size=8)


def test_sizes_must_be_positive() -> None:
    with pytest.raises(UsageError, match="classes: must be at least 1; got 0"):
        build("resnet8", in_channels=3, classes=0, image_size=32)


# torchvision


def test_torchvision_resnet50_is_torchvisions() -> None:
    network = outline("torchvision:resnet50", in_channels=3, classes=1000, image_size=224)
    assert size(network) == 25_557_032


def test_torchvision_networks_follow_the_data() -> None:
    network = build("torchvision:resnet18", in_channels=1, classes=5, image_size=32)
    assert network(torch.zeros(2, 1, 32, 32)).shape == (2, 5)
    assert network.get_parameter("conv1.weight").shape == (64, 1, 7, 7)


def test_an_unknown_torchvision_network_gets_the_nearest_one() -> None:
    with pytest.raises(UnknownNameError, match=r"torchvision model 'resnet51'.*'resnet50'"):
        build("torchvision:resnet51", in_channels=3, classes=10, image_size=32)


def test_a_replaced_first_convolution_keeps_the_variance_of_its_outputs() -> None:
    network = nn.Sequential(nn.Conv2d(3, 256, 5, stride=2, padding=2), nn.ReLU(), nn.Conv2d(256, 4, 1))
    images = torch.randn(8, 12, 16, 16)
    before = network[0](images[:, :3]).detach().var()
    bias, last = network[0].bias, network[2]
    replace_first_convolution(network, 12)
    assert network[0].bias is bias
    assert network[2] is last
    assert float(network[0](images).detach().var() / before) == pytest.approx(1.0, abs=0.1)


GUARD = """
import sys, pathlib, torch
from granet.errors import ModelError
from granet.models.torchvision_guard import import_torchvision

def declared():
    return hasattr(torch.ops.torchvision, "qnms")

assert "torchvision" not in sys.modules
fake = pathlib.Path(sys.argv[1], "torchvision.py")
sys.path.insert(0, sys.argv[1])

fake.write_text("raise RuntimeError('operator torchvision::roi_align does not exist')")
try:
    import_torchvision()
except ModelError as error:
    assert "roi_align" in str(error) and torch.__version__ in str(error), error
else:
    raise SystemExit("a broken torchvision went through")
assert not declared()

fake.write_text("fine = True  # a working installation")
assert import_torchvision().fine and not declared()

del sys.modules["torchvision"]
sys.path.remove(sys.argv[1])
torchvision = import_torchvision()
assert torchvision is import_torchvision()
print(torchvision.models.resnet18(num_classes=3).fc.out_features)
"""


def test_torchvision_comes_through_the_guard_and_only_its_one_failure_is_mended(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-B", "-c", GUARD, str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "3"


# A user's own

OWN = """
import torch
from torch import nn

def network(in_channels, classes):
    return nn.Sequential(nn.Conv2d(in_channels, classes, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

class Net(nn.Sequential):
    def __init__(self, width=4, **sizes):
        assert set(sizes) == {"in_channels", "classes", "image_size"}
        super().__init__(nn.Flatten(), nn.Linear(sizes["image_size"] ** 2, sizes["classes"]))

def stubborn():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))

def needy(classes, width):
    pass

def broken(classes):
    raise KeyError("weights.bin")

def nothing():
    return None

def leaving(classes):
    raise SystemExit(3)

number = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A module in the working directory, under a name of its own so that no other test has imported it."""
    module = f"own_{abs(hash(request.node.name))}"
    (tmp_path / f"{module}.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != ""])
    return module


def test_a_factory_in_the_working_directory_gets_what_it_accepts(own: str) -> None:
    path = list(sys.path)
    network = build(f"{own}:network", in_channels=2, classes=5, image_size=8)
    assert network(torch.zeros(1, 2, 8, 8)).shape == (1, 5)
    assert len(build(f"{own}:Net", in_channels=1, classes=3, image_size=8)) == 2
    assert sys.path == path


def test_a_factory_starts_from_the_seed(own: str) -> None:
    first, second = (
        build(f"{own}:network", in_channels=1, classes=2, image_size=8, seed=1).state_dict() for _ in range(2)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("netwrok", "has no 'netwrok'. Did you mean 'network'"),
        ("number", "not a factory; got int"),
        ("needy", "the factory cannot be called: missing a required argument: 'width'"),
        (
            "broken",
            r"the factory failed; got KeyError: 'weights.bin' \(own_.*, line 20, in broken\). It was .* classes=3",
        ),
        ("nothing", "not a network; got NoneType"),
        ("leaving", "the factory failed; got SystemExit: 3"),
        ("stubborn", r"one logit for each class; got \(1, 2\) in evaluation mode; expected a tensor of \(1, 3\)"),
    ],
)
def test_the_error_for_a_broken_factory_says_why(own: str, factory: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build(f"{own}:{factory}", in_channels=1, classes=3, image_size=8)


def test_a_module_that_is_not_there_is_named() -> None:
    with pytest.raises(ModelError, match=r"there is no module 'no_such_package'. Run granet from the folder"):
        build("no_such_package.networks:net", in_channels=1, classes=3, image_size=8)


def test_a_module_that_fails_to_import_is_distinguished_from_a_missing_one(own: str) -> None:
    Path("faulty.py").write_text("import no_such_dependency")
    with pytest.raises(ModelError, match=r"importing 'faulty' failed; got ModuleNotFoundError.*no_such_dependency"):
        build("faulty:net", in_channels=1, classes=3, image_size=8)


@pytest.mark.parametrize("spec", ["a/b:c", "a:", ":f", "a..b:f", "a:b:c", "a:f()", "../x:f", "a:lambda", "a b:c"])
def test_a_malformed_factory_is_refused_before_anything_is_imported(spec: str) -> None:
    with pytest.raises(UsageError, match="not a model factory"):
        build(spec, in_channels=1, classes=3, image_size=8)


# Loading


def test_weights_and_buffers_load_into_another_instance() -> None:
    saved = build("resnet8", in_channels=1, classes=2, image_size=8, seed=1)
    network = build("resnet8", in_channels=1, classes=2, image_size=8, seed=2)
    load_weights(network, dict(saved.named_parameters()), dict(saved.named_buffers()))
    assert all(torch.equal(network.state_dict()[name], value) for name, value in saved.state_dict().items())


def test_tensors_that_do_not_fit_are_refused_and_nothing_is_loaded() -> None:
    network = nn.Linear(2, 2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for weights, where in (
        ({"weight": torch.ones(2, 2)}, "bias"),
        ({"weight": torch.ones(2, 2), "bias": torch.ones(3)}, "bias"),
        ({"weight": torch.ones(2, 2), "bias": torch.ones(2), "scale": torch.ones(1)}, "scale"),
    ):
        with pytest.raises(ModelError, match=f"{where}: the checkpoint belongs to another network"):
            load_weights(network, weights, {})
    assert all(torch.equal(network.state_dict()[name], value) for name, value in before.items())


def test_tied_weights_load_under_their_first_name() -> None:
    network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    network[1].weight = network[0].weight
    load_weights(network, {"0.weight": torch.eye(2)}, {})
    assert torch.equal(network[1].weight, torch.eye(2))
