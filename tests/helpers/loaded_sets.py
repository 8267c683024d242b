"""Sets as a job loads them, without a job; for tests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.config.reading import configuration
from common.data.report import Report
from common.datasets import Datasets, load_datasets
from common.processes.pool import WorkerPool
from detect.config import YOLOv3Config


@contextmanager
def no_steps(step: Any) -> Iterator[Any]:
    yield lambda share: None


def load(
    root: Path, kind: str = "yolov3", keep: bool = False, log_dir: Path | None = None, **keys: Any
) -> Datasets:
    """The sets of a configuration whose dataset section is `keys`."""
    log_dir = log_dir or root / "log"
    log_dir.mkdir(exist_ok=True)
    dataset = {"data_root": str(root), "train_dir": "train", **keys}
    values = {"log_dir": str(log_dir), "gpus": [], "dataset": dataset}
    report = Report(log_dir / "data_report.json")
    with WorkerPool(0) as pool:
        return load_datasets(_task(kind, values), no_steps, pool, report, keep=keep)


def _task(kind: str, values: dict[str, Any]) -> Any:
    if kind == "yolov3":
        from detect.yolov3.task import YOLOv3Task

        return YOLOv3Task(configuration(YOLOv3Config, values))
    if kind == "classification":
        from classification.config import ClassificationConfig
        from classification.task import ClassificationTask

        return ClassificationTask(configuration(ClassificationConfig, values))
    if kind == "reid":
        from reid.config import ReIDConfig
        from reid.task import ReIDTask

        return ReIDTask(configuration(ReIDConfig, values))
    from landmark.config import LandmarkConfig
    from landmark.task import LandmarkTask

    return LandmarkTask(configuration(LandmarkConfig, values))


def report_of(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root / "log" / "data_report.json").read_text())
    return found
