"""The steps of a job, as pollers and status.json are told of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from common.config.sections import DatasetConfig
from common.reporting.progress import Progress, Step
from common.reporting.status import Status

# Opens a step and gives the function that says how far it is.
Steps = Callable[[Step], AbstractContextManager[Callable[[float], None]]]

_STATES = {
    Step.TRAIN: "training",
    Step.PREDICT_VALID: "predicting",
    Step.PREDICT_TEST: "predicting",
    Step.EXPORT: "exporting",
}


def first_step(dataset: DatasetConfig) -> Step:
    """The step under which the training folder is read: it says what is split off from it."""
    if dataset.valid_share and dataset.test_share:
        return Step.LOAD_ALL_DATA
    return Step.LOAD_TRAIN_VALID_DATA if dataset.valid_share else Step.LOAD_TRAIN_DATA


def steps_of(progress: Progress, status: Status) -> Steps:
    """Steps that are told to pollers of `progress` and in status.json."""

    @contextmanager
    def step(which: Step) -> Iterator[Callable[[float], None]]:
        status.update(state=_STATES.get(which, "loading"), step=which, progress=0.0)
        with progress.step(which) as advance:

            def both(fraction: float) -> None:
                advance(fraction)
                status.update(progress=fraction)

            yield both
        status.update(progress=1.0)

    return step
