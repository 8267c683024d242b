"""A configuration for a folder, a machine and a number of minutes."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from common.advice import SMALL_SHARE
from common.config.command_line import Options
from common.config.json_text import JsonObject, apply_overrides
from common.config.reading import configuration
from common.config.sections import JobConfig
from common.data.report import Report
from common.engine.devices import bfloat16_supported, choose_engine, processors, visible_gpus
from common.errors import DeviceError, one_line
from common.images.decoding import printable
from common.language import Words
from common.prepare import prepare
from common.processes.pool import WorkerPool
from common.reporting.log import NAME as LOGGER
from common.reporting.progress import Step
from common.suggest.choices import Choice, batch_for, choice_for, choices_for, sizes_for
from common.suggest.data import Data, look
from common.suggest.reasons import AROUND, IN_WORDS, advice_on_data, counts, prospects
from common.task import Task
from common.trial import time_a_step

# Images below which none are set aside; the share that is where there are more, and about how many at most: they take
# time to predict, and more say hardly more.
_FEWEST_TO_SPLIT, _VALIDATED, _MOST_VALIDATED = 10, 0.2, 1000


@dataclass
class Suggestion:
    """A configuration, and why it is as it is."""

    script: str
    values: dict[str, Any]
    reasons: list[Words] = field(default_factory=list)


def suggest(
    folder: Path, minutes: float, task: str | None, overrides: Sequence[str], out: Path
) -> Suggestion:
    """A configuration that trains on `folder` in so many minutes. out: the file that it is for. Raises JobError."""
    data = look(folder, task)
    gpus = _usable_gpus()
    made = Suggestion("", {})
    made.reasons.append(
        (
            f"{printable(str(folder))}: {IN_WORDS[data.does][0]}; labels: {data.format}, {one_line(data.why[0])}",
            f"{printable(str(folder))}：{IN_WORDS[data.does][1]}；标注格式 {data.format}（{one_line(data.why[1])}）",
        )
    )
    left_out: dict[str, int] = {}
    with (
        tempfile.TemporaryDirectory() as place,
        WorkerPool(min(16, processors())) as pool,
        _without_log(),
    ):
        report = Report(Path(place) / "report.json", left_out.update)
        first = choices_for(data.does)[0]
        values = _values(data, first, minutes, gpus, out, first.batch, first.sizes[-1])
        config = _checked(first, values, overrides)
        prepared = prepare(
            config, Options(config=None), first.task, pool=pool, steps=_quiet, report=report, keep=False
        )
        sets = prepared.data
        assert sets is not None
        assert prepared.devices is not None
        made.reasons.append(counts(data, sets))
        if lost := sum(left_out.values()):
            made.reasons.append(
                (
                    f"Images or labels that are left out: {lost} (the training names each, and with --check at once)",
                    f"有 {lost} 个图像或标注不参与训练：训练时会逐一指出，加 --check 可立即查看",
                )
            )
        seconds = minutes * 60.0 - AROUND
        chosen = choice_for(data, sets)
        batch = batch_for(chosen, sets)
        values_of = partial(_values, data, chosen, minutes, gpus, out, batch)
        measured = chosen.sizes[len(chosen.sizes) // 2]
        timed = resolve_name(chosen.task)(_checked(chosen, values_of(measured), overrides))
        a_step = time_a_step(timed, sets, prepared.devices, pool, prepared.engine)
        sizes = list(sizes_for(chosen, sets, batch, seconds, a_step, measured))
        made.script = chosen.script
        for size in sizes:
            made.values = values_of(size)
            task_made = resolve_name(chosen.task)(_checked(chosen, made.values, overrides))
            if task_made.input_figures(sets.train).get("small", 0.0) < SMALL_SHARE:
                break
        if _kept(chosen, task_made.config):
            made.reasons.append(chosen.reason)
        apply_overrides(made.values, overrides)
        made.reasons += prospects(chosen, sets, task_made, a_step * _area(task_made) / _area(timed))
        made.reasons += advice_on_data(data, sets, task_made, Path(place) / "report.json")
    return made


def _usable_gpus() -> list[int]:
    """The first GPU that any engine here can compute on, as a list; none where there is none."""
    visible = visible_gpus()
    for gpu in visible:
        try:
            choose_engine("auto", [gpu.index], visible)
        except DeviceError:
            continue
        return [gpu.index]
    return []


def _kept(choice: Choice, config: JobConfig) -> bool:
    """Whether the model is the one that was chosen, and not what --set says."""
    section = config.model
    return all(getattr(section, key) == value for key, value in choice.keys["model"].items())


def _area(task: Task[Any]) -> int:
    """Pixels of the input."""
    return task.shape[0] * task.shape[1]


@contextmanager
def _without_log() -> Iterator[None]:
    """What a training says of the data is for the training."""
    log = logging.getLogger(LOGGER)
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


@contextmanager
def _quiet(step: Step) -> Iterator[Any]:
    yield lambda fraction: None


def validated_share(images: int) -> float:
    """The share of a set of so many images that is set aside to measure the model with."""
    return min(_VALIDATED, float(f"{_MOST_VALIDATED / images:.2g}"))


def _values(
    data: Data, choice: Choice, minutes: float, gpus: Sequence[int], out: Path, batch: int, size: int
) -> dict[str, Any]:
    """The content of the configuration."""
    dataset: dict[str, Any] = {"data_root": data.root}
    dataset |= {f"{part}_dir": folder for part, folder in data.folders.items()}
    if data.joints:
        dataset["num_joints"] = data.joints
    if "valid" not in data.folders and data.images >= _FEWEST_TO_SPLIT:
        dataset["valid_size"] = validated_share(data.images)
    if data.classes:
        dataset["classes"] = list(data.classes)
    values: dict[str, Any] = {
        "log_dir": str(Path("out") / out.stem),
        "dataset": dataset,
        "gpus": list(gpus),
        "model": {},
        "train": {"minutes": minutes, "batch_size": batch},
    }
    if not gpus and bfloat16_supported():
        values["model" if data.does == "detection" else "train"] |= (
            {"amp": True} if data.does == "detection" else {"dtype": "bfloat16"}
        )
    for more in (choice.keys, choice.sized(size)):
        for section, keys in more.items():
            values.setdefault(section, {}).update(keys)
    return values


def _checked(choice: Choice, values: Mapping[str, Any], overrides: Sequence[str]) -> JobConfig:
    """The configuration that the values, with overrides, stand for. Raises ConfigurationError."""
    made = JsonObject(json.loads(json.dumps(values)))
    errors = apply_overrides(made, overrides)
    config: JobConfig = configuration(resolve_name(choice.config), made, errors=errors)
    return config
