"""What a user relies on whatever is trained: folders that are not there, devices, and results of an earlier job."""

from __future__ import annotations

import hashlib
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from common.networks.pretrained import published
from common.training.checkpoint import read_checkpoint, write_checkpoint
from tests.helpers.jobs import SCRIPTS, Ended, config, fit, make_data

# Two devices that are both the CPU, in the place of GPUs 0 and 1.
TWO_DEVICES = """
import common.engine.devices as devices

def contexts(gpus):
    import mxnet
    return [mxnet.cpu(index) for index in gpus or [0]]

devices.check_gpus = lambda *_: None
devices.contexts = contexts
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"), 8, 2)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Ended:
    """A job of one epoch that its progress was asked of to the end, with the time that it lingers by default."""
    values = config("classification", tmp_path_factory.mktemp("job") / "out", data, epochs=1)
    return fit(SCRIPTS["classification"], values, linger=None, polled=True, fresh=True)


@pytest.mark.slow
def test_a_finished_job_answers_for_another_30_seconds(finished: Ended) -> None:
    assert finished.status == 0, finished.output
    last = [seconds for seconds, points in finished.polls if points[-1][1:] == [30, 1.0]]
    assert 29 < last[-1] - last[0] < 40


@pytest.mark.parametrize("there", [False, True])
def test_a_default_folder_that_is_missing_counts_as_none(data: Path, tmp_path: Path, there: bool) -> None:
    shutil.copytree(data / "classes_train", tmp_path / "data" / "classification_train")
    if there:
        shutil.copytree(data / "classes_valid", tmp_path / "data" / "classification_valid")
    values = config("classification", tmp_path / "out", data)
    values["dataset"] = {"data_root": str(tmp_path / "data")}
    ended = fit(SCRIPTS["classification"], values, "--check")
    assert ended.status == 0, ended.output
    report = ended.json("check_report.json")
    assert ("valid" in report) == there
    assert "test" not in report


@pytest.mark.parametrize(
    ("sizes", "steps"),
    [((0.3, 0.0), [3, 10, 20, 30]), ((0.3, 0.2), [7, 10, 20, 21, 30]), ((0.0, 0.0), [1, 10, 30])],
)
def test_sets_are_split_off_as_the_steps_say(
    tmp_path: Path, data: Path, sizes: tuple[float, float], steps: list[int]
) -> None:
    values = config("classification", tmp_path / "out", data, epochs=1)
    values["dataset"] |= {"valid_dir": None, "valid_size": sizes[0], "test_size": sizes[1]}
    ended = fit(SCRIPTS["classification"], values, linger=1, polled=True)
    assert ended.status == 0, ended.output
    assert sorted({point[1] for point in ended.polls[-1][1]}) == steps
    assert (tmp_path / "out" / "valid_data_result.json").exists() == bool(sizes[0])
    assert (tmp_path / "out" / "test_data_result.json").exists() == bool(sizes[1])
    if not sizes[0]:
        assert "no validation set" in ended.log()


def test_another_seed_gives_other_parameters(finished: Ended, data: Path, tmp_path: Path) -> None:
    values = config("classification", tmp_path / "out", data, epochs=1, seed=1)
    other = fit(SCRIPTS["classification"], values)
    assert other.status == 0, other.output
    first, second = (
        read_checkpoint(ended.log_dir / "training_state.pkl", "classification")["parameters"]
        for ended in (finished, other)
    )
    assert any((first[name] != second[name]).any() for name in first)


RESULTS = ("*-symbol.json", "*-0000.params", "model.json", "*_data_result.json", "*.pkl")


def digests(log_dir: Path) -> dict[str, str]:
    """Of everything that a finished job leaves to be used."""
    paths = [path for pattern in RESULTS for path in log_dir.glob(pattern)]
    return {path.name: hashlib.sha1(path.read_bytes()).hexdigest() for path in paths}


def _misspelt(values: dict[str, Any], folder: Path) -> list[str]:
    values["train"]["epoch"] = 1
    return []


def _gpu(values: dict[str, Any], folder: Path) -> list[str]:
    values["gpus"] = [97]
    return []


def _no_folder(values: dict[str, Any], folder: Path) -> list[str]:
    values["dataset"]["test_dir"] = "nowhere"
    return []


def _no_sample(values: dict[str, Any], folder: Path) -> list[str]:
    (folder / "empty" / "dark").mkdir(parents=True)
    values["dataset"]["valid_dir"] = str(folder / "empty")
    return []


def _no_parameters(values: dict[str, Any], folder: Path) -> list[str]:
    values["model"]["use_pretrained"] = True
    return []


def _damaged_parameters(values: dict[str, Any], folder: Path) -> list[str]:
    file = published(values["model"]["base_network"])
    assert file is not None
    (folder / "models").mkdir()
    (folder / "models" / file.file_name).write_bytes(b"half of it")
    values["model"]["use_pretrained"] = True
    return []


def _checkpoint(values: dict[str, Any], folder: Path) -> list[str]:
    write_checkpoint(folder / "other.pkl", "landmark", {"epoch": 1})
    return ["--load", str(folder / "other.pkl")]


def _resumed(values: dict[str, Any], folder: Path) -> list[str]:
    values["train"]["lr"] = 0.5
    return ["--resume"]


@pytest.mark.parametrize(
    ("mistake", "kind"),
    [
        (_misspelt, "configuration"),
        (_gpu, "device"),
        (_no_folder, "data"),
        (_no_sample, "data"),
        (_no_parameters, "pretrained"),
        (_damaged_parameters, "pretrained"),
        (_checkpoint, "checkpoint"),
        (_resumed, "configuration"),
    ],
)
def test_results_of_an_earlier_job_survive_one_that_cannot_begin(
    finished: Ended, data: Path, tmp_path: Path, mistake: Any, kind: str
) -> None:
    before = digests(finished.log_dir)
    assert len(before) >= 6
    values = config("classification", finished.log_dir, data, epochs=1)
    options = mistake(values, tmp_path)
    environment = {"MXNET_HOME": str(tmp_path), "MXNET_GLUON_REPO": (tmp_path / "nowhere").as_uri()}
    ended = fit(SCRIPTS["classification"], values, *options, environment=environment)
    assert ended.status not in (0, -11), ended.output
    assert ended.json("status.json")["error"]["kind"] == kind, ended.output
    assert digests(finished.log_dir) == before


def test_results_of_an_earlier_job_survive_a_port_that_is_taken(finished: Ended, data: Path) -> None:
    before = digests(finished.log_dir)
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        values = config("classification", finished.log_dir, data, epochs=1)
        ended = fit(SCRIPTS["classification"], values, "--port", str(other.getsockname()[1]))
    assert ended.json("status.json")["error"]["kind"] == "port", ended.output
    assert digests(finished.log_dir) == before


@pytest.mark.slow
@pytest.mark.parametrize("task", SCRIPTS)
def test_a_whole_job_runs_on_two_devices(task: str, data: Path, tmp_path: Path) -> None:
    values = config(task, tmp_path / "out", data, epochs=1)
    values["gpus"] = [0, 1]
    two = fit(SCRIPTS[task], values, before=TWO_DEVICES)
    assert two.status == 0, two.output
    assert two.json("valid_data_result.json")
    if task != "classification":
        return
    # It goes on with another number of devices.
    first = read_checkpoint(two.log_dir / "training_state.pkl", task)["parameters"]
    values["gpus"], values["train"]["epochs"] = [], 2
    one = fit(SCRIPTS[task], values, "--resume")
    assert one.status == 0, one.output
    assert "gpus was [0, 1] and is [] now" in one.log()
    assert one.json("status.json")["epoch"] == 1
    second = read_checkpoint(one.log_dir / "training_state.pkl", task)["parameters"]
    assert first.keys() == second.keys()
    assert any((first[name] != second[name]).any() for name in first)
