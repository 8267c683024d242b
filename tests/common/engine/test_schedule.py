"""The learning rate follows the configuration."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest

from common.engine.schedule import Schedule


def rates(steps: int = 10, **keys: object) -> list[float]:
    schedule = Schedule(**{"base_lr": 1.0, "mode": "step", "epochs": 10, "steps_per_epoch": steps, **keys})  # type: ignore[arg-type]
    return [schedule(step) for step in range(10 * steps)]


def test_step_mode_decays_at_the_epochs_given() -> None:
    found = rates(decay=0.1, decay_epochs=(3, 6))
    assert found[29] == 1.0
    assert found[30] == pytest.approx(0.1)
    assert found[60] == pytest.approx(0.01)


def test_a_decay_period_takes_the_place_of_decay_epochs() -> None:
    found = rates(decay=0.5, decay_epochs=(1,), decay_period=4)
    assert [found[0], found[39], found[40], found[80]] == [1.0, 1.0, 0.5, 0.25]


def test_poly_falls_with_the_square_and_cosine_with_half_a_cosine() -> None:
    poly, cosine = rates(mode="poly"), rates(mode="cosine")
    assert poly[50] == pytest.approx(0.25)
    assert cosine[50] == pytest.approx(0.5)
    assert cosine[25] == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert all(a > b for a, b in pairwise(poly))


def test_warm_up_rises_linearly_from_warmup_lr_and_decay_begins_after_it() -> None:
    found = rates(mode="poly", warmup_lr=0.2, warmup_epochs=2)
    assert found[0] == pytest.approx(0.2)
    assert found[10] == pytest.approx(0.6)
    assert found[20] == pytest.approx(1.0)
    assert found[60] == pytest.approx(0.25)


def test_first_steps_of_a_run_are_softened_where_no_warm_up_was_asked_for() -> None:
    found = rates(soft_steps=4, first_step=20)
    assert found[20:25] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="linear"):
        rates(mode="linear")


def test_a_rate_steps_down_where_an_epoch_begins_with_half_of_it_or_less() -> None:
    def epochs(first_step: int = 0, **keys: Any) -> list[int]:
        made = Schedule(0.1, keys.pop("mode", "step"), 8, 5, first_step=first_step, **keys)
        return [epoch for epoch in range(8) if made.steps_down_at(epoch)]

    assert epochs(decay_epochs=(2, 5)) == [2, 5]
    assert epochs(decay_period=3) == [3, 6]
    assert epochs(decay_epochs=(2, 5), decay=0.6) == []  # less than by half
    assert epochs(mode="cosine") == epochs(mode="poly") == []  # much over an epoch, little by the step
    assert epochs(decay_epochs=(2, 5), first_step=10) == [
        5
    ]  # where a training begins nothing has been averaged
    assert epochs(decay_epochs=(2,), warmup_epochs=2.0, warmup_lr=0.1) == [2]
