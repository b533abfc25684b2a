"""The 2:4 pattern of sparse tensor cores: at most two values other than zero in every four consecutive inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def is_two_of_four(weight: NDArray[Any]) -> bool:
    """Return whether ``weight`` has the pattern along its last axis, that of the inputs."""
    if weight.ndim < 2 or weight.shape[-1] % 4:
        return False
    return bool(np.all(np.count_nonzero(weight.reshape(-1, 4), axis=1) <= 2))
