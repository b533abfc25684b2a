"""Training a recipe from beginning to end, with checkpoints that resume without a trace."""

from granet.runs.folder import RunFolder
from granet.training.device import resolve_device
from granet.training.evaluate import Evaluation, evaluate
from granet.training.launch import resume, train
from granet.training.run import open_data
from granet.training.signals import stop_on_signals

__all__ = [
    "Evaluation",
    "RunFolder",
    "evaluate",
    "open_data",
    "resolve_device",
    "resume",
    "stop_on_signals",
    "train",
]
