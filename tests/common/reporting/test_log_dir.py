"""A folder with the name of a job's file is told before the job begins."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.errors import LogDirNameError
from common.export import outputs
from common.job import main
from common.reporting import log_dir, warnings
from common.training.resume import BEST_CHECKPOINT, TRAINING_STATE
from detect.config import YOLOv3Config

MODULE = "detect.task:Task"  # never imported here


def refused(folder: Path, tmp_path: Path) -> str:
    """The last line of estimator.log of a job in `folder`, which is refused for good."""
    path = tmp_path / "job.json"
    data = {"data_root": str(tmp_path), "classes": ["a"]}
    path.write_text(json.dumps({"log_dir": str(folder), "gpus": [], "dataset": data}))
    assert main(YOLOv3Config, MODULE, "", ["--config", str(path)]) == 3
    return (
        (folder / "estimator.log").read_text().splitlines()[-1]
        if (folder / "estimator.log").is_file()
        else ""
    )


def test_the_names_are_those_of_the_files() -> None:
    ours = {BEST_CHECKPOINT, TRAINING_STATE, outputs.DATA_REPORT, outputs.MODEL_CARD}
    ours |= {text.format(name) for name in ("valid", "test") for text in (outputs.RESULT, outputs.EVALUATION)}
    assert set(log_dir.NEEDED) == ours | {"status.json", "estimator.log"}
    assert outputs.REPORT in log_dir.FURTHER


@pytest.mark.parametrize("name", log_dir.NEEDED)
def test_a_folder_in_the_place_of_a_file_that_decides_is_refused(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "log"
    (folder / name).mkdir(parents=True)
    with pytest.raises(LogDirNameError, match=rf"log/{name}: is a folder") as caught:
        log_dir.check_names(folder)
    assert (caught.value.retry, caught.value.exit_status) == (False, 3)


def test_the_job_notes_it_where_it_can(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "log" / BEST_CHECKPOINT).mkdir(parents=True)
    assert f"{BEST_CHECKPOINT}: is a folder" in refused(tmp_path / "log", tmp_path)
    error = json.loads((tmp_path / "log" / "status.json").read_text())["error"]
    assert (error["kind"], error["retry"]) == ("log_dir", False)
    assert "is a folder" in capsys.readouterr().err.splitlines()[-1]


def test_a_file_that_does_not_decide_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    warnings.forget()
    log_dir.check_names(tmp_path)
    assert "report.html is a folder" in warnings.told()[0]
    outputs.remove_outputs(tmp_path, "net", [], keep_state=False)
    assert (tmp_path / "report.html").is_dir()
    warnings.forget()
    (tmp_path / "net-symbol.json").mkdir()
    with pytest.raises(LogDirNameError, match=r"net-symbol\.json: is a folder"):
        outputs.remove_outputs(tmp_path, "net", [], keep_state=False)


def test_a_token_that_nobody_can_show_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISUALTL_TOKEN", "\udcff")
    path = tmp_path / "job.json"
    data = {"data_root": str(tmp_path), "classes": ["a"]}
    path.write_text(json.dumps({"log_dir": str(tmp_path / "log"), "gpus": [], "dataset": data}))
    assert main(YOLOv3Config, MODULE, "", ["--config", str(path)]) == 2
    error = json.loads((tmp_path / "log" / "status.json").read_text())["error"]
    assert error["kind"] == "configuration"
    assert error["message"].startswith("VISUALTL_TOKEN: is not UTF-8")
