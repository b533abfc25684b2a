"""Datasets by name, and the two pipelines that turn them into batches on a device."""

from granet.data.augment import AUGMENTATIONS
from granet.data.catalog import DATASETS, RESIDENCIES, SIZED, DatasetEntry, open_dataset
from granet.data.dataset import SPLITS, Arrays, Dataset, Files
from granet.data.pipeline import Pipeline, make_pipeline
from granet.data.shard_images import Members

__all__ = [
    "AUGMENTATIONS",
    "DATASETS",
    "RESIDENCIES",
    "SIZED",
    "SPLITS",
    "Arrays",
    "Dataset",
    "DatasetEntry",
    "Files",
    "Members",
    "Pipeline",
    "make_pipeline",
    "open_dataset",
]
