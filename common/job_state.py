"""A running job: what its parts have at hand."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from common.datasets import Datasets
from common.prepare import Prepared
from common.processes.pool import WorkerPool
from common.ranks.ranks import ALONE, Ranks
from common.recipe import Recipe
from common.reporting.progress import Progress
from common.reporting.status import Status
from common.steps import Steps
from common.task import Task

log = logging.getLogger("visualtl")

S = TypeVar("S")


@dataclass(frozen=True)
class Job:
    """What a running job has at hand: what it trains on which data, and who is told how far it is."""

    prepared: Prepared
    data: Datasets
    devices: Sequence[Any]
    recipe: Recipe
    pool: WorkerPool
    progress: Progress
    status: Status
    steps: Steps
    ranks: Ranks = ALONE

    @property
    def task(self) -> Task[Any]:
        """What is trained."""
        return self.prepared.task


def paired(samples: Sequence[S], predictions: Mapping[int, Any]) -> tuple[list[S], list[Any]]:
    """Samples that were predicted, and their predictions."""
    indices = sorted(predictions)
    return [samples[index] for index in indices], [predictions[index] for index in indices]


@contextmanager
def timed(part: str) -> Iterator[None]:
    """Say in the log file what a part of the job took."""
    began = time.monotonic()
    yield
    log.debug("Took: %s %.1f s", part, time.monotonic() - began)
