"""Tar shards: what an image folder becomes in them, which layouts there are, and what is wrong with the others."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import random
import tarfile
from pathlib import Path

import pytest
import torch

from granet.data import Arrays, ShardImages, make_pipeline, open_dataset, shard_images
from granet.errors import DataError
from scripts.pack_shards import pack
from tests.shards import END, archive, by_tarfile, examples, header, picture, raw, sealed, write_shards
from tests.synthetic import write_image_folder

CPU = torch.device("cpu")
THREE = [0, 1, 2] * 4


def open_shards(root, **arguments):
    return open_dataset("tar-shards", directory=root, **arguments)


def refusal(root, **arguments) -> str:
    with pytest.raises(DataError) as caught:
        open_shards(root, **arguments)
    return str(caught.value)


def shards(root, train=None, test=None, **others):
    """A folder of two training shards and a test shard, parts of which may be others."""
    train_0 = examples(THREE) if train is None else train
    test_0 = examples([0, 1, 2]) if test is None else test
    return write_shards(root, **{"train_0": train_0, "train_1": examples(THREE, 50), "test_0": test_0, **others})


# --- what is in them --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """An image folder, and the same packed into shards of five."""
    root = tmp_path_factory.mktemp("both")
    write_image_folder(root / "folder", splits=("train", "val"), per_class=7, size=20)
    pack(root / "folder", root / "shards", per_shard=5)
    return root


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("residency", ["resident", "streaming"])
def test_shards_give_the_batches_of_the_folder_they_were_packed_from(both, residency, workers):
    if workers and residency == "resident":
        pytest.skip("data in memory need no workers")
    folder, packed = (
        make_pipeline(
            open_dataset(name, directory=both / place, residency=residency, image_size=12),
            batch_size=4,
            device=CPU,
            seed=3,
            augment="resized-crop-flip",
            workers=workers,
        )
        for name, place in (("image-folder", "folder"), ("tar-shards", "shards"))
    )
    for mine, theirs in (
        (folder.batches(2, start=1), packed.batches(2, start=1)),
        *((folder.evaluation(split), packed.evaluation(split)) for split in ("validation", "test")),
    ):
        for one, other in zip(mine, theirs, strict=True):
            assert torch.equal(one[0], other[0])
            assert torch.equal(one[1], other[1])


def test_shards_have_the_classes_and_splits_of_the_folder(both):
    folder = open_dataset("image-folder", directory=both / "folder")
    packed = open_shards(both / "shards")
    assert packed.classes == folder.classes
    assert isinstance(packed.train, Arrays)  # small images of one size, as for folders
    assert torch.equal(packed.train.images, folder.train.images)
    assert (packed.mean, packed.std, packed.image_size) == (folder.mean, folder.std, 20)


def test_train_val_and_test_shards_are_the_three_splits(tmp_path):
    data = open_shards(shards(tmp_path, validation_0=examples([0, 1, 2, 2])), residency="streaming", image_size=8)
    assert isinstance(data.train, ShardImages)
    assert (len(data.train), len(data.validation), len(data.test)) == (24, 4, 3)


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (("train-000000", "train-000001"), (0, 1)),
        (("train-1", "train-2"), (0, 1)),
        (("train-9", "train-10"), None),
        (("imagenet1k-train-0000", "imagenet1k-train-0001"), (0, 1)),
        (("my.train_00001-of-00002", "my.train_00000-of-00002"), (1, 0)),
    ],
)
def test_shards_are_found_by_their_numbers(tmp_path, names, order):
    for name, labels in zip(names, ([0] * 3, [1] * 4), strict=True):
        (tmp_path / f"{name}.tar").write_bytes(archive(examples(labels)))
    write_shards(tmp_path, test_0=examples([0, 1]))
    (tmp_path / "README.md").write_text("other files are left alone")
    if order is None:
        assert "train-0.tar: a shard is missing, and 8 more" in refusal(tmp_path)
        return
    train = open_shards(tmp_path, residency="streaming", image_size=8, validation=0.01).train
    expected = [label for number in order for label in ([0] * 2, [1] * 3)[number]]
    assert train.labels.tolist() == expected


@pytest.mark.parametrize(
    ("label", "written"),
    [
        ("cls", [b"0", b"1"]),
        ("cls", [b"ant\n", b"bee\n"]),
        ("json", [b'{"label": 0, "w": 3}', b'{"label": 1}']),
        ("json", [b'{"label": "ant"}', b'{"label": "bee"}']),
    ],
)
@pytest.mark.parametrize("listed", [False, True])
def test_labels_are_numbers_or_names(tmp_path, label, written, listed):
    made = [
        (f"a/{number}.{kind}", data)
        for number, text in enumerate(written * 3)
        for kind, data in ((label, text), ("JPEG", picture(kind="JPEG")), ("txt", b"a caption"))
    ]
    write_shards(tmp_path, train_0=made, test_0=made)
    if listed:
        (tmp_path / "classes.txt").write_text("ant\nbee\n")
    data = open_shards(tmp_path)
    named = listed or b"ant" in written[0]
    assert data.classes == (("ant", "bee") if named else ("0", "1"))
    assert data.test.labels.tolist() == [0, 1] * 3


def test_cls_decides_where_there_is_json_too(tmp_path):
    made = [
        part
        for n in range(6)
        for part in ((f"{n}.json", b"[]"), (f"{n}.cls", b"%d" % (n % 2)), (f"{n}.png", picture()))
    ]
    assert open_shards(write_shards(tmp_path, train_0=made, test_0=made)).test.labels.tolist() == [0, 1] * 3


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("length", [0, 90, 140])
def test_archives_of_every_common_form_are_read(tmp_path, form, length):
    front = "./" + "f" * length + "/" if length else ""
    made = by_tarfile([(front + name, data) for name, data in examples(THREE)], format=form)
    data = open_shards(shards(tmp_path, made), residency="streaming", image_size=8)
    assert len(data.train) + len(data.validation) == 24
    first = next(iter(data.test.reader().images([1])))
    assert first.getpixel((0, 0)) == (1, 1, 1)


def test_hidden_members_folders_and_other_parts_of_examples_are_passed_over(tmp_path):
    extra = raw("d/", b"", b"5") + archive(
        [("d/.x.jpg", b"?"), ("._0.png", b"?"), *examples(THREE), ("0011.depth.png", b"?"), ("note.txt", b"?")]
    )
    assert len(open_shards(shards(tmp_path, extra), residency="streaming", image_size=8).train) == 21


# --- reading them -----------------------------------------------------------------------------------------------


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_reader_keeps_few_archives_open_and_closes_all(tmp_path, monkeypatch):
    monkeypatch.setattr(shard_images, "MAX_OPEN", 2)
    made = {f"train_{number}": examples([0, 1, 2], 10 * number) for number in range(6)}
    data = open_shards(shards(tmp_path, **made), residency="streaming", image_size=8, validation=0.1)
    before = descriptors()
    reader = data.train.reader()
    levels = [image.getpixel((0, 0))[0] for image in reader.images(range(len(data.train)))]
    assert descriptors() == before + 2
    assert levels == sorted(levels)
    again = pickle.loads(pickle.dumps(reader))  # noqa: S301  as for a worker process
    assert next(again.images([3])).getpixel((0, 0))[0] == levels[3]
    del reader, again
    assert descriptors() == before


def test_a_damaged_image_is_named_with_its_shard(tmp_path):
    made = examples(THREE)
    made[5] = ("0002.png", made[5][1][:40])
    data = open_shards(shards(tmp_path, made), residency="streaming", image_size=8, validation=0.01)
    pipeline = make_pipeline(data, batch_size=20, device=CPU, seed=0, augment="none")
    with pytest.raises(DataError, match=r"train-0\.tar, member '0002\.png': cannot be read as an image"):
        list(pipeline.batches(0))
    assert "train-0.tar, member '0002.png'" in refusal(tmp_path, residency="resident", image_size=8)
    assert "train-0.tar, member '0002.png'" in refusal(tmp_path)  # already where only sizes are looked at


def test_a_shard_that_changes_under_way_is_refused(tmp_path):
    data = open_shards(shards(tmp_path), residency="streaming", image_size=8)
    (tmp_path / "test-0.tar").write_bytes(archive(examples([2, 1, 0], 5)))
    with pytest.raises(DataError, match=r"test-0\.tar: the shard has changed"):
        list(data.test.reader().images([0]))


# --- what is wrong with others ----------------------------------------------------------------------------------


def test_missing_shards_are_named(tmp_path):
    made = {f"train_{number:03d}": examples([0, 1]) for number in (0, 1, 3, 4)}
    write_shards(tmp_path, test_0=examples([0]), **made)
    assert refusal(tmp_path).startswith(f"{tmp_path}/train-002.tar: a shard is missing. Get it")
    (tmp_path / "train-000.tar").unlink()
    (tmp_path / "train-001.tar").unlink()
    assert refusal(tmp_path).startswith(f"{tmp_path}/train-000.tar: a shard is missing, and 2 more")


def test_the_last_shard_is_missed_where_names_say_how_many_there_are(tmp_path):
    write_shards(tmp_path, train_00_of_03=examples([0]), train_01_of_03=examples([0]), test_0=examples([0]))
    assert refusal(tmp_path).startswith(f"{tmp_path}/train-02-of-03.tar: a shard is missing")


def test_numbers_beyond_all_bounds_take_no_time(tmp_path):
    write_shards(tmp_path, train_0=examples([0]), train_999999999999999=examples([0]), test_0=examples([0]))
    assert "train-1.tar: a shard is missing, and 999999999999997 more" in refusal(tmp_path)


@pytest.mark.parametrize("length", [0, 100, 512, 700, 512 * 9, 512 * 9 + 1, -1024, -1100])
def test_a_truncated_shard_is_named(tmp_path, length):
    whole = archive(examples(THREE))
    said = refusal(shards(tmp_path, whole[:length]))
    assert said.startswith(f"{tmp_path}/train-0.tar: the shard is truncated")


def member(name: str, size: int, kind: bytes = b"0", **forged: bytes) -> bytes:
    block = header(name, size, kind)
    for place, value in forged.items():
        at = int(place.removeprefix("at"))
        block[at : at + len(value)] = value
    return sealed(block)


def pax(*records: bytes, kind: bytes = b"x") -> bytes:
    data = b"".join(b"%d %s\n" % (len(record) + 2 + len(str(len(record) + 4)), record) for record in records)
    return raw("pax", data, kind)


SOUND = archive(examples(THREE))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the shard is truncated"),
        (END, "a shard without images"),
        (raw("a.txt", b"x") + END, "a shard without images"),
        (gzip.compress(SOUND), "a shard compressed with gzip, in which no image can be reached by itself"),
        (b"PK\x03\x04" + bytes(2000), "not a tar archive"),
        (SOUND[:1024] + b"\1" + SOUND[1025:], "damaged: no header where one must be; got byte 1024"),
        (SOUND + SOUND, "something follows the end of the archive"),
        (SOUND + bytes(2 << 20), "something follows the end of the archive"),
        (raw("a.png", picture()) + END, "a.png': an image without a label"),
        (raw("a.cls", b"1") + END, "a.cls': a label without an image"),
        (raw("a.cls", b"1") + raw("b.png", picture()) + END, "a.cls': a label without an image"),
        (raw("a.1.cls", b"1") + raw("a.1.png", picture()) + END, "a.1.cls': no example"),
        (archive([*examples([0]), *examples([0])]), "0000.cls': an example with two labels of a kind"),
        (archive([*examples([0, 1]), *examples([0])]), "0000.cls': the name of an example comes twice"),
        (archive([*examples([0]), ("0000.jpg", b"")]), "0000.jpg': an example with two images"),
        (archive([("a.cls", b"1"), ("a.png", b"")]), "a.png': not the size of an image; got 0 bytes"),
        (archive([("a.cls", b""), ("a.png", b"x")]), "a.cls': not a label; got ''"),
        (archive([("a.cls", b"\xff"), ("a.png", b"x")]), "a.cls': not a label; got b'\\xff'"),
        (archive([("a.cls", b"x" * 2000), ("a.png", b"x")]), "a.cls': too long for a label"),
        (archive([("a.json", b"{}"), ("a.png", b"x")]), "a.json': not a label; got JSON without"),
        (archive([("a.json", b"[" * 90_000), ("a.png", b"x")]), "a.json': not a label; got no JSON"),
        (archive([("a.json", b'{"label": 1' + b"0" * 9000 + b"}"), ("a.png", b"x")]), "a.json': not a label"),
        (archive([("a.json", b'{"label": true}'), ("a.png", b"x")]), "a.json': not a label"),
        (archive([("a.json", b'{"label": -1}'), ("a.png", b"x")]), "a.json': not a label"),
        (archive(examples([0, 1, 7])), "no training image has label 3, though labels go up to 7"),
        (archive(examples([0, 1, "ant"])), "labels are numbers and names; got 0 and 'ant'"),
        (archive(examples([10**14])), "no training image has label 3"),
        (member("a", 0, b"2", at157=b"/etc/passwd") + END, "member 'a': not a file; got a symbolic link"),
        (member("a.png", 0, b"1", at157=b"b.png") + END, "member 'a.png': not a file; got a hard link"),
        (member("a.png", 0, b"S") + END, "member 'a.png': not a file; got a member of type 'S'"),
        (member("a.png", 0, b"3") + END, "member 'a.png': not a file; got a device"),
        (raw("/etc/a.png", b"") + END, "a member with a name that no file in a folder has; got '/etc/a.png'"),
        (raw("a/../../b.png", b"") + END, "a member with a name that no file in a folder has"),
        (raw("l", b"../b.png\0", b"L") + raw("b.png", b"") + END, "a member with a name that no file in a folder has"),
        (raw("l", b"x" * 5000, b"L") + raw("b.png", b"") + END, "a member with a name that no file in a folder has"),
        (raw("l", b"a.png\0", b"L") + END, "a name without its member"),
        (member("a.png", 10**9) + END, "the shard is truncated"),
        (member("x", 1 << 30, b"x") + END, "the shard is truncated"),
        (member("a.png", 0, at124=b"\x80" + bytes(10) + b"\1") + END, "a member whose size is not written in octal"),
        (member("a.png", 0, at124=b"-0000000001\0") + END, "a member whose size is not written in octal"),
        (member("a.png", 0, at124=b"0o17\0") + END, "a member whose size is not written in octal"),
        (raw("x", b"x" * (2 << 20), b"x") + END, "an extended header that is too long"),
        (pax(b"size=99") + SOUND, "a pax header that changes what the headers after it mean; got size"),
        (pax(b"GNU.sparse.size=99") + SOUND, "a pax header that changes what the headers after it mean"),
        (pax(b"path=a.png", kind=b"g") + SOUND, "a pax header that changes what the headers after it mean; got path"),
        (raw("x", b"12 path=a", b"x") + SOUND, "a pax header that is not one"),
        (raw("x", b"0 path=a\n", b"x") + SOUND, "a pax header that is not one"),
        (raw("x", b"99999999999999999999 a=\n", b"x") + SOUND, "a pax header that is not one"),
    ],
)
def test_errors_name_what_is_wrong_with_a_shard(tmp_path, content, said):
    answer = refusal(shards(tmp_path, content), image_size=8, residency="streaming")
    assert said in answer
    assert len(answer) < 1000


def test_a_pax_header_of_a_megabyte_of_records_takes_no_time(tmp_path):
    data = b"6 a=b\n" * 170_000
    assert len(open_shards(shards(tmp_path, raw("x", data, b"x") + SOUND)).train) == 21


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        ("a\nb\n", "train-0.tar, member '0002.png': a label out of range; got 2; expected a number from 0 to 1"),
        ("a\nb\nc\nd\n", "class 'd' has no training images"),
        ("", "classes.txt: not a list of classes"),
        ("a\n\nb", "classes.txt, line 2: not the name of a class"),
        ("a\nb\na", "classes.txt, line 3: the same class twice"),
        ("a\n0\nb", "classes.txt, line 2: a class whose name is the number of another; got 0"),
        (b"\xff\xfe", "classes.txt: cannot be read"),
    ],
)
def test_errors_name_what_is_wrong_with_the_list_of_classes(tmp_path, classes, said):
    shards(tmp_path)
    (tmp_path / "classes.txt").write_bytes(classes.encode() if isinstance(classes, str) else classes)
    assert said in refusal(tmp_path)


def test_labels_of_other_splits_are_checked_too(tmp_path):
    assert "test-0.tar, member '0001.png': a label out of range; got 3" in refusal(
        shards(tmp_path, test=examples([0, 3]))
    )


def test_an_unknown_class_is_answered_with_the_nearest(tmp_path):
    (tmp_path / "classes.txt").write_text("airplane\nbird\n")
    made = examples(["airplane", "bird"] * 3)
    write_shards(tmp_path, train_0=made, test_0=examples(["airplan"]))
    assert "test-0.tar, member '0000.png': a label that is not a class; got 'airplan'" in refusal(tmp_path)
    assert "Did you mean 'airplane'?" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("train-2.tar.gz", "a compressed archive, in which no image can be reached by itself"),
        ("train-2.tgz", "a compressed archive"),
        ("trian-0.tar", "not a shard of a split"),
        ("train-01.tar", "two shards with the same number; got train-01.tar and train-1.tar"),
        ("other-train-2.tar", "the shards of a split belong to two sets; got train-0.tar and other-train-2.tar"),
        ("train-2-of-3.tar", "the shards of a split belong to two sets"),
    ],
)
def test_archives_that_are_not_shards_are_refused(tmp_path, name, said):
    shards(tmp_path)
    (tmp_path / name).write_bytes(SOUND)
    assert said in refusal(tmp_path)


def test_folders_that_hold_no_shards_are_refused(tmp_path):
    assert "not a folder of tar shards; got no shard" in refusal(tmp_path)
    write_shards(tmp_path, train_0=SOUND)
    assert "got shards of train" in refusal(tmp_path)
    with pytest.raises(DataError, match=r'For tar shards, set data\.name to "tar-shards"'):
        open_dataset("image-folder", directory=tmp_path)
    images = write_image_folder(tmp_path / "images")
    assert 'For images in folders, set data.name to "image-folder"' in refusal(images)


def test_pipes_and_links_that_lead_out_are_refused(tmp_path):
    shards(tmp_path / "in")
    write_shards(tmp_path, train_2=SOUND)
    (tmp_path / "in" / "train-2.tar").symlink_to(tmp_path / "train-2.tar")
    assert "a link that leads out of the data directory" in refusal(tmp_path / "in")
    (tmp_path / "in" / "train-2.tar").unlink()
    os.mkfifo(tmp_path / "in" / "train-2.tar")
    assert "not a shard of a split" in refusal(tmp_path / "in")


def test_whatever_is_broken_in_a_shard_is_refused_or_harmless(tmp_path):
    source = random.Random(0)
    whole = by_tarfile([*examples(THREE), ("0099.json", json.dumps({"label": 1}).encode()), ("0099.png", picture())])
    shards(tmp_path, whole)
    opened, refused = 0, []
    for _ in range(150):
        broken = bytearray(whole)
        for _ in range(source.choice([1, 1, 2, 8])):
            broken[source.randrange(len(broken))] = source.choice([0, 32, 47, 48, 55, 120, source.randrange(256)])
        (tmp_path / "train-0.tar").write_bytes(broken[: source.choice([len(broken), source.randrange(len(broken))])])
        try:
            data = open_shards(tmp_path, residency="streaming", image_size=8, validation=0.01)
            list(data.train.reader().images(range(len(data.train))))
            opened += 1
        except DataError as error:
            refused.append(str(error))
    assert opened
    assert refused
    assert all("train-0.tar" in said or "label" in said for said in refused)


def test_the_index_of_many_examples_is_small(tmp_path):
    data = open_shards(shards(tmp_path), residency="streaming", image_size=8)
    count = 20_000
    many = ShardImages(
        data.train.shards, data.train.locations.repeat(count // 20, 0)[:count], torch.zeros(count).long()
    )
    assert len(pickle.dumps(many.reader())) < 25 * count
