"""A job that is cut off goes on as if it had not been, and one that is asked to end does so soon."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from common.training.checkpoint import read_checkpoint
from tests.helpers.jobs import (
    EPOCHS,
    SCRIPTS,
    assert_gone,
    assert_same,
    children_of,
    fail,
    finish,
    free_port,
    make_data,
    parameters,
    poll,
    start,
    status,
    wait_for,
    workers_of,
)

TASK = "classification"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """A job that nothing interrupted."""
    log_dir = tmp_path_factory.mktemp("whole") / "out"
    finish(start(TASK, log_dir, data, fresh=True))
    return log_dir


def killed_and_resumed(task: str, log_dir: Path, data: Path, epoch: int, whole: Path) -> None:
    """Kill a job when the log tells of `epoch`, resume it, and hold all that it left against an uninterrupted one."""
    port = free_port()
    process = start(task, log_dir, data, port=port)
    wait_for(log_dir, f"[Epoch {epoch}] lr", process)
    before = poll(port)
    process.kill()
    process.communicate()
    state = log_dir / "training_state.pkl"
    trained = (read_checkpoint(state, task)["epoch"] + 1) / EPOCHS if state.exists() else -1
    kept = [point for point in before if point[1:] <= [10, trained]]
    process = start(task, log_dir, data, "--resume", "--linger", "1", port=port)
    after: list[list[float]] = []
    while process.poll() is None:
        after = poll(port) or after
        time.sleep(0.05)
    assert process.returncode == 0, process.communicate()[0]
    process.communicate()
    assert_same(parameters(task, whole), parameters(task, log_dir))
    result = "valid_data_result.json"
    assert (whole / result).read_text() == (log_dir / result).read_text()
    steps_and_fractions = [point[1:] for point in after]
    assert steps_and_fractions == sorted(steps_and_fractions)
    assert steps_and_fractions[-1] == [30, 1.0]
    assert after[: len(kept)] == kept


@pytest.mark.parametrize("epoch", [0, EPOCHS - 1])
def test_killed_and_resumed_ends_with_the_same_parameters_bit_for_bit(
    tmp_path: Path, data: Path, whole: Path, epoch: int
) -> None:
    killed_and_resumed(TASK, tmp_path / "out", data, epoch, whole)


@pytest.mark.slow
@pytest.mark.parametrize("task", [task for task in SCRIPTS if task != TASK])
def test_every_script_resumes_bit_for_bit(tmp_path: Path, data: Path, task: str) -> None:
    output = finish(start(task, tmp_path / "whole", data))
    assert ("going on from the average" in output) == (task == "yolov3")
    killed_and_resumed(task, tmp_path / "out", data, 1, tmp_path / "whole")


@pytest.mark.soak
@pytest.mark.parametrize("task", SCRIPTS)
def test_every_script_resumes_bit_for_bit_from_its_first_and_last_epoch(
    tmp_path: Path, data: Path, task: str
) -> None:
    finish(start(task, tmp_path / "whole", data))
    for epoch in (0, EPOCHS - 1):
        killed_and_resumed(task, tmp_path / f"out{epoch}", data, epoch, tmp_path / "whole")


def test_a_job_leaves_what_it_was_made_of_and_what_it_did(whole: Path) -> None:
    run, told = json.loads((whole / "run.json").read_text()), status(whole)
    assert run["configuration"]["train"]["epochs"] == EPOCHS
    assert run["configuration"]["train"]["momentum"] == 0.9  # a default
    assert run["configuration"]["log_dir"] == str(whole)
    assert run["command"][1] == SCRIPTS[TASK]
    assert run["versions"]["mxnet"] == "1.9.1"
    assert (run["data"]["train"]["samples"], run["data"]["valid"]["samples"]) == (24, 8)
    assert len({run["data"][name]["fingerprint"] for name in ("train", "valid")}) == 2
    assert run["device"]["gpus"] == []
    assert told["batch"] == told["batches"] == told["currentStep"] == 6 * EPOCHS
    assert told["losses"]["loss"] == told["trainMetrics"]["loss"] > 0
    assert told["images_left_out"] == {"train": 0, "valid": 0}
    assert (told["progressPercentage"], told["worker_restarts"], told["batches_skipped"]) == (100, 0, 0)


def test_resuming_a_finished_job_trains_nothing_again(whole: Path, data: Path, tmp_path: Path) -> None:
    log_dir = tmp_path / "out"
    shutil.copytree(whole, log_dir)
    output = finish(start(TASK, log_dir, data, "--resume"))
    assert f"Resuming after epoch {EPOCHS - 1}" in output
    assert_same(parameters(TASK, whole), parameters(TASK, log_dir))


@pytest.mark.slow
def test_a_finished_job_that_trains_longer_is_not_at_its_end_before_it_is(
    whole: Path, data: Path, tmp_path: Path
) -> None:
    log_dir, port = tmp_path / "out", free_port()
    shutil.copytree(whole, log_dir)
    process = start(TASK, log_dir, data, "--resume", "--linger", "1", port=port, epochs=2 * EPOCHS)
    answers: list[list[list[float]]] = []
    while process.poll() is None:
        answers.append(poll(port))
        if answers[-1] and answers[-1][-1][1:] >= [10, 1.0]:
            log = (log_dir / "estimator.log").read_text()
            assert f"[Epoch {2 * EPOCHS - 1}]" in log
        time.sleep(0.02)
    assert process.returncode == 0, process.communicate()[0]
    process.communicate()
    told = [[point[1:] for point in answer] for answer in answers if answer]
    assert all(points == sorted(points) for points in told)
    assert max(told[0]) < [10, 0.0]
    assert any([10, 0.5] <= points[-1] < [10, 1.0] for points in told)
    assert told[-1][-1] == [30, 1.0]


def test_resume_without_anything_to_resume_says_so_and_starts_afresh(tmp_path: Path, data: Path) -> None:
    output = finish(start(TASK, tmp_path / "out", data, "--resume", epochs=1))
    assert "there is nothing to resume" in output
    assert (tmp_path / "out" / "best_checkpoint.pkl").exists()


def test_resume_refuses_keys_that_cannot_change_and_names_those_that_did(
    tmp_path: Path, data: Path, whole: Path
) -> None:
    shutil.copytree(whole, tmp_path / "out")
    process = start(TASK, tmp_path / "out", data, "--resume", epochs=EPOCHS + 1, lr=0.5, batch_size=3)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "train.lr: 0.5 differs from 0.01" in output
    assert "train.batch_size: 3 differs from 4" in output
    assert "Traceback" not in output
    output = finish(start(TASK, tmp_path / "out", data, "--resume", epochs=EPOCHS + 1))
    assert f"train.epochs was {EPOCHS} and is {EPOCHS + 1} now" in output
    assert read_checkpoint(tmp_path / "out" / "training_state.pkl", TASK)["epoch"] == EPOCHS


@pytest.mark.slow
def test_a_job_with_a_loaded_checkpoint_and_other_classes_resumes_bit_for_bit(
    tmp_path: Path, data: Path, whole: Path
) -> None:
    other = Path(shutil.copytree(data, tmp_path / "data"))
    for part in ("train", "valid"):
        (other / f"classes_{part}" / "light").rename(other / f"classes_{part}" / "bright")
    load = ("--load", str(whole / "best_checkpoint.pkl"))
    finish(start(TASK, tmp_path / "whole", other, *load))
    process = start(TASK, tmp_path / "out", other, *load)
    wait_for(tmp_path / "out", "[Epoch 1] lr", process)
    process.kill()
    process.communicate()
    finish(start(TASK, tmp_path / "out", other, "--resume"))
    assert_same(parameters(TASK, tmp_path / "whole"), parameters(TASK, tmp_path / "out"))
    assert read_checkpoint(tmp_path / "out" / "training_state.pkl", TASK)["loaded"] is True


@pytest.mark.slow
def test_a_job_that_stopped_early_goes_on_only_where_its_limits_have_changed(
    tmp_path: Path, data: Path, whole: Path
) -> None:
    log_dir = tmp_path / "out"
    assert "Stopped early after epoch 0" in finish(start(TASK, log_dir, data, early_stop_max_value=0))
    output = finish(start(TASK, log_dir, data, "--resume", early_stop_max_value=0, log_interval=3))
    assert "Stopped early after epoch 0" in output
    assert "[Epoch 1]" not in output
    output = finish(start(TASK, log_dir, data, "--resume"))
    assert "Stopped early" not in output
    assert_same(parameters(TASK, whole), parameters(TASK, log_dir))


def test_a_job_that_cannot_begin_leaves_the_results_of_the_one_before(
    tmp_path: Path, data: Path, whole: Path
) -> None:
    log_dir, damaged = tmp_path / "out", tmp_path / "damaged.pkl"
    shutil.copytree(whole, log_dir)
    damaged.write_bytes((whole / "best_checkpoint.pkl").read_bytes()[:-1000])
    assert "not a usable checkpoint" in fail(start(TASK, log_dir, data, "--load", str(damaged)))
    for name in ("valid_data_result.json", "model.json", "training_state.pkl", "best_checkpoint.pkl"):
        assert (log_dir / name).read_bytes() == (whole / name).read_bytes()
    assert list(log_dir.glob("*-0000.params"))


def test_a_damaged_state_ends_a_resumed_job_with_one_line(tmp_path: Path, data: Path, whole: Path) -> None:
    log_dir = tmp_path / "out"
    shutil.copytree(whole, log_dir)
    state = log_dir / "training_state.pkl"
    state.write_bytes(state.read_bytes()[:-1000])
    assert f"{state}: not a usable checkpoint: " in fail(start(TASK, log_dir, data, "--resume"))


@pytest.mark.parametrize(
    ("number", "ended"),
    [
        (signal.SIGTERM, 143),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, 129, marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_the_job_soon_and_says_so(tmp_path: Path, data: Path, number: int, ended: int) -> None:
    log_dir = tmp_path / "out"
    # Under nohup SIGHUP is ignored, by what is started there too.
    prefix = ("env", "--default-signal=HUP")
    process = start(TASK, log_dir, data, prefix=prefix, epochs=1000)
    wait_for(log_dir, "[Epoch 1] lr", process)
    children = children_of(process.pid)
    began = time.monotonic()
    process.send_signal(number)
    last = fail(process, ended)
    assert time.monotonic() - began < 8
    assert last == f"stopped by {signal.Signals(number).name}"
    log = (log_dir / "estimator.log").read_text()
    assert log.strip().splitlines()[-1].endswith(f" WARNING {last}")
    assert "ERROR" not in log
    assert status(log_dir)["state"] == "stopped"
    assert_gone(children)
    assert read_checkpoint(log_dir / "training_state.pkl", TASK)["epoch"] >= 0


def test_a_signal_ends_the_job_soon_even_in_a_long_validation(tmp_path: Path, data: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(data / "classes_train", folder / "classes_train")
    for path in sorted((data / "classes_valid").rglob("*.png")):
        place = folder / path.parent.relative_to(data)
        place.mkdir(parents=True, exist_ok=True)
        for number in range(400):
            os.link(path, place / f"{path.stem}_{number}.png")
    log_dir = tmp_path / "out"
    process = start(TASK, log_dir, folder, epochs=1000)
    wait_for(log_dir, "[Epoch 0] lr", process)  # then comes validation
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert fail(process, 143) == "stopped by SIGTERM"
    assert time.monotonic() - began < 8
    assert "Validation:" not in (log_dir / "estimator.log").read_text()


@pytest.mark.slow
def test_killed_workers_change_nothing_and_one_too_many_ends_the_job_with_the_reason(
    tmp_path: Path, data: Path
) -> None:
    finish(start(TASK, tmp_path / "whole", data, epochs=4))
    process = start(TASK, tmp_path / "out", data, epochs=4)
    for epoch in (0, 1):
        wait_for(tmp_path / "out", f"[Epoch {epoch}] lr", process)
        os.kill(workers_of(process)[0], signal.SIGKILL)
    finish(process)
    assert_same(parameters(TASK, tmp_path / "whole"), parameters(TASK, tmp_path / "out"))
    process = start(TASK, tmp_path / "ended", data, epochs=1000)
    for epoch in (0, 1, 2):
        wait_for(tmp_path / "ended", f"[Epoch {epoch}] lr", process)
        os.kill(workers_of(process)[0], signal.SIGKILL)
    last = fail(process)
    assert "a data worker was killed by signal 9 (SIGKILL)" in last
    assert "train.num_workers" in last
    assert status(tmp_path / "ended")["error"]["kind"] == "worker"


def test_a_second_job_in_the_same_folder_is_refused(tmp_path: Path, data: Path) -> None:
    log_dir = tmp_path / "out"
    first = start(TASK, log_dir, data, epochs=1000)
    try:
        wait_for(log_dir, "[Epoch 0] lr", first)
        second = start(TASK, log_dir, data)
        output, _ = second.communicate(timeout=60)
        assert second.returncode == 1
        assert f"process {first.pid}" in output.strip().splitlines()[-1]
        assert status(log_dir)["pid"] == first.pid
    finally:
        first.kill()
        first.communicate()
    finish(start(TASK, log_dir, data, epochs=1))  # what a killed job leaves of its lock is in nobody's way
