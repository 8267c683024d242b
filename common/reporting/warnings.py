"""Warnings that a job's user should not miss among the lines of a log.

    warn("one class alone: nothing can be told apart")   # logged at once
    told()                                               # for status.json
    repeat()                                             # as the log's last lines but one

A warning is a sentence about the whole job, such as one on its data; what happens to a single file or batch is logged
and no more.
"""

from __future__ import annotations

import logging

log = logging.getLogger("visualtl")

_told: dict[str, None] = {}  # in their order; a sentence is said once


def warn(sentence: str) -> None:
    """Log `sentence`, and keep it for `told` and `repeat`."""
    if sentence not in _told:
        _told[sentence] = None
        log.warning("%s", sentence)


def told() -> list[str]:
    """What was warned of in this process, in its order."""
    return list(_told)


def repeat() -> None:
    """Log everything that was warned of once more, at the end of a job or of `--check`."""
    for number, sentence in enumerate(_told, start=1):
        log.warning("Once more, warning %d of %d: %s", number, len(_told), sentence)


def forget() -> None:
    """Begin with no warning: another job in the same process."""
    _told.clear()
