"""A training by time ends in time, whatever the machine, with its whole schedule behind it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from common.engine.schedule import Schedule
from common.evaluator import Evaluation
from common.reporting import warnings
from common.task import Inputs
from common.training.estimator import Estimator, Hook, TrainingState
from common.training.pace import Budget, ByTime, Kept, Slowness, Tail
from tests.helpers.jobs import SCRIPTS, config, fit, make_data


class Machine:
    """Time that passes when something is done. a_step: seconds of the step with a number."""

    def __init__(self, a_step: Callable[[int], float]) -> None:
        self.now = 0.0
        self.steps = 0
        self.a_step = a_step

    def age(self) -> float:
        return self.now


class Clockwork:
    """An engine whose steps take the time of a machine, and nothing else."""

    least_rows = 1

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def begin_epoch(self, seed: int) -> None: ...

    def take(self, split: Any, shared: Any = ()) -> None: ...

    def forward(self) -> None: ...

    def backward(self) -> None: ...

    def norms(self) -> np.ndarray:
        return np.ones(1)

    def losses(self) -> np.ndarray:
        return np.ones(1)

    def update(self, learning_rate: float, norms: np.ndarray) -> None:
        self.machine.now += self.machine.a_step(self.machine.steps)
        self.machine.steps += 1


class Steps(Estimator):
    """Steps of a machine, on images that are always there."""

    def __init__(self, machine: Machine) -> None:
        model = SimpleNamespace(
            losses=("total",), training_inputs=lambda batch: Inputs([np.zeros((batch.count, 1))], [])
        )
        super().__init__(model, Clockwork(machine))  # type: ignore[arg-type]


class Epochs:
    def __init__(self, batches: int) -> None:
        self.batches = batches

    def epoch(self, number: int) -> Iterator[Any]:
        yield from [SimpleNamespace(count=8)] * self.batches


class Validating(Hook):
    """Takes its time with every epoch that is due: three quarters of it for predictions, in four batches. held_up: for
    so long the first one waits."""

    def __init__(self, machine: Machine, seconds: float, pace: ByTime, held_up: float = 0.0) -> None:
        self.machine, self.seconds, self.pace, self.held_up = machine, seconds, pace, held_up
        self.at: list[float] = []
        self.rates: list[float] = []
        self.plain: list[bool] = []

    def after_step(self, state: TrainingState) -> None:
        self.rates.append(state.learning_rate)

    def after_epoch(self, state: TrainingState) -> None:
        if state.due:
            self.machine.now += self.seconds / 4 + self.held_up
            self.held_up = 0.0
            for batch in range(5):
                self.machine.now += self.seconds * 3 / 16 if batch else 0.0
                self.pace.predicting(batch / 4)
            self.at.append(self.machine.now)
            state.evaluation = Evaluation(0.5)


def trained(
    machine: Machine,
    seconds: float,
    *,
    batches: int = 9,
    validation: float = 2.0,
    valid: int = 16,
    test: int = 0,
    exporting: float = 1.0,
    mode: str = "cosine",
    before: dict[str, Any] | None = None,
    first: int = 0,
    epoch: int | None = None,
    held_up: float = 0.0,
) -> SimpleNamespace:
    """A training in so many seconds, with what the job does after it."""
    schedule = Schedule(0.1, mode, epochs=100, steps_per_epoch=1, decay_epochs=(50,), soft_steps=0)
    pace = ByTime(Budget(seconds, machine.age), schedule, Tail(8, valid, test), first=first)
    seen = Validating(machine, validation, pace, held_up)
    if before:
        pace.restore(before)
    at = first if epoch is None else epoch
    state = TrainingState(epochs=100, steps=batches, start_epoch=first, epoch=at)
    Steps(machine).fit(Epochs(batches), pace.learning_rate, [pace, seen, Kept(pace)], state)  # type: ignore[arg-type]
    state_at_end = pace.state()
    if valid:
        machine.now += validation * 3 / 4 * (1 + test / valid)  # predictions of the sets
    machine.now += exporting
    return SimpleNamespace(state=state, seen=seen, kept=state_at_end)


@pytest.mark.parametrize(
    ("a_step", "batches", "validation"),
    [
        (lambda n: 0.5, 9, 2.0),
        (lambda n: 0.05, 9, 0.1),
        (lambda n: 0.5, 5000, 2.0),  # one pass would take longer than there is time
        (lambda n: 0.5, 9, 20.0),
        (lambda n: 0.2 if n < 300 else 1.0, 9, 2.0),  # another job begins on the machine
        (lambda n: 1.0 if n < 100 else 0.2, 9, 2.0),  # or ends
        (lambda n: 3.0 if n % 50 == 0 else 0.3, 9, 2.0),
        (lambda n: 8.0, 2, 30.0),
    ],
)
@pytest.mark.parametrize("seconds", [300.0, 3600.0])
def test_a_job_takes_its_time_within_a_twentieth_on_any_machine(
    a_step: Callable[[int], float], batches: int, validation: float, seconds: float
) -> None:
    machine = Machine(a_step)
    machine.now = 6.0  # to load what is needed
    found = trained(machine, seconds, batches=batches, validation=validation)
    assert machine.now == pytest.approx(seconds, rel=0.05)
    # The whole schedule, from its beginning to its end.
    assert found.seen.rates[0] == pytest.approx(0.1, rel=0.05)
    assert found.seen.rates[-1] < 0.1 * 0.02 + 0.1 * 10 * max(a_step(n) for n in range(60)) / seconds
    assert all(a >= b for a, b in zip(found.seen.rates, found.seen.rates[1:], strict=False))
    assert found.state.fraction == 1.0


def test_validation_takes_a_tenth_of_the_time_at_most_and_comes_at_the_end() -> None:
    machine = Machine(lambda n: 0.5)
    found = trained(machine, 600.0, validation=3.0)
    assert 10 <= len(found.seen.at) <= 600 / 30 + 1
    assert found.seen.at[-1] == pytest.approx(600.0 - 3.0 - 1.0, abs=6.0)


def test_a_validation_that_was_held_up_does_not_stand_for_those_to_come() -> None:
    machine = Machine(lambda n: 0.7)
    trained(machine, 137.0, validation=1.5, held_up=4.5)  # as seen of a job of 2.28 minutes
    assert machine.now == pytest.approx(137.0, rel=0.02)


def test_a_set_that_is_not_seen_in_full_is_validated_on_the_way_too() -> None:
    found = trained(Machine(lambda n: 0.5), 600.0, batches=10_000, validation=3.0)
    assert 4 <= len(found.seen.at) <= 5
    assert found.state.epochs == found.state.epoch + 1


def test_keys_in_epochs_divide_the_time_as_they_divide_the_epochs() -> None:
    machine = Machine(lambda n: 0.5)
    rates = trained(machine, 600.0, mode="step").seen.rates
    falls = next(number for number, rate in enumerate(rates) if rate < 0.05)
    assert falls / len(rates) == pytest.approx(0.5, abs=0.02)


def test_a_training_that_begins_in_its_middle_has_the_rates_of_its_second_half() -> None:
    rates = trained(Machine(lambda n: 0.5), 300.0, first=50).seen.rates
    assert rates[0] == pytest.approx(0.05, rel=0.05)
    assert rates[-1] < 0.001


@pytest.mark.parametrize(("seconds", "rises"), [(35.0, 0.1), (2000.0, 50 / 3970)])
def test_the_rate_rises_softly_and_soon_enough_for_a_short_training(seconds: float, rises: float) -> None:
    machine = Machine(lambda n: 0.5)
    schedule = Schedule(0.1, "step", 100, 1, decay_epochs=(), soft_steps=50)
    pace = ByTime(Budget(seconds, machine.age), schedule, Tail(8, 0, 0))
    seen = Validating(machine, 0.0, pace)
    Steps(machine).fit(Epochs(9), pace.learning_rate, [pace, seen], TrainingState(100, 9))  # type: ignore[arg-type]
    full = next(number for number, rate in enumerate(seen.rates) if rate == 0.1)
    assert full / len(seen.rates) == pytest.approx(rises, rel=0.4)
    assert seen.rates[0] < 0.02


def shares_of(asked: Callable[[ByTime], bool], batches: int) -> tuple[list[float], list[float]]:
    """Shares of the training at which epochs begin, those where the answer is yes, and all."""
    machine = Machine(lambda n: 0.5)
    schedule = Schedule(0.1, "step", epochs=100, steps_per_epoch=1, decay_epochs=(50,))
    pace = ByTime(Budget(600.0, machine.age), schedule, Tail(8, 0, 0), borders=(50, 90))
    yes: list[float] = []
    every: list[float] = []

    class Asking(Hook):
        def before_epoch(self, state: TrainingState) -> None:
            every.append(state.fraction)
            if asked(pace):
                yes.append(state.fraction)

    Steps(machine).fit(Epochs(batches), pace.learning_rate, [pace, Asking()], TrainingState(100, batches))  # type: ignore[arg-type]
    return yes, every


@pytest.mark.parametrize("batches", [9, 100, 10_000])
def test_the_last_epochs_are_plain_from_the_place_on_where_they_begin(batches: int) -> None:
    plain, every = shares_of(lambda pace: pace.plain(10), batches)
    assert plain[0] == pytest.approx(0.9, abs=0.002)
    assert plain == [share for share in every if share >= plain[0]]
    assert shares_of(lambda pace: pace.plain(0), batches)[0] == []


@pytest.mark.parametrize("batches", [9, 100, 10_000])
def test_a_step_of_the_rate_is_seen_once_where_it_is(batches: int) -> None:
    seen, _ = shares_of(lambda pace: pace.steps_down(), batches)
    assert len(seen) == 1
    assert seen[0] == pytest.approx(0.5, abs=0.002)


def test_a_training_that_is_resumed_has_what_earlier_runs_left() -> None:
    first = Machine(lambda n: 0.5)
    # Killed after 200 of its 600 s: what was kept then is known.
    pace = ByTime(Budget(600.0, first.age), Schedule(0.1, "cosine", 100, 1), Tail(8, 16, 0))
    state = TrainingState(epochs=100, steps=9)

    class Killed(Hook):
        def after_epoch(self, state: TrainingState) -> None:
            if first.now >= 200:
                state.stop_reason = "killed"

    Steps(first).fit(Epochs(9), pace.learning_rate, [pace, Killed(), Kept(pace)], state)  # type: ignore[arg-type]
    kept = pace.state()
    second = Machine(lambda n: 0.25)  # another machine
    second.now = 10.0  # loads again
    # More epochs than train.epochs have gone by: they are short.
    found = trained(second, 600.0, before=kept, epoch=300)
    assert found.state.epoch > 310
    assert kept["used"] + second.now == pytest.approx(600.0, rel=0.05)
    assert found.seen.rates[0] == pytest.approx(0.1 * (1 + math.cos(math.pi * kept["share"])) / 2, rel=0.02)
    assert found.seen.rates[-1] < 0.001


@pytest.mark.parametrize(
    "state",
    [
        {"seconds": 60.0, "used": math.inf, "share": 0.5, "steps": 3},
        {"seconds": 0.0, "used": 1.0, "share": 0.5, "steps": 3},
        {"seconds": 60.0, "used": 1.0, "share": math.nan, "steps": 3},
        {"seconds": 60.0, "used": 1.0, "share": 0.5, "steps": 10**30},
        {"seconds": 60.0, "used": -1.0, "share": 0.5, "steps": 3},
    ],
)
def test_a_state_that_no_training_can_have_is_refused(state: dict[str, Any]) -> None:
    pace = ByTime(Budget(60.0, lambda: 0.0), Schedule(0.1, "cosine", 100, 1), Tail(8, 0, 0))
    with pytest.raises(ValueError, match="no state of a training by time"):
        pace.restore(state)


def test_predictions_are_foreseen_as_a_batch_before_the_training_was_and_slower_where_steps_become_so() -> (
    None
):
    machine = Machine(lambda n: 0.5 if n < 20 else 1.0)
    tail = Tail(8, 0, 800)
    pace = ByTime(Budget(600.0, machine.age), Schedule(0.1, "cosine", 100, 1), tail)
    took = iter([3.0, 0.125])  # the first also makes the graph

    def predict() -> None:
        machine.now += next(took)

    pace.rehearse(predict)
    foreseen: list[float] = []

    class Asking(Hook):
        def after_step(self, state: TrainingState) -> None:
            foreseen.append(tail.parts["predictions"])

    Steps(machine).fit(Epochs(100), pace.learning_rate, [pace, Asking()], TrainingState(100, 100))  # type: ignore[arg-type]
    assert foreseen[:20] == pytest.approx([12.5] * 20)
    assert foreseen[40] == pytest.approx(25.0)


def test_what_is_no_arithmetic_is_foreseen_as_slower_where_the_machine_has_other_work() -> None:
    seconds = iter([(1.0, 0.5), (1.1, 0.5), (2.0, 3.5), (2.1, 9.0), (3.0, 3.5)])
    slowness = Slowness(lambda: next(seconds))
    assert [slowness() for _ in range(4)] == pytest.approx([1.0, 4.0, 4.0, 1.0])
    free, busy = Tail(8, 16, 0, files=2), Tail(8, 16, 0, files=2)
    free.stepped(0.5)
    busy.stepped(0.5, 3.0)
    assert busy.parts["report"] == pytest.approx(3 * free.parts["report"])
    assert busy.parts["export"] == pytest.approx(3 * free.parts["export"])
    assert free.parts["validation"] < busy.parts["validation"] < 3 * free.parts["validation"]
    assert Slowness()() >= 1.0  # of this process


def test_time_that_leaves_nothing_to_train_is_told() -> None:
    warnings.forget()
    machine = Machine(lambda n: 0.5)
    machine.now = 9.0
    found = trained(machine, 10.0)
    assert machine.steps == 1
    assert found.state.fraction == 1.0
    assert "train.minutes 0.166667 leaves 0 s to train" in warnings.told()[0]
    warnings.forget()


@pytest.mark.slow
def test_a_job_by_time_ends_in_time_and_may_be_resumed(tmp_path: Path) -> None:
    """A real one; a quarter of a minute, much of which the network needs to begin and to be exported."""
    values = config("classification", tmp_path / "out", make_data(tmp_path), minutes=0.25, lr_mode="cosine")
    values["export"] = {"onnx": False}
    done = fit(SCRIPTS["classification"], values)
    assert done.status == 0, done.output
    status = done.json("status.json")
    assert status["updated"] - status["started"] == pytest.approx(15.0, abs=5.0)  # of 3 epochs it would be 6
    assert status["epoch"] > 3
    assert status["seconds_left"] < 2.0
    assert "Training: for " in done.log()
    assert " left\n" in done.log()
    again = fit(SCRIPTS["classification"], values, "--resume")
    assert again.status == 0, again.output
    assert "nothing is left" in again.log()
    values["train"]["minutes"] = 0
    refused = fit(SCRIPTS["classification"], values, "--resume")
    assert "train.minutes: 0.0 differs from 0.25" in refused.output
