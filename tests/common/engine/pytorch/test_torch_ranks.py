"""Several ranks train as one does, and end together."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed here; make test-torch has it")

from tests.helpers.jobs import (
    ROOT,
    SCRIPTS,
    assert_gone,
    assert_same,
    children_of,
    command,
    config,
    fit,
    free_port,
    make_data,
    parameters,
    status,
)

SCRIPT = SCRIPTS["classification"]
RANKS = 2


def environment(rank: int, size: int, port: int) -> dict[str, str]:
    """As torchrun sets it."""
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
    }


class Together:
    """Processes that were started as ranks, each with its own command line."""

    def __init__(self, *words: list[str], **variables: str) -> None:
        port = free_port()
        self.processes = [
            subprocess.Popen(
                each,
                cwd=ROOT,
                env={**environment(rank, len(words), port), **variables},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank, each in enumerate(words)
        ]

    def end(self, timeout: float = 120) -> tuple[list[int], list[str]]:
        """Exit statuses and outputs."""
        try:
            outputs = [process.communicate(timeout=timeout)[0] for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()
        return [process.returncode for process in self.processes], outputs


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """What two ranks have made of a few steps, the second of which was started by the first."""
    out = tmp_path_factory.mktemp("ranks") / "found.npz"
    words = [sys.executable, "-m", "tests.helpers.ranks_program", str(out)]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(words, cwd=ROOT, env=alone, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return dict(np.load(out))


def test_ranks_tell_one_another_what_they_know(found: Mapping[str, Any]) -> None:
    assert found["from_first"].tolist() == ["of 0", "of 0"]
    assert found["spread"].tolist() == [0, 0]
    assert found["all"].tolist() == found["to_first"].tolist() == [0, 1]
    assert found["total"].tolist() == [2, 1]
    assert found["agree"].tolist() == [[7.0], [7.0]]


def test_gradients_are_one_ranks_where_batchnorm_sees_the_whole_batch(found: Mapping[str, Any]) -> None:
    """The triplet loss among them, which compares images of all ranks."""
    np.testing.assert_allclose(found["synchronised/losses"], found["alone/losses"], rtol=1e-5)
    np.testing.assert_allclose(found["synchronised/norms"], found["alone/norms"], rtol=1e-5)
    names = [name.partition("/")[2] for name in found if name.startswith("alone/gradient")]
    assert len(names) == 7
    for name in names:
        wanted = found[f"alone/{name}"]
        np.testing.assert_allclose(
            found[f"synchronised/{name}"], wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max()
        )
    own = found["own/gradient/0.weight"]
    assert np.abs(own - found["alone/gradient/0.weight"]).max() > 1e-3 * np.abs(own).max()


def test_all_ranks_have_the_same_parameters_and_averages_to_the_last_bit(found: Mapping[str, Any]) -> None:
    assert found["synchronised/alike"].all()
    assert found["own/alike"].all()


def test_running_statistics_are_the_mean_of_the_ranks(found: Mapping[str, Any]) -> None:
    for name in ("1.running_mean", "1.running_var"):
        np.testing.assert_allclose(found[f"own/gradient/{name}"], found[f"mean/{name}"], rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"), 8, 4)


def job(folder: Path, data: Path, *options: str, epochs: int = 2, **keys: Any) -> list[str]:
    values = {**config("classification", folder, data, epochs=epochs, optimizer="sgd", lr=0.03), **keys}
    return command(SCRIPT, {"engine": "torch", **values}, *options)


def together(words: list[str], size: int = RANKS, **variables: str) -> Together:
    return Together(*[words] * size, **variables)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """The log_dir of a job of two ranks."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    statuses, outputs = together(job(folder, data)).end()
    assert statuses == [0, 0], outputs
    assert outputs[1] == ""  # rank 0 speaks for all
    return folder


def test_rank_0_alone_writes_and_knows_the_others(whole: Path) -> None:
    ended = status(whole)
    assert ended["state"] == "finished"
    assert [each["rank"] for each in ended["ranks"]] == [0, 1]
    assert len({each["pid"] for each in ended["ranks"]}) == 2
    log = (whole / "estimator.log").read_text()
    assert log.count("[Epoch 0] lr") == 1
    assert "2 ranks on 1 machines train together" in log
    assert json.loads((whole / "run.json").read_text())["device"]["ranks"] == 2
    result = json.loads((whole / "valid_data_result.json").read_text())
    assert len(result["Result"]) == 8


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """As `whole`, of one epoch."""
    folder = tmp_path_factory.mktemp("begun") / "out"
    statuses, outputs = together(job(folder, data, epochs=1)).end()
    assert statuses == [0, 0], outputs
    return folder


@pytest.mark.slow
def test_with_syncbn_ranks_have_the_loss_of_one_and_without_it_few_images_are_told(
    tmp_path: Path, data: Path, begun: Path
) -> None:
    few = "leaves each of 2 ranks 2 images for its BatchNorms"
    assert few in (begun / "estimator.log").read_text()
    losses = []
    for size, options in ((1, []), (2, ["--set", "model.syncbn=true"])):
        folder = tmp_path / f"of_{size}"
        words = job(folder, data, "--set", "train.batch_size=16", *options, epochs=1)
        statuses, outputs = together(words, size).end()
        assert statuses == [0] * size, outputs
        log = (folder / "estimator.log").read_text()
        assert "for its BatchNorms" not in log
        losses += re.findall(r"\[Epoch 0\] lr=\S+ loss=(\S+),", log)
    assert len(losses) == 2
    assert losses[0] == losses[1]  # with BatchNorms of their own: 0.6892 instead of 0.7202


# Before a script's first line: two processors pass for GPUs, and every rank notes which of them it is given.
TWO_DEVICES = """
import os
import torch
from common.engine import devices
from common.engine.torch import devices as places
from common.ranks import group
devices.visible_gpus = lambda: [devices.Gpu(number, "a processor", (9, 0)) for number in range(2)]
def device(gpus):
    with open(os.environ["NOTES"], "a") as notes:
        print(os.environ.get("RANK", "0"), *gpus, file=notes)
    return torch.device("cpu")
places.torch_device = device
open_group = group.open_group
group.open_group = lambda store, place, gpus: open_group(store, place, ())
"""


@pytest.mark.slow
def test_a_job_that_names_two_gpus_starts_the_other_rank_by_itself(tmp_path: Path, data: Path) -> None:
    values = {**config("classification", tmp_path / "out", data, epochs=1), "engine": "torch", "gpus": [0, 1]}
    notes = tmp_path / "notes"
    ended = fit(SCRIPT, values, before=TWO_DEVICES, environment={"NOTES": str(notes), "OMP_NUM_THREADS": "1"})
    assert ended.status == 0, ended.output
    assert set(notes.read_text().splitlines()) == {"0 0", "1 1"}
    status = ended.json("status.json")
    assert [each["rank"] for each in status["ranks"]] == [0, 1]
    device = ended.json("run.json")["device"]
    assert (device["engine"], device["ranks"]) == ("torch", 2)
    assert [gpu.partition(" (")[0] for gpu in device["gpus"]] == ["0: a processor", "1: a processor"]
    assert len(ended.json("valid_data_result.json")["Result"]) == 8


def test_a_job_is_resumed_bit_for_bit_and_with_another_number_of_ranks(
    tmp_path: Path, data: Path, whole: Path, begun: Path
) -> None:
    ends = {}
    for size in (2, 1):
        folder = tmp_path / f"of_{size}"
        shutil.copytree(begun, folder)
        words = job(folder, data, "--resume")
        statuses, outputs = together(words, size).end()
        assert statuses == [0] * size, outputs
        ends[size] = parameters("classification", folder)
    assert_same(parameters("classification", whole), ends[2])
    assert ends[1].keys() == ends[2].keys()


def test_figures_of_a_set_that_is_shared_out_are_those_of_one_rank(
    tmp_path: Path, data: Path, whole: Path
) -> None:
    """A job of two ranks that has finished, taken up by one: it predicts once more, with the same parameters."""
    folder = tmp_path / "out"
    shutil.copytree(whole, folder)
    (folder / "valid_data_result.json").unlink()
    statuses, outputs = together(job(folder, data, "--resume"), 1).end()
    assert statuses == [0], outputs
    for name in ("valid_data_result.json", "valid_evaluation.json"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name


def _wait(folder: Path, text: str) -> None:
    for _ in range(1200):
        log = folder / "estimator.log"
        if log.exists() and text in log.read_text():
            return
        time.sleep(0.05)
    raise AssertionError(f"{text!r} never came")


LONG = {"epochs": 2000}


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_ends_all_within_ten_seconds_with_its_number_and_reason(
    tmp_path: Path, data: Path, rank: int
) -> None:
    folder = tmp_path / "out"
    started = together(job(folder, data, **LONG))
    _wait(folder, "[Epoch 1] lr")
    every = [pid for process in started.processes for pid in children_of(process.pid)]
    os.kill(children_of(started.processes[rank].pid)[0], signal.SIGKILL)
    began = time.monotonic()
    for process in started.processes:
        process.wait(30)
    assert time.monotonic() - began < 10
    statuses, outputs = started.end()
    assert statuses[rank] == 137
    error = status(folder)["error"]
    assert error["rank"] == rank
    assert error["retry"]
    assert "SIGKILL" in error["message"], outputs
    assert_gone(every)


def test_a_whole_rank_that_vanishes_is_told_as_gone(tmp_path: Path, data: Path) -> None:
    """With its supervisor, which says nothing any more: as if its machine had lost power."""
    folder = tmp_path / "out"
    started = together(job(folder, data, **LONG))
    _wait(folder, "[Epoch 1] lr")
    os.kill(started.processes[1].pid, signal.SIGKILL)
    began = time.monotonic()
    started.processes[0].wait(30)
    assert time.monotonic() - began < 10
    error = status(folder)["error"]
    assert (error["kind"], error["rank"], error["retry"]) == ("rank", 1, True)
    assert "killed, or its machine is gone" in error["message"]
    started.end()


def test_what_stops_one_rank_stops_all_in_order(tmp_path: Path, data: Path) -> None:
    folder = tmp_path / "out"
    started = together(job(folder, data, **LONG))
    _wait(folder, "[Epoch 1] lr")
    started.processes[1].terminate()
    statuses, _ = started.end(20)
    assert statuses == [143, 143]
    ended = status(folder)
    assert ended["state"] == "stopped"
    assert ended["error"]["rank"] == 1
    assert ended["error"]["message"] == "rank 1: stopped by SIGTERM"
    assert (folder / "training_state.pkl").exists()


def test_an_error_of_one_rank_is_the_error_of_the_job(tmp_path: Path, data: Path) -> None:
    """Two machines, one of which lacks an image."""
    other = tmp_path / "other"
    shutil.copytree(data, other)
    (other / "classes_train" / "dark" / "dark3.png").unlink()
    folder = tmp_path / "out"
    words = job(folder, data)
    statuses, outputs = Together(
        words, [*words, "--set", f"dataset.data_root={other}"], LOCAL_WORLD_SIZE="1", LOCAL_RANK="0"
    ).end()
    assert statuses == [3, 3], outputs
    error = status(folder)["error"]
    assert error["kind"] == "data"
    assert not error["retry"]
    assert "dark/dark3.png on the first alone" in error["message"]


def test_a_batch_that_is_too_small_is_refused_and_one_process_does_not_wait_for_another(
    tmp_path: Path, data: Path
) -> None:
    values = {**config("classification", tmp_path / "out", data, batch_size=2), "engine": "torch"}
    statuses, outputs = together(command(SCRIPT, values)).end(60)
    assert statuses == [2, 2]
    assert "train.batch_size: 2 is too small for 2 ranks" in outputs[0]


def test_images_that_all_become_unreadable_end_all_ranks(tmp_path: Path, data: Path) -> None:
    mine = tmp_path / "data"
    shutil.copytree(data, mine)
    folder = tmp_path / "out"
    started = together(job(folder, mine, **LONG))
    _wait(folder, "[Epoch 1] lr")
    for image in mine.rglob("*.png"):
        image.unlink()
    statuses, outputs = started.end()
    assert statuses == [3, 3], outputs
    error = status(folder)["error"]
    assert (error["kind"], error["retry"]) == ("data", False)
    assert "no image can be read any more" in error["message"]
