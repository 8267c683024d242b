"""train.batch_size "auto": as many images as a training step has memory for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from classification.config import ClassificationConfig
from common.config.reading import configuration
from common.errors import ConfigurationError
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
taken = iter([14 << 20, 22 << 20])  # of 2 images and of 6: 10 MB, and 2 MB an image
"""


@pytest.mark.slow
def test_a_job_takes_the_batch_that_there_is_memory_for_and_keeps_it(tmp_path: Path) -> None:
    values = config("classification", tmp_path / "out", make_data(tmp_path), batch_size="auto", epochs=1)
    done = fit(SCRIPTS["classification"], values, before=_SMALL_MACHINE)
    assert done.status == 0, done.output
    assert "train.batch_size auto: 19 (" in done.log()  # 0.8 * 60 MB - 10 MB, 2 MB each
    assert done.json("run.json")["configuration"]["train"]["batch_size"] == 19
    assert re.search(r"epochs 0 to 0, 2 batches each", done.log())  # of 24 images
    values["train"]["epochs"] = 2
    again = fit(SCRIPTS["classification"], values, "--resume")
    assert again.status == 0, again.output
    assert again.json("run.json")["configuration"]["train"]["batch_size"] == 19
    assert "epochs 1 to 1, 2 batches each" in again.log()
