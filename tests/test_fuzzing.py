"""Whatever stands in a file: a result, a report, or an error that says where. Never a traceback.

A few hundred cases; `make soak` (FUZZ=10) tries sixty times as many. Every run takes others.
"""

# ruff: noqa: PT017 (an error may come, and then something holds for it)

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from classification.annotations import ClassAnnotations
from classification.config import ClassificationConfig
from classification.task import ClassificationTask
from common.config.key_lookup import leaves
from common.config.reading import configuration, read_configuration, with_model
from common.config.sections import JobConfig
from common.container import write_container
from common.data.problems import BadSample, NoSamples, Problem
from common.data.samples import Annotate, read_folder
from common.engine.parameters import parameters
from common.errors import CheckpointError, ConfigurationError, DataError, one_line
from common.processes.pool import WorkerPool
from common.training.checkpoint import read_checkpoint, write_checkpoint
from common.training.resume import CHECKPOINT_KEYS
from detect.annotations import DetectionAnnotations
from detect.center_net.task import CenterNetTask
from detect.config import CenterNetConfig, SSDConfig, YOLOv3Config
from detect.ssd.task import SSDTask
from detect.yolov3.task import YOLOv3Task
from landmark.annotations import LandmarkAnnotations
from landmark.config import LandmarkConfig
from landmark.task import LandmarkTask
from reid.config import ReIDConfig
from reid.task import ReIDTask
from tests.helpers.jobs import ROOT, config

FACTOR = int(os.environ.get("FUZZ", "1"))
WIDTH, HEIGHT = 40, 30


def cases(count: int) -> settings:
    """So many cases of a property."""
    factor = 1 if FACTOR == 1 else 6 * FACTOR
    return settings(
        max_examples=count * factor, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )


# Texts beside images -------------------------------------------------------------------------------------------------

_values = st.one_of(
    st.integers(-3, 60).map(str),
    st.floats(-50, 90).map("{:.3f}".format),
    st.sampled_from(
        ["0", "-1", "1e3", "1e999", "-1e39", "nan", "inf", "-0", "", "x", "0x10", "1_0", "９", "٣", "猫", "+"]
    ),
)
_separators = st.sampled_from([",", ", ", "，", " ", "\t", ",,", ";", ", ,"])
_lines = st.builds(
    lambda values, separator, end: separator.join(values) + end,
    st.lists(_values, max_size=7),
    _separators,
    st.sampled_from(["\n", "\r\n", "\r", "", " \n", ",\n", "\x0b\n", "\u2028\n", "\0"]),
)
_numbers = (
    st.integers(-5, 60) | st.floats(-20, 80, width=16) | st.sampled_from([0, -1, WIDTH, HEIGHT, 1e-9, 2**40])
)
_rows = st.one_of(*(st.lists(_numbers, min_size=n, max_size=n) for n in (2, 5))).map(
    lambda row: ",".join(f"{value:g}" for value in row) + "\n"
)
_good = st.sampled_from(["-1,-1,-1,-1,-1\n", "0,1,2,30,20\n", "2,0,0,40,30\n", "1,-5,-5,99,99\n", "5,6\n"])
_texts = st.lists(_good | _rows | _lines, max_size=6).map("".join) | st.lists(_good | _rows, max_size=4).map(
    "".join
)
_encodings = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "gb18030", "utf-32", "latin-1"])
_contents = st.builds(
    lambda text, encoding: text.encode(encoding, "replace"), _texts, _encodings
) | st.binary(max_size=80)

# Readers of a set in a folder.
READERS: dict[str, Callable[[Path], Annotate]] = {
    "detection": lambda folder: DetectionAnnotations(3),
    "detection, classes unknown": lambda folder: DetectionAnnotations(None),
    "classification": lambda folder: ClassAnnotations(("cat", "dog"), (str(folder),)),
    "landmark": lambda folder: LandmarkAnnotations(2),
}


def check_problem(problem: Problem, folder: Path, content: bytes) -> None:
    assert Path(problem.file).parent == folder
    assert problem.reason
    assert str(problem).isprintable()
    lines = content.count(b"\n") + content.count(b"\r") + 1
    assert problem.line is None or 1 <= problem.line <= max(lines, len(content))


@pytest.mark.parametrize("kind", READERS)
@cases(200)
@given(content=_contents)
def test_any_text_beside_an_image_gives_annotations_or_a_report_with_file_and_line(
    tmp_path_factory: pytest.TempPathFactory, kind: str, content: bytes
) -> None:
    folder = tmp_path_factory.getbasetemp() / "cat"
    folder.mkdir(exist_ok=True)
    (folder / "1.txt").write_bytes(content)
    try:
        found, problems = READERS[kind](folder.parent)(str(folder / "1.jpg"), WIDTH, HEIGHT)
    except BadSample as bad:
        assert bad.problems
        for problem in bad.problems:
            check_problem(problem, folder, content)
        return
    except DataError as error:
        assert str(error).startswith(f"{folder / '1.txt'}:")
        assert str(error).isprintable()
        assert kind == "detection"
        return
    for problem in problems:
        check_problem(problem, folder, content)
    for array in found:
        assert array.dtype == np.float32
        # A keypoint that is not visible has no place.
        whole = array[~np.isnan(array).all(axis=-1)] if kind == "landmark" else array
        assert np.isfinite(whole).all()
        if kind == "landmark" or array.shape == (1,):  # (1,): all of the image is a sample
            continue
        boxes = array.reshape(-1, 5)[:, 1:]
        assert (boxes >= 0).all()
        assert (boxes <= [WIDTH, HEIGHT, WIDTH, HEIGHT]).all()
        assert (boxes[:, :2] < boxes[:, 2:]).all()


_names = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=12).filter(
    lambda name: name not in (".", "..")
)
_images = st.sampled_from(
    ["JPEG", "PNG", "BMP", "GIF", "half", "none", "text", "empty", "link", "folder", "secret"]
)


def put_image(path: Path, kind: str) -> None:
    """Something where an image should be."""
    if kind == "link":
        path.symlink_to(path.name)
    elif kind == "folder":
        path.mkdir()
    elif kind in ("text", "empty"):
        path.write_text("<html>" if kind == "text" else "")
    elif kind != "none":
        Image.new("RGB", (WIDTH, HEIGHT), (7, 90, 200)).save(
            path, "JPEG" if kind in ("half", "secret") else kind
        )
        if kind == "half":
            path.write_bytes(path.read_bytes()[:-150])


@pytest.mark.parametrize("kind", READERS)
@cases(20)
@given(data=st.data())
def test_any_folder_gives_samples_or_an_error_and_accounts_for_every_image(
    tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject
) -> None:
    root = tmp_path_factory.getbasetemp() / "any"
    shutil.rmtree(root, ignore_errors=True)
    folder = root / "cat"
    folder.mkdir(parents=True)
    for name in data.draw(st.lists(_names, min_size=1, max_size=6, unique=True)):
        extension = data.draw(st.sampled_from([".jpg", ".png", ".JPG", ".txt", ""]))
        path = folder / (name + extension)
        if len(os.fsencode(path.name)) > 200 or os.path.lexists(path):
            continue
        put_image(path, data.draw(_images))
        if data.draw(st.booleans()) and not os.path.lexists(path.with_name(f"{name}.txt")):
            path.with_name(f"{name}.txt").write_bytes(data.draw(_contents))
    with WorkerPool(0) as pool:
        try:
            samples, report = read_folder(root, READERS[kind](root), pool, lambda fraction: None)
        except NoSamples as error:
            samples, report = [], error.report
            assert str(error).isprintable()
        except DataError as error:
            assert str(error).isprintable()
            assert str(folder.name) in str(error)
            return
    left_out = {problem.file for problem in report.problems if not problem.clipped}
    images = {sample.image for sample in samples}
    assert len(images | {os.path.splitext(file)[0] for file in left_out}) <= report.images + len(left_out)
    assert report.images <= len(images) + len(left_out)
    json.dumps(report.as_json(), ensure_ascii=False).encode("utf-8", "surrogatepass")


# Configurations ------------------------------------------------------------------------------------------------------

CONFIGS: dict[str, type[JobConfig]] = {
    "detect_yolov3": YOLOv3Config,
    "detect_center_net": CenterNetConfig,
    "detect_ssd": SSDConfig,
    "image_classification": ClassificationConfig,
    "reid": ReIDConfig,
    "landmark": LandmarkConfig,
}
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["1", "-1", "true", "[]", "1e9", "0.5", "猫", " ", "resnet18_v1", "1,2", "１", 1e308, 10**30]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


def check_error(error: ConfigurationError, path: Path | None, keys: set[str]) -> None:
    """Every line says where: the file with line and column, or a key."""
    lines = str(error).split("\n")
    assert len(str(error).splitlines()) == len(lines)
    for line in lines:
        assert line.isprintable()
        assert len(line) < 2000
        where = any(line.startswith(f"{one_line(key)}:") for key in keys)
        assert where or (path and line.startswith(f"{path}:"))


def keys_of(values: Any, prefix: str = "") -> set[str]:
    found: set[str] = set()
    for key, value in values.items() if isinstance(values, Mapping) else ():
        found |= {prefix + key} | keys_of(value, f"{prefix}{key}.")
    return found


@cases(200)
@given(name=st.sampled_from(list(CONFIGS)), data=st.data())
def test_any_values_give_a_configuration_or_errors_that_name_their_keys(
    name: str, data: st.DataObject
) -> None:
    values: dict[str, Any] = {"log_dir": "/out"}
    known = [*leaves(CONFIGS[name]), "train", "model", "dataset", "typo", "train.typo"]
    for key, value in data.draw(st.dictionaries(st.sampled_from(known), _json, max_size=5)).items():
        section, _, leaf = key.rpartition(".")
        holder = values.setdefault(section, {}) if section else values
        if isinstance(holder, dict):
            holder[leaf] = value
    try:
        configuration(CONFIGS[name], copy.deepcopy(values))
    except ConfigurationError as error:
        check_error(error, None, keys_of(values) | set(known))


@cases(200)
@given(name=st.sampled_from(list(CONFIGS)), data=st.data())
def test_any_damage_to_a_configuration_file_is_harmless_or_told_with_its_place(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    content = bytearray((ROOT / "configs" / f"{name}.json").read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content)))
        length = data.draw(st.sampled_from([0, 0, 1, 1, 5, 100]))
        pieces = [
            b"",
            b",",
            b"}",
            b"{",
            b'"',
            b"\\",
            b"1",
            b"-",
            b"null",
            b"NaN",
            b"1e999",
            b"\xff",
            b"\xef\xbb\xbf",
            b"\n",
        ]
        content[place : place + length] = data.draw(st.sampled_from(pieces) | st.binary(max_size=3))
    path = tmp_path_factory.getbasetemp() / "job.json"
    path.write_bytes(content)
    try:
        read_configuration(CONFIGS[name], path)
    except ConfigurationError as error:
        try:
            keys = keys_of(json.loads(content.decode("utf-8-sig")))
        except ValueError:
            keys = set()
        check_error(error, path, keys | set(leaves(CONFIGS[name])))


# Checkpoints ---------------------------------------------------------------------------------------------------------

TASKS: dict[str, tuple[Callable[[Any], Any], type[JobConfig]]] = {
    "classification": (ClassificationTask, ClassificationConfig),
    "reid": (ReIDTask, ReIDConfig),
    "landmark": (LandmarkTask, LandmarkConfig),
    "yolov3": (YOLOv3Task, YOLOv3Config),
    "centernet": (CenterNetTask, CenterNetConfig),
    "ssd": (SSDTask, SSDConfig),
}
_plain = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=5)
    | st.sampled_from([np.zeros(3, "f4"), np.ones((2, 2)), np.array([np.nan]), np.zeros((0, 4))]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)  # fmt: skip


def built(task: str, folder: Path, checkpoint: dict[str, Any] | None) -> Any:
    """What a job with --load builds."""
    kind, config_class = TASKS[task]
    made = kind(configuration(config_class, config(task, folder / "out", folder)))
    if checkpoint:
        made = kind(with_model(made.config, checkpoint["model"]))
    return made.build([] if task == "landmark" else ["dark", "light"], [mx.cpu()], checkpoint)


def damaged(document: dict[str, Any], data: st.DataObject) -> dict[str, Any]:
    """A checkpoint of which something has become something else, is missing, or has another name."""
    document = {key: dict(value) if isinstance(value, dict) else value for key, value in document.items()}
    holder: dict[Any, Any] = document
    key = data.draw(st.sampled_from(sorted(set(CHECKPOINT_KEYS) - {"configuration"})))
    if isinstance(holder[key], dict) and holder[key] and data.draw(st.booleans()):
        holder, key = holder[key], data.draw(st.sampled_from(sorted(holder[key])))
    how = data.draw(st.sampled_from(["other", "missing", "renamed", "swapped"]))
    value = holder.pop(key)
    if how == "other":
        holder[key] = data.draw(_plain)
    elif how == "renamed":
        holder[data.draw(st.text(max_size=4))] = value
    elif how == "swapped":
        holder[key] = holder[data.draw(st.sampled_from(sorted(holder, key=str)))] if holder else None
    return document


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_any_change_of_a_checkpoint_is_refused_in_one_line_or_builds_a_network(
    tmp_path: Path, task: str
) -> None:
    path = tmp_path / "best_checkpoint.pkl"
    model = built(task, tmp_path, None)
    content = {
        "classes": list(model.classes),
        "model": model.description(),
        "configuration": {},
        "parameters": parameters(model.network),
        "epoch": 3,
    }
    write_checkpoint(path, task, content)
    whole = read_checkpoint(path, task, CHECKPOINT_KEYS)
    built(task, tmp_path, whole)

    @cases(6)
    @given(data=st.data())
    def holds(data: st.DataObject) -> None:
        write_container(path, damaged(whole, data))
        try:
            built(task, tmp_path, read_checkpoint(path, task, CHECKPOINT_KEYS))
        except CheckpointError as error:
            assert "\n" not in str(error)

    holds()
