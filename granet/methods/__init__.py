"""Methods of sparse training: GraNet, RigL, SET, SNFS, GMP and the controls they are compared with."""

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
