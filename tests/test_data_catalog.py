"""Opening datasets by name: what comes with the package, what is held out, what is refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from granet.data import DATASETS, Arrays, open_dataset
from granet.errors import DataError, UnknownNameError, UsageError
from tests.synthetic import write_image_folder


def test_the_embedded_data_is_balanced_and_unchanged():
    dataset = open_dataset("fashion-mnist-subset")
    published = torch.cat([dataset.train.labels, dataset.validation.labels])
    assert published.bincount().tolist() == [1000] * 10
    assert dataset.test.labels.bincount().tolist() == [200] * 10
    assert (dataset.channels, dataset.image_size, len(dataset.classes)) == (1, 28, 10)
    assert isinstance(dataset.test, Arrays)
    pixels = dataset.test.images.numpy().tobytes()
    digest = "96315b1732ab731e68b8def3c284f34b605f7deb7a61e683c7d786265c827c83"
    assert hashlib.sha256(pixels).hexdigest() == digest


def test_validation_is_stratified_disjoint_and_keyed_by_the_seed():
    first, same, other = (open_dataset("fashion-mnist-subset", validation=0.2, seed=seed) for seed in (1, 1, 2))
    assert first.validation.labels.bincount().tolist() == [200] * 10
    assert torch.equal(first.validation.images, same.validation.images)
    assert not torch.equal(first.validation.images, other.validation.images)
    seen = torch.cat([first.train.images, first.validation.images]).double()
    everything = torch.cat([other.train.images, other.validation.images]).double()
    assert seen.sum(0).equal(everything.sum(0))


def test_a_class_too_small_to_hold_out_from_is_named(tmp_path):
    write_image_folder(tmp_path, per_class=1)
    with pytest.raises(DataError, match=r"class-0.*too few"):
        open_dataset("image-folder", directory=tmp_path)


def test_every_entry_has_its_own_name_and_a_description():
    assert set(DATASETS) >= {"fashion-mnist-subset", "mnist", "fashion-mnist", "cifar10", "cifar100", "image-folder"}
    assert all(name == entry.name and entry.description for name, entry in DATASETS.items())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"name": "cifar-10"}, UnknownNameError, "cifar10"),
        ({"name": "mnist"}, UsageError, "needs a data directory"),
        ({"name": "mnist", "directory": Path("nowhere")}, DataError, "nowhere: no such folder"),
        ({"name": "image-folder", "directory": Path("nowhere")}, DataError, "nowhere: no such folder"),
        ({"name": "image-folder", "directory": Path(), "download": True}, UsageError, "cannot be downloaded"),
        ({"name": "fashion-mnist-subset", "directory": Path()}, UsageError, "comes with the package"),
        ({"name": "fashion-mnist-subset", "image_size": 32}, UsageError, "one size"),
        ({"name": "fashion-mnist-subset", "residency": "streaming"}, UsageError, "cannot be streamed"),
        ({"name": "fashion-mnist-subset", "residency": "resitent"}, UnknownNameError, "resident"),
        ({"name": "fashion-mnist-subset", "validation": 0.0}, UsageError, "fraction"),
        ({"name": "fashion-mnist-subset", "validation": 1.0}, UsageError, "fraction"),
        ({"name": "image-folder", "directory": Path(), "image_size": 0}, UsageError, "at least 1"),
    ],
)
def test_arguments_that_do_not_fit_a_dataset_are_errors(arguments, error, message):
    with pytest.raises(error, match=message):
        open_dataset(**arguments)
