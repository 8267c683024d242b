"""Promises of the points of a job: what a poller may rely on, whatever the job does."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import struct
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from common.errors import LogDirError
from common.reporting import progress as module
from common.reporting.progress import TAG, Progress, Step, earlier_points
from common.reporting.server_process import Point, archive_old_events


class Clock:
    """Stands for the module's time: every look at it lets `tick` seconds pass."""

    def __init__(self, tick: float) -> None:
        self.now, self.tick = 1000.0, tick

    def time(self) -> float:
        self.now += self.tick
        return self.now

    monotonic = time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock(0.2)
    monkeypatch.setattr(module, "time", clock)
    return clock


class Job:
    """A Progress and what a poller got of it."""

    def __init__(self, log_dir: Path) -> None:
        self.points: list[Point] = []
        self.progress = Progress(log_dir, self.points.extend)

    def heard(self) -> list[tuple[int, float]]:
        return [(step, fraction) for _, step, fraction in self.points]


@pytest.fixture
def job(tmp_path: Path, clock: Clock) -> Iterator[Job]:
    job = Job(tmp_path)
    yield job
    job.progress.close()


def scalars(folder: Path, tag: str) -> list[Point]:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    return [(event.wall_time, event.step, event.value) for event in events.Scalars(tag)]


def test_numbers_and_names_of_the_steps_are_those_that_pollers_know() -> None:
    assert {step.name: step.value for step in Step} == {
        "LOAD_TRAIN_DATA": 1,
        "LOAD_VALID_DATA": 2,
        "LOAD_TRAIN_VALID_DATA": 3,
        "LOAD_TEST_DATA": 4,
        "LOAD_ALL_DATA": 7,
        "TRAIN": 10,
        "PREDICT_VALID": 20,
        "PREDICT_TEST": 21,
        "EXPORT": 30,
    }


def test_a_step_begins_with_0_and_ends_with_1(job: Job) -> None:
    with job.progress.step(Step.TRAIN) as advance:
        advance(0.25)
    with job.progress.step(Step.EXPORT):
        pass
    assert job.heard() == [(10, 0.0), (10, 0.25), (10, 1.0), (30, 0.0), (30, 1.0)]


def test_a_step_that_fails_does_not_claim_to_be_done(job: Job) -> None:
    def train() -> None:
        with job.progress.step(Step.TRAIN) as advance:
            advance(0.5)
            advance(1.0)
            raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        train()
    assert job.heard() == [(10, 0.0), (10, 0.5)]


def test_a_fraction_that_rounds_to_1_is_not_told_before_the_end(job: Job) -> None:
    job.progress.begin(Step.TRAIN)
    job.progress.advance(math.nextafter(1.0, 0.0))  # 1.0 as float32
    assert job.heard() == [(10, 0.0)]


def test_fractions_that_fall_or_are_none_are_not_told(job: Job) -> None:
    with job.progress.step(Step.TRAIN) as advance:
        for fraction in (0.5, 0.4, float("nan"), -1.0, 2.0, float("inf"), 0.5, 0.6):
            advance(fraction)
    assert [fraction for _, fraction in job.heard()] == pytest.approx([0.0, 0.5, 0.6, 1.0])


def test_a_step_has_about_a_hundred_points_however_often_it_advances(job: Job) -> None:
    with job.progress.step(Step.TRAIN) as advance:
        for batch in range(5000):
            advance(batch / 5000)
    assert 90 <= len(job.points) <= 102


def test_points_are_a_tenth_of_a_second_apart(job: Job, clock: Clock) -> None:
    clock.tick = 0.01
    with job.progress.step(Step.TRAIN) as advance:
        for batch in range(1, 50):
            advance(batch / 50)
    walls = [wall for wall, _, fraction in job.points if 0.0 < fraction < 1.0]
    assert len(walls) > 2
    assert min(later - earlier for earlier, later in pairwise(walls)) >= 0.1


def test_wall_times_rise_even_if_the_clock_is_set_back(job: Job, clock: Clock) -> None:
    with job.progress.step(Step.LOAD_TRAIN_DATA):
        pass
    clock.now -= 3600
    with job.progress.step(Step.TRAIN):
        pass
    walls = [wall for wall, _, _ in job.points]
    assert walls == sorted(walls)


def test_misuse_is_an_error(job: Job) -> None:
    with pytest.raises(ValueError, match="no step"):
        job.progress.advance(0.1)
    with pytest.raises(ValueError, match="no step"):
        job.progress.end()
    job.progress.begin(Step.TRAIN)
    with pytest.raises(ValueError, match=r"EXPORT cannot begin before TRAIN"):
        job.progress.begin(Step.EXPORT)
    with pytest.raises(ValueError, match="before the first step"):
        job.progress.restore([(1.0, 1, 0.0)])
    job.progress.end()
    for step in (Step.LOAD_TRAIN_DATA, Step.TRAIN):
        with pytest.raises(ValueError, match=f"{step.name} cannot begin after TRAIN"):
            job.progress.begin(step)


def test_the_event_file_holds_the_points_that_were_published(job: Job, tmp_path: Path) -> None:
    with job.progress.step(Step.LOAD_ALL_DATA) as advance:
        advance(1 / 3)
    written = scalars(tmp_path, TAG)  # not closed: a killed job's file is as good
    assert written == job.points
    assert written[1][2] == struct.unpack("f", struct.pack("f", 1 / 3))[0]
    assert earlier_points(tmp_path) == job.points


def test_curves_stand_beside_the_points(job: Job, tmp_path: Path) -> None:
    job.progress.scalar("loss", 2.5, 0)
    job.progress.scalar("loss", float("nan"), 1)
    job.progress.scalar("valid/mAP", 1e300, 1)
    with job.progress.step(Step.TRAIN):
        pass
    job.progress.close()
    job.progress.scalar("loss", 1.0, 2)  # after the end: no error, no curve
    loss = [value for _, _, value in scalars(tmp_path, "loss")]
    assert loss[0] == 2.5
    assert math.isnan(loss[1])
    assert len(loss) == 2
    assert scalars(tmp_path, "valid/mAP")[0][2] == math.inf
    assert len(scalars(tmp_path, TAG)) == 2


def test_points_reach_the_poller_when_nothing_can_be_written(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    job = Job(tmp_path / "file")
    for step in (Step.TRAIN, Step.EXPORT):
        with job.progress.step(step):
            clock.now += module.EventFile.retry_after
    job.progress.close()
    assert job.heard() == [(10, 0.0), (10, 1.0), (30, 0.0), (30, 1.0)]
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_curves_go_on_when_the_disk_has_room_again(tmp_path: Path, clock: Clock) -> None:
    folder = tmp_path / "out"
    folder.touch()
    job = Job(folder)
    job.progress.scalar("loss", 1.0, 0)
    folder.unlink()
    job.progress.scalar("loss", 2.0, 1)  # not tried: too early
    assert not folder.exists()
    clock.now += module.EventFile.retry_after
    job.progress.scalar("loss", 3.0, 2)
    job.progress.close()
    assert [value for _, _, value in scalars(folder, "loss")] == [3.0]


def run(job: Job, until: float, at: float = 0.0) -> None:
    """A job that is killed at `until` of its training, or (2.0) goes to its end; resumed at `at` of it."""
    with job.progress.step(Step.LOAD_TRAIN_DATA) as advance:
        advance(0.5)
    job.progress.resume_training(at)
    job.progress.begin(Step.TRAIN)
    for percent in range(round(100 * at), 100):
        if percent / 100 >= until:
            return
        job.progress.advance(percent / 100)
    job.progress.end()
    with job.progress.step(Step.EXPORT):
        pass


def test_a_resumed_job_goes_on_where_the_poller_was(tmp_path: Path, clock: Clock) -> None:
    first = Job(tmp_path)
    run(first, until=0.4)
    assert first.heard()[-1][1] == pytest.approx(0.39)
    second = Job(tmp_path)
    second.progress.restore(earlier_points(tmp_path))
    loaded = [point for point in first.points if point[1] < Step.TRAIN]
    assert second.points == loaded
    run(second, until=0.3, at=0.3)  # killed again, before it was as far as the first
    trained = [point for point in first.points if point[1] < Step.TRAIN or point[2] < 0.301]
    assert second.points == trained
    third = Job(tmp_path)
    third.progress.restore(earlier_points(tmp_path))
    run(third, until=2.0, at=0.35)
    third.progress.close()
    assert third.points[: len(trained)] == trained
    assert third.heard() == sorted(set(third.heard()))
    assert third.heard()[-3:] == [(10, 1.0), (30, 0.0), (30, 1.0)]


def test_what_a_finished_job_told_is_not_told_of_its_continuation_before_it_is_there(
    tmp_path: Path, clock: Clock
) -> None:
    first = Job(tmp_path)
    run(first, until=2.0)
    first.progress.close()
    second = Job(tmp_path)
    second.progress.restore(earlier_points(tmp_path))
    assert max(second.heard()) == (1, 1.0)
    run(second, until=0.6, at=0.5)  # with twice as many epochs
    assert all(fraction <= 0.6 for step, fraction in second.heard() if step == Step.TRAIN)
    assert (10, 0.5) <= max(second.heard()) < (10, 0.61)
    third = Job(tmp_path)
    third.progress.restore(earlier_points(tmp_path))
    run(third, until=2.0, at=0.5)
    assert third.heard() == sorted(set(third.heard()))
    assert third.heard()[-2:] == [(30, 0.0), (30, 1.0)]


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_an_event_file_that_is_none_is_an_error_and_not_waited_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "events.out.tfevents.1.host.1.0"
    {"link": lambda: path.symlink_to("/dev/zero"), "pipe": lambda: os.mkfifo(path)}[kind]()
    with pytest.raises(LogDirError, match="remove it"):
        earlier_points(tmp_path)
    with pytest.raises(LogDirError, match="cannot move"):
        archive_old_events(tmp_path)


def test_a_file_that_was_cut_off_counts_as_far_as_it_is_whole(tmp_path: Path, clock: Clock) -> None:
    whole = Job(tmp_path)
    run(whole, until=0.2)
    whole.progress.close()
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-7])
    assert earlier_points(tmp_path) == whole.points[:-1]
    file.write_bytes(file.read_bytes()[:-20] + bytes(20))
    assert whole.points[: len(whole.points) - 3] == earlier_points(tmp_path)[: len(whole.points) - 3]
    file.write_bytes(b"this is no event file, but it is long enough to look like one")
    assert earlier_points(tmp_path) == []


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(list(Step)),
            st.lists(st.floats(allow_nan=True), max_size=5) | st.lists(st.floats(0, 1), max_size=30),
            st.booleans(),
        ),
        max_size=12,
    ),
    st.lists(
        st.tuples(st.floats(0, 10), st.sampled_from([1, 2, 10, 99]), st.floats(-1, 2, width=32)), max_size=8
    ),
)
def test_whatever_a_job_does_a_poller_sees_it_rise(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[Step, list[float], bool]],
    earlier: list[Point],
) -> None:
    folder = tmp_path_factory.mktemp("events")
    job = Job(folder)
    job.progress.interval = 0.0  # type: ignore[misc]
    job.progress.restore(earlier)
    for step, fractions, ends in steps:
        if step == Step.TRAIN:
            with contextlib.suppress(ValueError):  # another step is open
                job.progress.resume_training(0.5)
        try:
            job.progress.begin(step)
        except ValueError:
            continue
        for fraction in fractions:
            job.progress.advance(fraction)
        if ends:
            job.progress.end()
    job.progress.close()
    heard = job.heard()
    assert heard == sorted(heard)
    assert all(0.0 <= fraction <= 1.0 for _, fraction in heard)
    shutil.rmtree(folder)
