"""The networks of the papers, torchvision's, and the user's own."""

from granet.models.building import build, check_confirmed, is_factory, outline
from granet.models.catalog import CATALOG, ModelEntry
from granet.models.weights import from_checkpoint, load_weights

__all__ = [
    "CATALOG",
    "ModelEntry",
    "build",
    "check_confirmed",
    "from_checkpoint",
    "is_factory",
    "load_weights",
    "outline",
]
