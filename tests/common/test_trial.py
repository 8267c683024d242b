"""train.batch_size "auto": as many images as a training step has memory for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from classification.config import ClassificationConfig
from common.config.reading import configuration
from common.errors import ConfigurationError
from common.trial import largest_batch
from tests.helpers.jobs import SCRIPTS, config, fit, make_data


@pytest.mark.parametrize("written", ["auto", " AUTO "])
def test_auto_is_the_default_until_memory_says_otherwise(written: str) -> None:
    values = {"log_dir": "out", "train": {"batch_size": written}}
    made = configuration(ClassificationConfig, values)
    assert (made.train.batch_size, made.train.auto_batch) == (64, True)
    assert not configuration(ClassificationConfig, {"log_dir": "out"}).train.auto_batch


def test_other_words_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r'train.batch_size: "automatic" is not allowed'):
        configuration(ClassificationConfig, {"log_dir": "out", "train": {"batch_size": "automatic"}})


# What the machine has, as `Gauge` tells it, in the job's own process.
_SMALL_MACHINE = """
from common.engine import memory
memory.Gauge.free = lambda self: 60 << 20
memory.Gauge.reset = lambda self: None
memory.Gauge.taken = lambda self: next(taken)
taken = iter([14 << 20, 32 << 20, 44 << 20])  # of 4 images, 13 and 19: 6 MB, and 2 MB an image
"""


@pytest.mark.slow
def test_a_job_takes_the_batch_that_there_is_memory_for_and_keeps_it(tmp_path: Path) -> None:
    values = config("classification", tmp_path / "out", make_data(tmp_path), batch_size="auto", epochs=1)
    done = fit(SCRIPTS["classification"], values, before=_SMALL_MACHINE)
    assert done.status == 0, done.output
    assert "A step of 19 images takes 46 MB" in done.log()
    assert "train.batch_size auto: 19 (63 MB are free)" in done.log()
    assert done.json("run.json")["configuration"]["train"]["batch_size"] == 19
    assert re.search(r"epochs 0 to 0, 2 batches each", done.log())  # of 24 images
    values["train"]["epochs"] = 2
    again = fit(SCRIPTS["classification"], values, "--resume")
    assert again.status == 0, again.output
    assert again.json("run.json")["configuration"]["train"]["batch_size"] == 19
    assert "epochs 1 to 1, 2 batches each" in again.log()


def chosen(room: float, most: int, least: int = 1) -> list[int]:
    """The batches that are measured where a step takes 100 bytes and 10 an image, and then the one that is chosen."""
    measured: list[int] = []

    def takes(batch: int) -> int:
        measured.append(batch)
        return 100 + 10 * batch

    batch = largest_batch(most, least, room, takes)
    return [*measured, batch]


def test_what_is_chosen_was_measured() -> None:
    assert chosen(1e6, 64) == [4, 16, 64, 64]
    assert chosen(800, 64)[-1] in range(50, 65)
    assert chosen(200, 64) == [4, 5, 5]
    assert chosen(1e6, 2) == [2, 2]


def test_no_batch_is_measured_that_there_is_no_memory_for() -> None:
    for room in (160, 400, 800, 4000):
        *measured, taken = chosen(room, 256)
        assert all(100 + 10 * size <= room for size in measured), room
        assert taken == measured[-1]
    assert chosen(80, 64) == [4, 2]  # not even this: what may do
    assert chosen(1, 64) == [4, 1]


def test_every_device_has_as_many_images() -> None:
    assert chosen(1e6, 64, least=3) == [12, 48, 64, 64]  # as the configuration says
    assert chosen(500, 64, least=3)[-1] % 3 == 0
    assert chosen(1, 64, least=3) == [12, 3]


@pytest.mark.slow
def test_what_a_step_takes_is_measured(tmp_path: Path) -> None:
    values = config("ssd", tmp_path / "out", make_data(tmp_path), batch_size="auto", epochs=1)
    values["model"]["data_shape"] = [160, 160]
    done = fit(SCRIPTS["ssd"], values)
    assert done.status == 0, done.output
    assert "train.batch_size auto: 16 (" in done.log()
    told = re.search(r"A step of 16 images takes (\d+) MB", done.log())
    assert told is not None, done.log()
    # Maps of MobileNet: of 224 x 224 places 5 million numbers, and here half of them, most of them twice.
    assert 200 < float(told[1]) < 1500
