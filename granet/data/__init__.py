"""Datasets by name, and the pipeline that turns them into batches on a device."""

from granet.data.augment import AUGMENTATIONS
from granet.data.catalog import DATASETS, RESIDENCIES, SIZED, DatasetEntry, open_dataset
from granet.data.dataset import SPLITS, Arrays, Dataset, Files
from granet.data.pipeline import Pipeline, make_pipeline
from granet.data.shard_images import ShardImages

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
    "Pipeline",
    "ShardImages",
    "make_pipeline",
    "open_dataset",
]
