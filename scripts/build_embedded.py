"""Build the part of Fashion-MNIST that comes with the package, from the whole of it.

    apt-get install dataset-fashion-mnist
    python scripts/build_embedded.py

Takes the first 1,000 training and the first 200 test examples of each class, in their original order, and writes
them as four gzipped idx files, the format of the whole. Running it again gives the same contents, whose
checksums are in ``granet/data/mnist.py``; the compressed bytes may differ with the version of zlib.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import struct
import subprocess
import sys
from pathlib import Path

import torch

from granet.data.dataset import Arrays
from granet.data.mnist import EMBEDDED, EMBEDDED_DIRECTORY, FASHION_MNIST, read_idx
from granet.data.published import PublishedFile

DEBIAN_PACKAGE = "dataset-fashion-mnist"
CLASSES = 10


def debian_folder() -> Path:
    """The folder where the Debian package keeps the images."""
    listing = subprocess.run(["dpkg", "-L", DEBIAN_PACKAGE], capture_output=True, text=True, check=False)
    images = [Path(line) for line in listing.stdout.splitlines() if "train-images" in line]
    if not images:
        sys.exit(f"Debian's {DEBIAN_PACKAGE} is not installed: install it, or name a folder with --source")
    return images[0].parent


def first_of_each_class(examples: Arrays, count: int) -> Arrays:
    """The first ``count`` examples of each class, in their original order."""
    firsts = [torch.nonzero(examples.labels == label).flatten()[:count] for label in range(CLASSES)]
    return examples.select(torch.cat(firsts).sort().values)


def write(directory: Path, file: PublishedFile, header: bytes, body: bytes) -> None:
    """Write one gzipped idx file, and print whether it has the size and checksum that the reader expects."""
    contents = header + body
    path = directory / f"{file.name}.gz"
    path.write_bytes(gzip.compress(contents, compresslevel=9, mtime=0))
    md5 = hashlib.md5(contents, usedforsecurity=False).hexdigest()
    verdict = "as expected" if (len(contents), md5) == (file.size, file.md5) else "NOT as in granet/data/mnist.py"
    print(f"{path.name}: {path.stat().st_size:,} bytes; contents {len(contents):,} bytes, md5 {md5}, {verdict}")


def main() -> None:
    """Read and check the whole set, and write the part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, help="folder with the idx files of Fashion-MNIST")
    parser.add_argument("--out", type=Path, default=EMBEDDED_DIRECTORY)
    arguments = parser.parse_args()

    train, test = read_idx(FASHION_MNIST, arguments.source or debian_folder())
    for examples, images_file, labels_file in (
        (first_of_each_class(train, 1000), EMBEDDED.train_images, EMBEDDED.train_labels),
        (first_of_each_class(test, 200), EMBEDDED.test_images, EMBEDDED.test_labels),
    ):
        count, _, height, width = examples.images.shape
        # idx: two zero bytes, 8 for unsigned bytes, the number of dimensions, then each as a big-endian integer.
        image_header = struct.pack(">4B3I", 0, 0, 8, 3, count, height, width)
        write(arguments.out, images_file, image_header, examples.images.numpy().tobytes())
        label_header = struct.pack(">4BI", 0, 0, 8, 1, count)
        write(arguments.out, labels_file, label_header, bytes(examples.labels.tolist()))


if __name__ == "__main__":
    main()
