"""What both pipelines promise, and what a worker process must not change."""

from __future__ import annotations

import itertools
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from granet.data import AUGMENTATIONS, images, make_pipeline, open_dataset
from granet.data.pipeline import Normalise
from granet.data.shared_batches import SharedBatches
from granet.errors import DataError, UnknownNameError, UsageError
from tests.synthetic import arrays_dataset, write_image_folder

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_image_folder(tmp_path_factory.mktemp("images"), per_class=8, size=12)


def pipeline_of(residency, folder, *, augment="crop-flip", workers=0, seed=0, batch_size=4):
    dataset = open_dataset("image-folder", directory=folder, residency=residency)
    return make_pipeline(dataset, batch_size=batch_size, device=CPU, seed=seed, augment=augment, workers=workers)


def equal(first, second) -> bool:
    return all(
        torch.equal(images, others) and torch.equal(labels, theirs)
        for (images, labels), (others, theirs) in zip(first, second, strict=True)
    )


residencies = pytest.mark.parametrize("residency", ["resident", "streaming"])


@residencies
@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_an_epoch_may_be_entered_at_any_step(residency, augment, folder):
    pipeline = pipeline_of(residency, folder, augment=augment)
    whole = list(pipeline.batches(3))
    assert len(whole) == pipeline.steps_per_epoch == 21 // 4
    assert all(images.shape == (4, 3, 12, 12) and images.dtype == torch.float32 for images, _ in whole)
    for start in range(pipeline.steps_per_epoch + 1):
        assert equal(pipeline.batches(3, start=start), whole[start:])


@residencies
def test_epochs_and_seeds_differ_and_repeat(residency, folder):
    pipeline = pipeline_of(residency, folder)
    first = list(pipeline.batches(0))
    assert not equal(first, list(pipeline.batches(1)))
    assert equal(first, list(pipeline.batches(0)))
    assert not equal(first, list(pipeline_of(residency, folder, seed=1).batches(0)))


@residencies
def test_the_callers_random_numbers_are_left_alone(residency, folder):
    before = torch.get_rng_state()
    pipeline = pipeline_of(residency, folder)
    list(pipeline.batches(0))
    list(pipeline.evaluation("test"))
    assert torch.equal(torch.get_rng_state(), before)


@residencies
def test_evaluation_sees_every_example_once_in_order(residency, folder):
    pipeline = pipeline_of(residency, folder)
    batches = list(pipeline.evaluation("test", batch_size=7))
    assert [len(labels) for _, labels in batches] == [7, 7, 7, 3]
    assert torch.cat([labels for _, labels in batches]).tolist() == [0] * 8 + [1] * 8 + [2] * 8
    with pytest.raises(UnknownNameError, match="validation"):
        list(pipeline.evaluation("valid"))


def test_both_pipelines_show_evaluation_the_same_pixels(folder):
    resident, streaming = (pipeline_of(residency, folder) for residency in ("resident", "streaming"))
    assert equal(resident.evaluation("validation"), streaming.evaluation("validation"))


def test_batches_are_the_same_with_workers_as_without(folder):
    alone, helped = (pipeline_of("streaming", folder, workers=workers) for workers in (0, 2))
    assert equal(helped.batches(0), list(alone.batches(0)))
    # The same workers go on with the next epoch, also when the last one was left half way.
    list(itertools.islice(helped.batches(1), 2))
    assert equal(helped.batches(2, start=1), list(alone.batches(2, start=1)))
    assert equal(helped.evaluation("test", 5), list(alone.evaluation("test", 5)))


def test_workers_ahead_of_a_slow_network_do_not_overwrite_batches_in_use(tmp_path, monkeypatch):
    """Workers write into the same memory over and over, so they must not come round to what is still needed."""
    write_image_folder(tmp_path, per_class=20, size=12)
    alone, helped = (pipeline_of("streaming", tmp_path, workers=workers, batch_size=2) for workers in (0, 2))
    expected = list(alone.batches(0))
    normalise = Normalise.__call__

    def late(self, images):
        time.sleep(0.05)  # time enough for workers to make all batches that they may
        return normalise(self, images)

    monkeypatch.setattr(Normalise, "__call__", late)
    assert equal(helped.batches(0), expected)


def test_an_iterator_fails_once_its_workers_serve_a_later_one(folder):
    pipeline = pipeline_of("streaming", folder)
    first = pipeline.batches(0)
    next(first)
    next(pipeline.batches(1))
    with pytest.raises(RuntimeError, match="gone on"):
        next(first)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named_also_from_a_worker(tmp_path, workers):
    write_image_folder(tmp_path)
    bad = tmp_path / "test" / "class-2" / "4.png"
    bad.write_bytes(bad.read_bytes()[:50])
    dataset = open_dataset("image-folder", directory=tmp_path, residency="streaming", image_size=8)
    pipeline = make_pipeline(dataset, batch_size=4, device=CPU, seed=0, augment="none", workers=workers)
    with pytest.raises(DataError, match=r"class-2/4.png: cannot be read as an image.*Replace it, or remove") as caught:
        list(pipeline.evaluation("test"))
    assert caught.value.where == bad
    assert "Traceback" not in str(caught.value)


@settings(max_examples=20, deadline=None)
@given(examples=st.integers(3, 40), batch_size=st.integers(1, 40), epoch=st.integers(0, 3))
def test_no_training_example_occurs_twice_in_an_epoch(examples, batch_size, epoch):
    dataset = arrays_dataset(train=examples, channels=1, size=4)
    if batch_size > examples:
        with pytest.raises(UsageError, match="not a batch size"):
            make_pipeline(dataset, batch_size=batch_size, device=CPU, seed=0, augment="none")
        return
    pipeline = make_pipeline(dataset, batch_size=batch_size, device=CPU, seed=0, augment="none")
    seen = torch.cat([images for images, _ in pipeline.batches(epoch)])
    assert len(seen) == pipeline.steps_per_epoch * batch_size > examples - batch_size
    assert len({image.numpy().tobytes() for image in seen}) == len(seen)


def test_pixels_are_normalised_by_mean_and_standard_deviation():
    dataset = arrays_dataset()
    pipeline = make_pipeline(dataset, batch_size=2, device=CPU, seed=0, augment="none")
    images, _ = next(pipeline.evaluation("test"))
    torch.testing.assert_close(images, (dataset.test.images / 255 - 0.5) / 0.25)


@pytest.mark.parametrize("shape", [(2, 3, 5, 5), (3, 3, 224, 224), (1, 3, 1, 11000), (2, 1, 6, 6), (0, 3, 4, 4)])
def test_normalising_is_the_same_in_every_memory_layout(shape):
    """What is laid out with channels last goes by rows, in parts, and comes out laid out so."""
    pixels = torch.arange(math.prod(shape)).remainder_(256).to(torch.uint8).view(shape)
    few = shape[1]
    normalise = Normalise((0.485, 0.456, 0.406)[:few], (0.229, 0.224, 0.225)[:few], CPU)
    last = normalise(pixels.contiguous(memory_format=torch.channels_last))
    assert torch.equal(last, normalise(pixels))
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert normalise(pixels).is_contiguous()


def test_normalising_a_stream_leaves_other_processors_to_the_workers():
    """Threads that torch calls upon wait for their next turn with their processors busy."""
    script = """if __name__ == "__main__":
    import os, torch
    from granet.data.pipeline import Normalise
    pixels = torch.zeros(16, 3, 64, 64, dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    torch.set_num_threads(2)
    before = len(os.listdir("/proc/self/task"))
    Normalise((0.5,) * 3, (0.25,) * 3, torch.device("cpu"))(pixels)
    assert len(os.listdir("/proc/self/task")) == before
    pixels.float()  # this does call upon them
    assert len(os.listdir("/proc/self/task")) > before
    """
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("size", [images._SMALL - 1, images._SMALL, images._SMALL + 1])
def test_an_image_is_read_whole_whatever_its_file_s_size(tmp_path, size):
    pixels = torch.randint(0, 256, (1, 1, 3), dtype=torch.uint8).numpy().tobytes()
    header = b"P6\n#" + b"x" * (size - 16) + b"\n1 1\n255\n"
    file = tmp_path / "1.ppm"
    file.write_bytes(header + pixels)
    assert file.stat().st_size == size
    assert images.load(file).tobytes() == pixels


def test_an_image_is_read_whole_where_the_system_gives_less_than_asked(tmp_path, monkeypatch):
    write_image_folder(tmp_path)
    path = tmp_path / "test" / "class-0" / "0.png"
    whole, read = images.load(path), os.read
    monkeypatch.setattr(images.os, "read", lambda descriptor, count: read(descriptor, min(count, 40)))
    assert images.load(path).tobytes() == whole.tobytes()


def test_too_little_shared_memory_for_the_batches_of_workers_is_an_error():
    with pytest.raises(DataError, match=r"no memory for the batches of the workers.*fewer workers or smaller batches"):
        SharedBatches(1, 1, (1 << 20, 1 << 14, 1 << 14, 3))


def test_workers_of_two_pipelines_keep_apart(folder):
    """Both are at work at the same time, in memory of their own."""
    one, other = (pipeline_of("streaming", folder, workers=1, seed=seed) for seed in (0, 1))
    alone = [list(pipeline_of("streaming", folder, seed=seed).batches(0)) for seed in (0, 1)]
    together = list(zip(one.batches(0), other.batches(0), strict=True))
    assert equal([mine for mine, _ in together], alone[0])
    assert equal([theirs for _, theirs in together], alone[1])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"augment": "crop-filp"}, UnknownNameError, "Did you mean 'crop-flip'"),
        ({"batch_size": 0}, UsageError, "not a batch size"),
        ({"workers": -1}, UsageError, "at least 0"),
    ],
)
def test_arguments_of_a_pipeline_out_of_range_are_errors(arguments, error, message):
    usual = {"batch_size": 4, "device": CPU, "seed": 0, "augment": "none"}
    with pytest.raises(error, match=message):
        make_pipeline(arrays_dataset(), **(usual | arguments))


@pytest.mark.parametrize(("epoch", "start"), [(-1, 0), (0, -1), (0, 8)])
def test_a_position_beyond_the_epoch_is_an_error(epoch, start):
    pipeline = make_pipeline(arrays_dataset(), batch_size=4, device=CPU, seed=0, augment="none")
    with pytest.raises(UsageError, match="no such position"):
        pipeline.batches(epoch, start=start)


def test_workers_end_with_a_trainer_that_is_killed(tmp_path):
    write_image_folder(tmp_path)
    program = f"""
if __name__ == "__main__":
    import multiprocessing, os, pathlib, signal, torch
    from granet.data import make_pipeline, open_dataset
    data = open_dataset("image-folder", directory=pathlib.Path({str(tmp_path)!r}), image_size=8, residency="streaming")
    pipeline = make_pipeline(data, batch_size=4, device=torch.device("cpu"), seed=0, augment="none", workers=2)
    next(pipeline.batches(0))
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    file = tmp_path / "trainer.py"
    file.write_text(program)
    done = subprocess.run([sys.executable, file], capture_output=True, text=True, timeout=60)
    workers = [int(pid) for pid in done.stdout.split()]
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(workers) == 2
    patience = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < patience:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


def test_an_interrupt_while_workers_start_is_left_to_the_trainer(tmp_path):
    """Ctrl-C reaches the whole process group, and the server of the workers takes seconds to import torch."""
    write_image_folder(tmp_path)
    script = f"""if __name__ == "__main__":
    import os, signal, threading, torch
    from pathlib import Path
    from granet.data import make_pipeline, open_dataset
    data = open_dataset("image-folder", directory=Path({str(tmp_path)!r}), residency="streaming", image_size=8)
    signal.signal(signal.SIGINT, lambda *_: None)
    threading.Timer(0.5, os.killpg, (0, signal.SIGINT)).start()
    pipeline = make_pipeline(data, batch_size=4, device=torch.device("cpu"), seed=0, augment="none", workers=1)
    print(len(list(pipeline.batches(0))))
    """
    (tmp_path / "main.py").write_text(script)
    command = [sys.executable, str(tmp_path / "main.py")]
    done = subprocess.run(command, capture_output=True, text=True, start_new_session=True, check=False)
    assert (done.stdout, done.stderr) == ("3\n", "")
