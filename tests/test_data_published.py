"""Readers of published files, on small sets made in their formats."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
import urllib.error
from dataclasses import replace

import pytest
import torch

from granet.data import open_dataset
from granet.data.cifar import CIFAR10, CifarSet, read_cifar
from granet.data.mnist import IdxSet, read_idx
from granet.data.published import DownloadSource, PublishedFile
from granet.errors import DataError

PUBLISHER = "https://publisher.example/"


def md5(contents: bytes) -> str:
    return hashlib.md5(contents).hexdigest()  # noqa: S324  the publishers' choice


def noise(count: int, seed: int) -> bytes:
    random = torch.Generator().manual_seed(seed)
    return bytes(torch.randint(0, 256, (count,), generator=random).tolist())


IDX = {
    "train-images": bytes(16) + noise(6 * 784, 0),
    "train-labels": bytes(8) + bytes([0, 1, 2, 0, 1, 2]),
    "test-images": bytes(16) + noise(3 * 784, 1),
    "test-labels": bytes(8) + bytes([2, 1, 0]),
}


def idx_file(name: str) -> PublishedFile:
    contents, packed = IDX[name], gzip.compress(IDX[name], mtime=0)
    source = DownloadSource(url=f"{PUBLISHER}{name}.gz", size=len(packed), md5=md5(packed))
    return PublishedFile(name=name, size=len(contents), md5=md5(contents), source=source)


IDX_SET = IdxSet(
    train_images=idx_file("train-images"),
    train_labels=idx_file("train-labels"),
    test_images=idx_file("test-images"),
    test_labels=idx_file("test-labels"),
)


@pytest.fixture(params=["plain", "gzipped", "as torchvision keeps it"])
def idx_folder(request, tmp_path):
    place = tmp_path / "MNIST" / "raw" if "torchvision" in request.param else tmp_path
    place.mkdir(parents=True, exist_ok=True)
    for name, contents in IDX.items():
        if request.param == "gzipped":
            (place / f"{name}.gz").write_bytes(gzip.compress(contents))
        else:
            (place / name).write_bytes(contents)
    return tmp_path


def test_idx_files_are_read_as_they_are_found(idx_folder):
    train, test = read_idx(IDX_SET, idx_folder)
    assert train.images.shape == (6, 1, 28, 28)
    assert train.images.numpy().tobytes() == IDX["train-images"][16:]
    assert train.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert test.labels.tolist() == [2, 1, 0]


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("train-labels", None, "train-labels is not there.*https://publisher.example/train-labels.gz"),
        ("train-images", lambda contents: contents[:-1], r"is truncated; got 4719 bytes; expected 4720 bytes"),
        ("train-images", lambda contents: contents + b"\0", "is too long; got more than 4720 bytes"),
        ("test-labels", lambda contents: contents[:-1] + b"\1", "test-labels: is not the published file; got md5"),
    ],
)
def test_a_missing_or_damaged_idx_file_is_named(tmp_path, name, damage, message):
    contents = IDX if damage is None else IDX | {name: damage(IDX[name])}
    for other in IDX:
        if damage is not None or other != name:
            (tmp_path / other).write_bytes(contents[other])
    with pytest.raises(DataError, match=message):
        read_idx(IDX_SET, tmp_path)


@pytest.mark.parametrize("packed", [gzip.compress(IDX["train-images"])[:-40], b"not gzip at all"])
def test_a_broken_gzip_file_is_named(tmp_path, packed):
    (tmp_path / "train-images.gz").write_bytes(packed)
    with pytest.raises(DataError, match=r"train-images.gz: cannot be read"):
        read_idx(IDX_SET, tmp_path)


def cifar_records(count: int, seed: int, classes: int = 2, coarse: bool = False) -> bytes:
    lead = b"\7" if coarse else b""
    return b"".join(lead + bytes([n % classes]) + noise(3072, seed + n) for n in range(count))


def cifar_set(parts: dict[str, bytes], *, label_bytes: int = 1, checked: bool = True) -> tuple[CifarSet, bytes]:
    """A set whose last part is the test split, and its archive, which holds a file of nobody's besides."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, contents in {"../escape": b"!", **{f"folder/{n}": c for n, c in parts.items()}}.items():
            member = tarfile.TarInfo(name)
            member.size = len(contents)
            archive.addfile(member, io.BytesIO(contents))
    files = [
        PublishedFile(name=name, size=len(contents), md5=md5(contents) if checked else None)
        for name, contents in parts.items()
    ]
    packed = buffer.getvalue()
    layout = CifarSet(
        archive=DownloadSource(url=f"{PUBLISHER}set.tar.gz", size=len(packed), md5=md5(packed)),
        folder="folder",
        train=tuple(files[:-1]),
        test=files[-1],
        classes=("cat", "dog"),
        label_bytes=label_bytes,
        pickled=("folder-py",),
    )
    return layout, packed


PARTS = {"one.bin": cifar_records(4, 0), "two.bin": cifar_records(2, 10), "test.bin": cifar_records(2, 20)}


@pytest.mark.parametrize("place", ["archive", "folder", "."])
def test_cifar_is_read_from_its_archive_or_unpacked(tmp_path, place):
    layout, packed = cifar_set(PARTS)
    if place == "archive":
        (tmp_path / "set.tar.gz").write_bytes(packed)
    else:
        (tmp_path / place).mkdir(exist_ok=True)
        for name, contents in PARTS.items():
            (tmp_path / place / name).write_bytes(contents)
    train, test = read_cifar(layout, tmp_path)
    assert train.images.shape == (6, 3, 32, 32)
    assert train.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert train.images[4].numpy().tobytes() == PARTS["two.bin"][1:3073]
    assert len(test) == 2
    assert not (tmp_path.parent / "escape").exists()


def test_of_two_label_bytes_the_fine_one_counts(tmp_path):
    parts = {"train.bin": cifar_records(4, 0, coarse=True), "test.bin": cifar_records(2, 9, coarse=True)}
    layout, packed = cifar_set(parts, label_bytes=2)
    (tmp_path / "set.tar.gz").write_bytes(packed)
    train, _ = read_cifar(layout, tmp_path)
    assert train.labels.tolist() == [0, 1, 0, 1]
    assert train.images[1].numpy().tobytes() == parts["train.bin"][3076:6148]


def test_a_damaged_archive_is_named(tmp_path):
    layout, packed = cifar_set(PARTS)
    for damaged, message in (
        (packed[:-9], "set.tar.gz: is truncated"),
        (packed[:-9] + bytes(9), "is not the published file; got md5"),
    ):
        (tmp_path / "set.tar.gz").write_bytes(damaged)
        with pytest.raises(DataError, match=message):
            read_cifar(layout, tmp_path)


def test_an_archive_that_lacks_a_file_says_which(tmp_path):
    layout, packed = cifar_set(PARTS)
    (tmp_path / "set.tar.gz").write_bytes(packed)
    other = replace(layout, test=replace(layout.test, name="elsewhere.bin"))
    with pytest.raises(DataError, match=r"lacks files; expected folder/elsewhere\.bin"):
        read_cifar(other, tmp_path)


def test_unpacked_files_without_a_checksum_are_checked_by_their_labels(tmp_path):
    for labels in ((3, "0 to 2"), (1, "0 to 1")):
        parts = PARTS | {"one.bin": cifar_records(4, 0, classes=labels[0])}
        layout, _ = cifar_set(parts, checked=False)
        for name, contents in parts.items():
            (tmp_path / name).write_bytes(contents)
        with pytest.raises(DataError, match=f"not those of the published set; got classes {labels[1]}"):
            read_cifar(layout, tmp_path)


def test_a_folder_of_pickles_is_recognised_and_refused(tmp_path):
    (tmp_path / CIFAR10.pickled[0]).mkdir()
    with pytest.raises(DataError, match=r"pickles.*cifar-10-binary\.tar\.gz"):
        open_dataset("cifar10", directory=tmp_path)


def current_umask() -> int:
    os.umask(mask := os.umask(0))
    return mask


@pytest.fixture
def publisher(monkeypatch):
    """A publisher's site: what it answers, by URL."""
    site = {f"{PUBLISHER}{name}.gz": gzip.compress(contents, mtime=0) for name, contents in IDX.items()}

    def answer(url: str, timeout: float) -> io.BytesIO:
        if url not in site:
            raise urllib.error.URLError("no route to host")
        return io.BytesIO(site[url])

    monkeypatch.setattr("granet.data.published.urlopen", answer)
    return site


def test_missing_files_are_downloaded_checked_and_kept(tmp_path, publisher):
    train, _ = read_idx(IDX_SET, tmp_path / "new", download=True)
    assert len(train) == 6
    assert all(path.stat().st_mode & 0o777 == 0o666 & ~current_umask() for path in (tmp_path / "new").iterdir())
    publisher.clear()
    again, _ = read_idx(IDX_SET, tmp_path / "new", download=True)
    assert torch.equal(train.images, again.images)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [f"{name}.gz" for name in sorted(IDX)]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, "train-images.gz: the download failed; got <urlopen error no route to host>"),
        (b"<html>moved</html>", "sent another file; got 18 bytes, md5 "),
        (bytes(1 << 16), "sent another file"),
    ],
)
def test_a_failed_download_leaves_nothing_behind(tmp_path, publisher, answer, message):
    url = f"{PUBLISHER}train-images.gz"
    if answer is None:
        del publisher[url]
    else:
        publisher[url] = answer
    with pytest.raises(DataError, match=message):
        read_idx(IDX_SET, tmp_path, download=True)
    assert list(tmp_path.iterdir()) == []
