"""Methods of sparse training: GraNet, RigL, SET, SNFS, GMP and the controls they are compared with."""

from granet.methods.registry import (
    GMP,
    METHODS,
    SET,
    SNFS,
    Dense,
    GMPUniform,
    GraNet,
    GraNetUniform,
    RigL,
    RigLITOP,
    Static,
)

__all__ = [
    "GMP",
    "METHODS",
    "SET",
    "SNFS",
    "Dense",
    "GMPUniform",
    "GraNet",
    "GraNetUniform",
    "RigL",
    "RigLITOP",
    "Static",
]
