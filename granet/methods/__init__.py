"""Methods of sparse training: GraNet, RigL, SET, SNFS, GMP and the controls they are compared with.

To add a method, write a file here with one class: a frozen keyword-only dataclass derived from ``Method``, ``Pruning``
or ``Swapping``, with ``@register("its-name")`` above it, a field declared with ``setting`` for each setting, and
what it does otherwise than its base class. Nothing else has to be edited: recipes, ``granet list methods``, completion
and the tests over all methods find it there. "A new method" in ``CONTRIBUTING.md`` shows a whole one.
"""

from granet.methods.base import Method, register
from granet.methods.dense import Dense
from granet.methods.gmp import GMP, GMPUniform
from granet.methods.granet import GraNet, GraNetUniform
from granet.methods.registry import METHODS, confirm
from granet.methods.rigl import RigL
from granet.methods.rigl_itop import RigLITOP
from granet.methods.set import SET
from granet.methods.settings import Steps, setting
from granet.methods.snfs import SNFS
from granet.methods.static import Static

__all__ = [
    "GMP",
    "METHODS",
    "SET",
    "SNFS",
    "Dense",
    "GMPUniform",
    "GraNet",
    "GraNetUniform",
    "Method",
    "RigL",
    "RigLITOP",
    "Static",
    "Steps",
    "confirm",
    "register",
    "setting",
]
