"""Which part of a batch, or of a set, is a rank's."""

from __future__ import annotations

import numpy as np


def rows_of(batch_size: int, rank: int, size: int) -> np.ndarray:
    """The rows of a batch that a rank computes, as indices.

    A row and the one opposite to it (the first and the last, and so on) are the same rank's, from the outside inwards:
    mixup mixes these two, and so finds in a rank's share, reversed, what it finds in the whole batch. Where pairs are
    not divisible by ranks the first ranks have one more.
    """
    pairs = np.array_split(np.arange(-(-batch_size // 2)), size)[rank]
    opposite = batch_size - 1 - pairs[::-1]
    return np.concatenate([pairs, opposite[opposite > pairs[-1]]]) if len(pairs) else pairs


def least_batch(size: int) -> int:
    """The smallest batch in which each of `size` ranks has a row."""
    return 2 * size - 1
