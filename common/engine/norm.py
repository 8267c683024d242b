"""The norm of very many numbers."""

from __future__ import annotations

import numpy as np

# BLAS and PyTorch add up in float32: the norm of a hundred million numbers at once came out 0.1 and 0.9 % too small.
_PIECE = 1 << 16


def norm(numbers: np.ndarray) -> float:
    """The Euclidean norm of an array of any shape and order in memory; nan or infinite if one of its numbers is."""
    flat = numbers.ravel(order="K")
    pieces = (flat[begin : begin + _PIECE] for begin in range(0, len(flat), _PIECE))
    return float(np.sqrt(sum(float(np.dot(piece, piece)) for piece in pieces)))
