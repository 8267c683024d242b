"""A job that is killed at any moment leaves every file whole or absent, nothing running, and all that it had done."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import time
from pathlib import Path

import pytest

from common.engine.parameter_file import check_parameter_file
from common.reporting.server_process import ProgressServer
from common.training.checkpoint import read_checkpoint
from common.training.resume import CHECKPOINT_KEYS
from tests.helpers.jobs import (
    SCRIPTS,
    assert_gone,
    assert_same,
    children_of,
    finish,
    free_port,
    make_data,
    parameters,
    start,
)

# What may lie in log_dir at any moment; what is being written has a name of its own, and no reader takes it for a file.
NAMES = re.compile(
    r"estimator\.log|(status|data_report|model|run|(valid|test)_(data_result|evaluation))\.json|report\.html"
    r"|(best_checkpoint|training_state)\.pkl|[\w.-]+\.onnx"
    r"|[\w.]+-symbol\.json|[\w.]+-[a-z_]+\.json|[\w.]+-0000\.params|events\.out\.tfevents\..*|\.lock|\..*\.part"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


def check_what_is_left(task: str, log_dir: Path, port: int) -> None:
    """Every file is whole or absent, and nobody holds the port or shared memory."""
    for path in log_dir.iterdir() if log_dir.exists() else ():
        assert NAMES.fullmatch(path.name), path.name
        if path.name.endswith(".json"):
            json.loads(path.read_text())
        elif path.name.endswith(".params"):
            check_parameter_file(path)
    best, latest = log_dir / "best_checkpoint.pkl", log_dir / "training_state.pkl"
    if best.exists():
        read_checkpoint(best, task, CHECKPOINT_KEYS)
    if latest.exists():
        state = read_checkpoint(latest, task, CHECKPOINT_KEYS)
        kept = state["hooks"]["Checkpoints"]["epoch"]
        # It may have been killed between the two, before the first best checkpoint was there.
        assert best.exists() or kept == state["epoch"]
    ProgressServer(log_dir, port).close()


def killed_at_random(task: str, folder: Path, data: Path, kills: int, seed: int) -> dict[str, int]:
    """Kill jobs at random instants from start to end and resume them; each must end as one that nobody killed.

    Returns how many kills there were in each state of status.json.
    """
    instants, port, epochs = random.Random(seed), free_port(), 3
    began = time.monotonic()
    finish(start(task, folder / "whole", data, fresh=True, epochs=epochs))
    duration, wanted = time.monotonic() - began, parameters(task, folder / "whole")
    memory = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
    runs, killed, states = 0, 0, dict[str, int]()
    while killed < kills:
        log_dir = folder / f"run{runs}"
        process = start(task, log_dir, data, "--resume", port=port, fresh=True, epochs=epochs)
        try:
            process.wait(instants.uniform(0.05, duration))
            output = finish(process)
            assert_same(wanted, parameters(task, log_dir))
            runs += 1
            assert "internal error" not in output
        except subprocess.TimeoutExpired:
            children = children_of(process.pid)
            process.kill()
            process.communicate()
            killed += 1
            assert_gone(children)
            path = log_dir / "status.json"
            state = json.loads(path.read_text())["state"] if path.exists() else "none"
            states[state] = states.get(state, 0) + 1
        check_what_is_left(task, log_dir, port)
    finish(start(task, folder / f"run{runs}", data, "--resume", port=port, epochs=epochs))
    assert_same(wanted, parameters(task, folder / f"run{runs}"))
    assert (set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()) <= memory
    return states


def test_killed_at_any_moment_every_file_is_whole_or_absent(tmp_path: Path, data: Path) -> None:
    killed_at_random("classification", tmp_path, data, kills=4, seed=0)


@pytest.mark.soak
@pytest.mark.parametrize("task", SCRIPTS)
def test_killed_at_sixteen_moments_every_file_is_whole_or_absent(
    tmp_path: Path, data: Path, task: str, capsys: pytest.CaptureFixture[str]
) -> None:
    states = killed_at_random(task, tmp_path, data, kills=16, seed=1)
    with capsys.disabled():
        print(f"\n{task}: {sum(states.values())} kills survived, by state: {states}", end=" ")
    assert sum(states.values()) == 16
