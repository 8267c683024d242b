"""Figures of a set that tasks share, for `data_report.json`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

# Classes that have so many times more than others are worth a word: the rare ones may hardly be learnt.
_UNEVEN = 10


def spread(values: np.ndarray, digits: int) -> dict[str, float] | None:
    """The least, median and greatest of `values`, rounded; None if there are none."""
    if not values.size:
        return None
    quantiles = np.quantile(values, (0.0, 0.5, 1.0)).round(digits).tolist()
    return dict(zip(("min", "median", "max"), quantiles, strict=True))


def unevenness(counts: Mapping[str, int], what: str) -> Iterator[str]:
    """Warnings of classes that have none of `what` ("object"), or far fewer than others. counts: by class."""
    missing = [name for name, count in counts.items() if not count]
    if missing:
        yield f"no {what} of {len(missing)} of the {len(counts)} classes: {listed(missing)}"
    present = {name: count for name, count in counts.items() if count}
    if present and max(present.values()) >= _UNEVEN * min(present.values()):
        most, least = max(present, key=present.__getitem__), min(present, key=present.__getitem__)
        yield f"uneven classes: {present[most]} {what}s of {most}, {present[least]} of {least}"


def listed(words: Sequence[str], most: int = 10) -> str:
    """`words` with commas between them; of more than `most` how many there are."""
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more
