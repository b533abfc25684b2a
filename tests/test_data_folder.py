"""Image folders: which layouts there are, and what is wrong with the others."""

from __future__ import annotations

import shutil

import pytest
import torch
from PIL import Image

from granet.data import Arrays, Files, open_dataset
from granet.errors import DataError, UsageError
from granet.models import build
from granet_cli.app import run
from tests.shards import examples, write_shards
from tests.synthetic import write_image_folder


def open_folder(root, **arguments):
    return open_dataset("image-folder", directory=root, **arguments)


@pytest.mark.parametrize(
    ("splits", "sizes"),
    [
        (("train", "test"), (12, 6, 18)),
        (("train", "val"), (12, 6, 18)),
        (("train", "val", "test"), (18, 18, 18)),
    ],
)
def test_layouts(tmp_path, splits, sizes):
    dataset = open_folder(write_image_folder(tmp_path, splits=splits), validation=0.3)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == sizes
    assert dataset.classes == ("class-0", "class-1", "class-2")
    assert dataset.image_size == 8


def test_small_images_of_one_size_become_resident_and_keep_their_pixels(tmp_path):
    dataset = open_folder(write_image_folder(tmp_path))
    assert isinstance(dataset.test, Arrays)
    with Image.open(tmp_path / "test" / "class-1" / "2.png") as image:
        red = torch.tensor(list(image.getchannel("R").tobytes())).view(8, 8)
    assert torch.equal(dataset.test.images[6 + 2, 0].long(), red)
    assert dataset.test.labels.tolist() == [0] * 6 + [1] * 6 + [2] * 6


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1)])
def test_a_line_of_pixels_is_cropped_before_it_is_resized(tmp_path, size):
    write_image_folder(tmp_path)
    line = Image.new("RGB", size)
    line.paste(
        (200, 100, 50),
        tuple(length // 2 - length // 100 for length in size)
        + tuple(length // 2 + length // 100 + 1 for length in size),
    )
    line.save(tmp_path / "train" / "class-0" / "line.png")
    dataset = open_folder(tmp_path, image_size=64, residency="resident", validation=0.2)
    seen = torch.cat([dataset.train.images, dataset.validation.images])
    assert (seen == torch.tensor([200, 100, 50])[:, None, None]).flatten(1).all(1).sum() == 1


def test_other_images_stream_at_the_size_that_is_asked_for(tmp_path):
    write_image_folder(tmp_path)
    Image.new("L", (20, 30)).save(tmp_path / "train" / "class-0" / "other.png")
    dataset = open_folder(tmp_path, image_size=16)
    assert isinstance(dataset.train, Files)
    assert dataset.image_size == 16
    resident = open_folder(tmp_path, image_size=16, residency="resident")
    assert resident.train.images.shape[1:] == (3, 16, 16)
    with pytest.raises(DataError, match="size to train at has to be given"):
        open_folder(tmp_path)


def test_hidden_entries_are_skipped(tmp_path):
    write_image_folder(tmp_path)
    (tmp_path / "train" / ".cache").mkdir()
    (tmp_path / "train" / "class-0" / ".DS_Store").write_bytes(b"")
    assert len(open_folder(tmp_path).classes) == 3


def remove_a_class(root):
    shutil.rmtree(root / "test" / "class-1")


def empty_a_class(root):
    for image in (root / "test" / "class-1").iterdir():
        image.unlink()


def add_a_class(root):
    (root / "test" / "class-9").mkdir()


def leave_only_train(root):
    shutil.rmtree(root / "test")


def leave_images_unsorted(root):
    shutil.copy(root / "test" / "class-0" / "0.png", root / "test" / "0.png")


def nest_a_folder(root):
    (root / "train" / "class-0" / "more").mkdir()


def add_a_text(root):
    (root / "train" / "class-0" / "notes.png").write_text("not an image")


def truncate_an_image(root):
    image = root / "train" / "class-0" / "3.png"
    image.write_bytes(image.read_bytes()[:-60])


def link_a_file_outside(root):
    (root.parent / "outside.png").write_bytes((root / "train" / "class-0" / "0.png").read_bytes())
    (root / "train" / "class-0" / "link.png").symlink_to(root.parent / "outside.png")


def link_a_split_outside(root):
    (root / "test").rename(root.parent / "elsewhere")
    (root / "test").symlink_to(root.parent / "elsewhere")


def add_sixteen_bits(root):
    Image.new("I;16", (8, 8)).save(root / "train" / "class-0" / "deep.png")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (remove_a_class, r"test: class folder 'class-1' is missing"),
        (add_a_class, r"train: class folder 'class-9' is missing"),
        (empty_a_class, r"test/class-1: class folder without images"),
        (leave_only_train, r"not an image folder; got folders train; expected train/CLASS/\* and test/CLASS/\*"),
        (leave_images_unsorted, r"test/0.png: a file where only class folders belong"),
        (nest_a_folder, r"class-0/more: not a file; expected an image"),
        (add_a_text, r"class-0/notes.png: cannot be read as an image"),
        (truncate_an_image, r"class-0/3.png: cannot be read as an image"),
        (link_a_file_outside, r"class-0/link.png: a link that leads out of the data directory"),
        (link_a_split_outside, r"test: a link that leads out of the data directory"),
        (add_sixteen_bits, r"deep.png: images of this pixel format are not supported"),
    ],
)
def test_errors_name_what_is_wrong_with_a_folder(tmp_path, spoil, message):
    root = write_image_folder(tmp_path / "root")
    spoil(root)
    with pytest.raises(DataError, match=message):
        open_folder(root)


def test_a_decompression_bomb_is_an_error(tmp_path, monkeypatch):
    write_image_folder(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 8)
    with pytest.raises(DataError, match=r"cannot be read as an image.*decompression bomb"):
        open_folder(tmp_path)


def link_class_folders(root):
    """Split folders with links to class folders elsewhere, as ImageNet-100 is made of ImageNet."""
    root.rename(root.parent / "whole")
    for split in ("train", "test"):
        (root / split).mkdir(parents=True)
        for folder in (root.parent / "whole" / split).iterdir():
            (root / split / folder.name).symlink_to(folder)


@pytest.mark.parametrize("link", [link_class_folders, link_a_file_outside, link_a_split_outside])
def test_links_that_lead_out_are_followed_when_allowed(tmp_path, link):
    root = write_image_folder(tmp_path / "root")
    images = len(open_folder(root).test)
    link(root)
    with pytest.raises(DataError, match=r"leads out of the data directory.*set data\.follow_links to true"):
        open_folder(root)
    dataset = open_folder(root, follow_links=True)
    assert dataset.classes == ("class-0", "class-1", "class-2")
    assert len(dataset.test) == images


def test_links_within_the_folder_need_no_permission(tmp_path):
    root = write_image_folder(tmp_path)
    (root / "test" / "class-0").rename(root / "kept")
    (root / "test" / "class-0").symlink_to(root / "kept")
    assert len(open_folder(root).test) == 18


@pytest.mark.parametrize("target", ["nowhere", "link"])
@pytest.mark.parametrize("allowed", [True, False])
def test_links_to_nothing_and_to_themselves_are_named(tmp_path, target, allowed):
    root = write_image_folder(tmp_path)
    (root / "train" / "link").symlink_to(root / "train" / target)
    with pytest.raises(DataError, match=r"train/link: a link that leads to nothing"):
        open_folder(root, follow_links=allowed)


def test_shards_may_be_links_when_allowed(tmp_path):
    labels = examples(["a", "b"] * 3)
    write_shards(tmp_path / "whole", train_0=labels, test_0=labels)
    (tmp_path / "root").mkdir()
    for file in (tmp_path / "whole").iterdir():
        (tmp_path / "root" / file.name).symlink_to(file)
    with pytest.raises(DataError, match=r"set data\.follow_links to true"):
        open_dataset("tar-shards", directory=tmp_path / "root")
    dataset = open_dataset("tar-shards", directory=tmp_path / "root", follow_links=True)
    assert dataset.classes == ("a", "b")


def test_a_dataset_without_folders_has_no_links_to_follow():
    with pytest.raises(UsageError, match="files of its own, not folders with links"):
        open_dataset("fashion-mnist-subset", follow_links=True)


LINE = "--model resnet8 --epochs 1 --set training.batch_size=6 --set method.interval=1it --set data.residency=streaming"


def test_commands_follow_links_when_told_to(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    link_class_folders(write_image_folder(tmp_path / "images"))
    train = ["train", "--recipe", "quickstart", "--data", "./images", *LINE.split(), "--out", "run"]
    assert run(train) == 1
    assert "set data.follow_links to true" in capfd.readouterr().err
    assert run([*train, "--set", "data.follow_links=true"]) == 0
    assert run(["eval", "run/last.safetensors"]) == 0
    torch.save(build("resnet8", in_channels=3, classes=3, image_size=8).state_dict(), "w.pth")
    line = ["import", "w.pth", "--model", "resnet8", "--data", "./images", "-o", "w.safetensors"]
    assert run(line) == 1
    assert run([*line, "--follow-links"]) == 0
    assert run(["eval", "w.safetensors"]) == 0


@pytest.mark.parametrize(
    ("split", "said"),
    [
        ("test", "training is done and saved, and --resume finishes the run in run"),
        ("train", "step 0 of 2 is saved, and --resume goes on with the run in run"),
    ],
)
def test_a_truncated_image_says_what_is_saved_and_resume_finishes(tmp_path, monkeypatch, capfd, split, said):
    monkeypatch.chdir(tmp_path)
    image = write_image_folder(tmp_path / "images") / split / "class-1" / "2.png"
    sound = image.read_bytes()
    image.write_bytes(sound[:-60])
    train = ["train", "--recipe", "quickstart", "--data", "./images", *LINE.split(), "--out", "run"]
    assert run(train) == 1
    error = capfd.readouterr().err
    assert f"{split}/class-1/2.png: cannot be read as an image" in error
    assert said in error
    image.write_bytes(sound)
    assert run(["train", "--resume", "run"]) == 0
    assert "test accuracy" in "".join(capfd.readouterr())
