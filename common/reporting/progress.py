"""How far a job is: points for the poller, and curves for TensorBoard's page.

    progress = Progress(log_dir, server.publish)
    with progress.step(Step.TRAIN) as advance:
        for batch in range(batches):
            ...
            progress.scalar("loss", loss, batch)
            advance((batch + 1) / batches)

A point goes to the server (at once) and to the event file in log_dir, with the same wall time.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path

from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from common.errors import LogDirError
from common.reporting.server_process import EVENT_FILES, Point, require_regular, single

TAG = "progress"

_logger = logging.getLogger("visualtl")


class Step(IntEnum):
    """The steps of a job in their order. A poller knows them by number: neither may ever change."""

    LOAD_TRAIN_DATA = 1
    LOAD_VALID_DATA = 2
    LOAD_TRAIN_VALID_DATA = 3
    LOAD_TEST_DATA = 4
    LOAD_ALL_DATA = 7
    TRAIN = 10
    PREDICT_VALID = 20
    PREDICT_TEST = 21
    EXPORT = 30


def earlier_points(log_dir: Path) -> list[Point]:
    """The progress that event files at the top of `log_dir` hold, as far as it rises, for `Progress.restore`.

    A file whose end is missing, because its writer was killed, counts as far as it is whole. Raises LogDirError for
    what is named as event files are and is none.
    """
    points: list[Point] = []
    for path in sorted(log_dir.glob(EVENT_FILES)):
        try:
            require_regular(path)
        except OSError as error:
            raise LogDirError(f"{path}: cannot be read: {error.strerror or error}; remove it") from error
        try:
            for event in LegacyEventFileLoader(str(path)).Load():
                for value in event.summary.value:
                    if value.tag == TAG:
                        points.append((event.wall_time, event.step, value.simple_value))
        except Exception as error:  # of several libraries: whatever is wrong, the beginning counts
            _logger.warning("%s: read in part: %s", path, error)
    return _rising(points)


def curves(log_dir: Path) -> dict[str, list[tuple[int, float]]]:
    """The curves that event files at the top of `log_dir` hold, by tag: step and value, in the order of the steps.

    Of a training that was resumed, what was written last of a step counts.
    """
    by_tag: dict[str, dict[int, float]] = {}
    for path in sorted(log_dir.glob(EVENT_FILES)):
        try:
            for event in LegacyEventFileLoader(str(path)).Load():
                for value in event.summary.value:
                    if value.tag != TAG and value.HasField("simple_value"):
                        by_tag.setdefault(value.tag, {})[event.step] = value.simple_value
        except Exception as error:  # of several libraries: whatever is wrong, the beginning counts
            _logger.warning("%s: read in part: %s", path, error)
    return {tag: sorted(points.items()) for tag, points in by_tag.items()}


def _rising(points: Iterable[Point]) -> list[Point]:
    """The points that keep the promise to pollers: steps only grow, fractions never fall within one."""
    rising: list[Point] = []
    last = (0, 0.0)
    for wall, step, fraction in points:
        if (step, fraction) >= last and 0.0 <= fraction <= 1.0:
            rising.append((wall, step, fraction))
            last = (step, fraction)
    return rising


class EventFile:
    """An event file of TensorBoard in `log_dir`, flushed within a second.

    A disk that is full, or gone, costs curves and not the training: it is logged once, and after a pause
    another file is begun (TensorBoard reads the files of a folder one after the other). log_dir: None: there is none.
    """

    retry_after = 30.0  # seconds

    def __init__(self, log_dir: Path | None) -> None:
        self._log_dir = log_dir
        self._writer: EventFileWriter | None = None
        self._not_before = -math.inf
        self._failed = False

    def write(self, tag: str, value: float, step: int, wall_time: float, flush: bool = False) -> None:
        """Append `value` of `tag`; `flush` waits until it is with the operating system."""
        self.add(Summary(value=[Summary.Value(tag=tag, simple_value=value)]), step, wall_time, flush)

    def add(self, summary: Summary, step: int, wall_time: float, flush: bool = False) -> None:
        """Append a summary of any kind."""
        if self._log_dir is None or (self._writer is None and time.monotonic() < self._not_before):
            return
        try:
            if self._writer is None:
                self._writer = EventFileWriter(str(self._log_dir), max_queue_size=1000, flush_secs=1)
            self._writer.add_event(Event(wall_time=wall_time, step=step, summary=summary))
            if flush:
                self._writer.flush()
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        """Flush and close the file."""
        writer, self._writer = self._writer, None
        self._not_before = math.inf
        try:
            if writer is not None:
                writer.close()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        if not self._failed:
            _logger.warning("%s: curves cannot be written, training goes on: %s", self._log_dir, error)
        self._failed = True
        self._writer = None
        self._not_before = max(self._not_before, time.monotonic() + self.retry_after)


class Progress:
    """The points of a job. `publish` gets each new one (see `common.reporting.server_process.Point`) when it is made.
    log_dir: None where another rank writes them.

    At most about a hundred points a step, not more than one each tenth of a second: pollers fetch all of them.
    """

    points_a_step = 100
    interval = 0.1  # seconds

    def __init__(self, log_dir: Path | None, publish: Callable[[list[Point]], None]) -> None:
        self._events = EventFile(log_dir)
        self._publish = publish
        self._lock = threading.RLock()
        self._open: Step | None = None
        self._begun = 0  # the number of the last step that began
        self._wall = 0.0
        self._time = -math.inf  # monotonic, of the last point
        self._last = (0, 0.0)  # step and fraction of the last point: the next one is not less
        self._trained: list[Point] = []  # of the training, by an earlier run

    def restore(self, points: Sequence[Point]) -> None:
        """Go on from the points of the run that this job resumes, so that a poller sees no step back.

        They are published, and not written again: the event files of a resumed run stay where they are. What was loaded
        then is loaded again without a word, until the loading is ahead of the last point. Points of the training wait
        for `resume_training`. What came after it is to come again, and is left out. Raises ValueError if this job has
        begun a step already.
        """
        with self._lock:
            if self._begun:
                raise ValueError("earlier points must be restored before the first step begins")
            rising = _rising(points)
            self._take_up([point for point in rising if point[1] < Step.TRAIN])
            self._trained = [point for point in rising if point[1] == Step.TRAIN]

    def resume_training(self, fraction: float) -> None:
        """The training is about to go on where this fraction of it is done: what an earlier run told up to there holds.

        Raises ValueError while a step is open.
        """
        with self._lock:
            if self._open is not None:
                raise ValueError(f"step {self._open.name} has not ended")
            self._take_up([point for point in self._trained if point[2] <= single(fraction)])
            self._trained = []

    def _take_up(self, points: list[Point]) -> None:
        ahead = [point for point in points if point[1:] > self._last]
        if ahead:
            self._wall, *_ = ahead[-1]
            self._last = ahead[-1][1:]
            self._publish(ahead)

    def begin(self, step: Step) -> None:
        """The first point of `step`, 0.0; the step that is open may be begun again, which changes nothing.

        Raises ValueError if another step is open or `step` is not a later one.
        """
        with self._lock:
            if self._open == step:
                return
            if self._open is not None:
                raise ValueError(f"step {step.name} cannot begin before {self._open.name} has ended")
            if step <= self._begun:
                raise ValueError(f"step {step.name} cannot begin after {Step(self._begun).name}")
            self._open, self._begun = step, int(step)
            if step > self._last[0]:
                self._point(step, 0.0)

    def advance(self, fraction: float) -> None:
        """`fraction` (0…1) of the open step is done. May be called as often as one likes.

        What is no number, or less than before, is not reported; 1.0 is left to `end`, for it says that the
        step succeeded. Raises ValueError if no step is open.
        """
        with self._lock:
            if self._open is None:
                raise ValueError("no step has begun")
            if not 0.0 < fraction < 1.0:  # also NaN
                return
            now = time.monotonic()
            step, before = self._last
            due = fraction >= before + 1.0 / self.points_a_step and now >= self._time + self.interval
            if step == self._open and due and single(fraction) < 1.0:
                self._point(self._open, fraction)

    def end(self) -> None:
        """The last point of the open step, 1.0: it succeeded. Raises ValueError if no step is open."""
        with self._lock:
            if self._open is None:
                raise ValueError("no step has begun")
            step, self._open = self._open, None
            if (step, 1.0) > self._last:
                self._point(step, 1.0)

    @contextmanager
    def step(self, step: Step) -> Iterator[Callable[[float], None]]:
        """`begin` and `end` around a block that gets `advance`; a block that raises does not claim 1.0."""
        self.begin(step)
        try:
            yield self.advance
        except BaseException:  # a signal's included: none of them may leave the step open
            with self._lock:
                self._open = None
            raise
        self.end()

    def scalar(self, tag: str, value: float, step: int) -> None:
        """A point of the curve `tag` on TensorBoard's page; visible within seconds. NaN is shown as such."""
        with self._lock:
            self._events.write(tag, float(value), int(step), time.time())

    def add(self, summary: Summary, step: int) -> None:
        """Something else than a curve for TensorBoard's page; waits until it is with the operating system."""
        with self._lock:
            self._events.add(summary, int(step), time.time(), flush=True)

    def close(self) -> None:
        """Close the event file. Points after that reach the server alone, curves nobody."""
        with self._lock:
            self._events.close()

    def _point(self, step: Step, fraction: float) -> None:
        # A clock that is set back must not make points go back in time.
        self._wall = max(time.time(), self._wall)
        self._time = time.monotonic()
        self._last = (int(step), single(fraction))
        self._publish([(self._wall, *self._last)])
        self._events.write(TAG, self._last[1], self._last[0], self._wall, flush=True)
