"""A job that PyTorch trains leaves what one of MXNet's leaves, and either goes on where the other was cut off."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed here; make test-torch has it")

from classification.config import ClassificationConfig
from common.config.command_line import Options
from common.config.reading import configuration
from common.data.report import Report
from common.engine.torch.operators import OPERATORS
from common.errors import DataError, DeviceError
from common.evaluate import main as evaluate
from common.predict import main as predict
from common.prepare import prepare
from common.processes.pool import WorkerPool
from common.training.checkpoint import read_checkpoint
from tests.helpers.jobs import SCRIPTS, config, fit, make_data

SCRIPT = SCRIPTS["classification"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"), 8, 4)


def job(folder: Path, data: Path, engine: str, epochs: int = 2) -> dict[str, Any]:
    return {**config("classification", folder, data, epochs=epochs, optimizer="sgd"), "engine": engine}


def parameters(folder: Path) -> dict[str, np.ndarray]:
    state = read_checkpoint(folder / "training_state.pkl", "classification")
    found: dict[str, np.ndarray] = state["parameters"]
    return found


def test_a_job_is_resumed_bit_for_bit_and_goes_on_with_the_other_engine(tmp_path: Path, data: Path) -> None:
    begun = tmp_path / "begun"
    assert fit(SCRIPT, job(begun, data, "torch", 1), fresh=True).status == 0
    ends = {}
    for engine in ("torch", "mxnet"):
        folder = tmp_path / engine
        shutil.copytree(begun, folder)
        assert fit(SCRIPT, job(folder, data, engine), "--resume", fresh=True).status == 0
        assert json.loads((folder / "run.json").read_text())["device"]["engine"] == engine
        ends[engine] = parameters(folder)
    whole = tmp_path / "whole"
    assert fit(SCRIPT, job(whole, data, "torch"), fresh=True).status == 0
    wanted = parameters(whole)
    assert all((ends["torch"][name] == value).all() for name, value in wanted.items())
    assert ends["mxnet"].keys() == wanted.keys()
    both = [np.concatenate([end[name].ravel() for name in wanted]) for end in (ends["mxnet"], wanted)]
    assert np.linalg.norm(both[0] - both[1]) < 0.1 * np.linalg.norm(both[1])
    files = [{path.name for path in folder.iterdir()} for folder in (whole, tmp_path / "mxnet")]
    assert {name for name in files[0] if not name.startswith("events")} <= files[1]


@pytest.mark.slow
def test_centernet_goes_on_with_either_engine_and_is_judged_alike_by_both(tmp_path: Path, data: Path) -> None:
    """MXNet begins, PyTorch goes on and predicts; MXNet finds the same with what it left, and begins with it anew."""

    def values(folder: Path, engine: str, epochs: int) -> dict[str, Any]:
        made = {**config("centernet", folder, data, epochs=epochs), "engine": engine}
        return {**made, "valid": {"score_thresh": 0.01, "flip_test": False}}

    begun, resumed, loaded, figures, found = (
        tmp_path / name for name in ("begun", "resumed", "loaded", "figures", "found")
    )
    script = SCRIPTS["centernet"]
    assert fit(script, values(begun, "mxnet", 1)).status == 0
    shutil.copytree(begun, resumed)
    assert fit(script, values(resumed, "torch", 2), "--resume", fresh=True).status == 0
    assert json.loads((resumed / "run.json").read_text())["device"]["engine"] == "torch"
    checkpoint = str(resumed / "best_checkpoint.pkl")
    assert fit(script, values(loaded, "mxnet", 1), "--load", checkpoint).status == 0

    images, cpu = str(data / "boxes_valid"), ["--gpus", "none", "--workers", "1"]
    assert evaluate([str(resumed), "--data", images, "--out", str(figures), *cpu]) == 0
    mine, others = (
        json.loads(path.read_text())["figures"]
        for path in (resumed / "valid_evaluation.json", figures / "evaluation.json")
    )
    assert others == pytest.approx(mine, abs=1e-3, nan_ok=True)
    assert predict([str(resumed), images, "--out", str(found), "--score", "0.01", *cpu]) == 0
    written, again = (
        {
            (row["image"], number): float(each["score"])
            for row in json.loads(path.read_text())["Result"]
            for number, each in enumerate(row["objects"])
        }
        for path in (resumed / "valid_data_result.json", found / "predictions.json")
    )
    assert len(written) > 8
    for key in written.keys() & again.keys():
        assert again[key] == pytest.approx(written[key], abs=1e-4)
    # What has a score of just 0.01 may be on either side.
    assert len(written.keys() ^ again.keys()) <= 2


def test_an_operator_that_is_not_known_is_named_before_the_sets_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = job(tmp_path / "out", tmp_path / "nowhere", "torch")
    values["model"].update(
        use_pretrained=True, base_network="vgg11"
    )  # of which no parameters are here either

    @contextmanager
    def quiet(_: Any) -> Iterator[Callable[[float], None]]:
        yield lambda share: None

    def begin() -> None:
        with WorkerPool(0) as pool:
            prepare(
                configuration(ClassificationConfig, values),
                Options(None),
                "classification.task:ClassificationTask",
                pool=pool,
                steps=quiet,
                report=Report(tmp_path / "report.json"),
                keep=False,
            )

    with pytest.raises(DataError, match="nowhere"):
        begin()
    monkeypatch.delitem(OPERATORS, "Pooling")
    with pytest.raises(DeviceError, match=r"does not know: Pooling \(.*\); engine: mxnet can"):
        begin()


def test_a_check_names_the_engine_that_is_not_there(tmp_path: Path, data: Path) -> None:
    ended = fit(SCRIPT, {**job(tmp_path / "out", data, "torch"), "gpus": [0]}, "--check", fresh=True)
    assert ended.status != 0
    assert "gpus: [0] asked for and not there" in ended.output
