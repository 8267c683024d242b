"""A configuration file is read, or every error in it is told."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from classification.config import ClassificationConfig
from common.config.key_lookup import changeable
from common.config.network_sections import NetworkConfig
from common.config.reading import configuration
from common.config.sections import JobConfig
from common.errors import ConfigurationError
from detect.config import CenterNetConfig, DetectConfig, YOLOv3Config
from landmark.config import LandmarkConfig

ROOT = Path(__file__).resolve().parents[3]


def read(values: Any, into: type[JobConfig] = YOLOv3Config) -> Any:
    """The configuration that `values` and a log_dir stand for."""
    return configuration(into, {"log_dir": "/out", **values})


def errors(values: Any, into: type[JobConfig] = YOLOv3Config) -> list[str]:
    """The lines of the error that `values` and a log_dir lead to."""
    with pytest.raises(ConfigurationError) as caught:
        read(values, into=into)
    return str(caught.value).split("\n")


def set_at(path: str, value: Any) -> dict[str, Any]:
    """{"train": {"epochs": value}} for "train.epochs"."""
    section, _, name = path.rpartition(".")
    return {section: {name: value}} if section else {name: value}


def value_at(config: Any, path: str) -> Any:
    for name in path.split("."):
        config = getattr(config, name)
    return config


def test_defaults_are_those_of_the_contract() -> None:
    config = read({})
    assert config.gpus == (0,)
    assert (config.train.epochs, config.train.lr_mode, config.train.lr_decay) == (100, "step", 0.1)
    assert (config.train.lr_decay_epoch, config.train.lr_decay_period) == ((25, 50, 75), 0)
    assert (config.train.warmup_lr, config.train.warmup_epochs, config.train.num_workers) == (0, 0, 16)
    assert (config.train.momentum, config.train.wd, config.train.start_epoch) == (0.9, 0.0001, 0)
    assert (config.train.log_interval, config.train.output_lr_mult) == (50, 0.1)
    stop = config.train
    assert (stop.early_stop_patience, stop.early_stop_min_delta) == (-1, 0.001)
    assert (stop.early_stop_baseline, stop.early_stop_max_value) == (0, 1)
    assert (config.dataset.valid_size, config.dataset.test_size, config.valid.interval) == (0, 0, 1)


@pytest.mark.parametrize(
    ("path", "given_value", "value"),
    [
        ("train.epochs", "100", 100),
        ("train.epochs", " 7.0 ", 7),
        ("train.epochs", 7.0, 7),
        ("train.lr", "1e-3", 0.001),
        ("train.lr", 1, 1.0),
        ("train.no_random_shape", "true", True),
        ("train.no_random_shape", "No", False),
        ("train.no_random_shape", 1, True),
        ("train.lr_mode", "Cosine", "cosine"),
        ("train.lr_decay_epoch", "75, 25,50", (25, 50, 75)),
        ("train.lr_decay_epoch", "25，50", (25, 50)),
        ("train.lr_decay_epoch", "25 50 50", (25, 50)),
        ("train.lr_decay_epoch", [60, "40"], (40, 60)),
        ("train.lr_decay_epoch", 30, (30,)),
        ("train.lr_decay_epoch", "", ()),
        ("gpus", "[]", ()),
        ("gpus", "2,0", (2, 0)),
        ("gpus", 3, (3,)),
        ("model.data_shape", "[512, 256]", (512, 256)),
        ("model.data_shape", "512,256", (512, 256)),
        ("model.data_shape", "512x256", (512, 256)),
        ("model.data_shape", "320", (320, 320)),
        ("dataset.classes", "cat, dog", ("cat", "dog")),
        ("dataset.classes", "猫，traffic light", ("猫", "traffic light")),
        ("dataset.classes", "['cat', 'dog']", ("cat", "dog")),
        ("dataset.classes", '["cat", "dog"]', ("cat", "dog")),
        ("dataset.classes", [1, 2], ("1", "2")),
        ("dataset.classes", "", None),
        ("dataset.classes", [], None),
        ("dataset.valid_dir", "None", None),
        ("dataset.valid_dir", " ", None),
        ("dataset.valid_dir", "null", None),
        ("dataset.train_dir", " train ", "train"),
    ],
)
def test_text_means_the_same_as_the_value(path: str, given_value: Any, value: Any) -> None:
    got = value_at(read(set_at(path, given_value)), path)
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("train.epochs", 0, "0 is too small: it must be a whole number from 1 to 1000000"),
        ("train.epochs", 10**30, "is too large"),
        ("train.epochs", True, "true is not allowed: it must be a whole number"),
        ("train.epochs", 1.5, "1.5 is not allowed"),
        ("train.epochs", "ten", '"ten" is not allowed'),
        ("train.epochs", "", '"" is not allowed'),
        ("train.epochs", None, "null is not allowed"),
        ("train.epochs", {"a": 1}, '{"a": 1} is not allowed'),
        ("train.lr", float("nan"), "NaN is not allowed: it must be a number above 0"),
        ("train.lr", float("inf"), "Infinity is not allowed"),
        ("train.lr", "1e999", '"1e999" is not allowed'),
        ("train.lr", 10**400, "is not allowed"),
        ("train.lr", 0, "0 is too small: it must be a number above 0 and at most 100"),
        ("train.lr", False, "false is not allowed"),
        ("train.momentum", 1, "1 is too large"),
        ("train.no_random_shape", 2, "2 is not allowed: it must be true or false"),
        ("train.no_random_shape", "perhaps", "is not allowed"),
        ("train.lr_decay_epoch", "25;fifty", "is not allowed"),
        ("train.lr_decay_epoch", [-1], "[-1] is not allowed"),
        ("train.lr_decay_epoch", [True], "[true] is not allowed"),
        ("train.lr_mode", "steps", "it must be one of step, poly, cosine"),
        ("gpus", [0, 0], "[0, 0] names GPU 0 more than once"),
        ("gpus", -1, "-1 is not allowed"),
        ("gpus", "", '"" is not allowed'),
        ("gpus", None, "[] for the CPU"),
        ("model.data_shape", [512], "[512] is not allowed"),
        ("model.data_shape", [512, 32], "two whole numbers from 64 to 4096"),
        ("dataset.valid_size", 1, "1 is too large: it must be a number of at least 0 and below 1"),
        ("dataset.train_dir", "", '"" is not allowed'),
        ("dataset.train_dir", None, "null is not allowed"),
        ("dataset.train_dir", "a\0b", "holds a zero character"),
        ("dataset.valid_dir", 5, "5 is not allowed"),
        ("dataset.classes", ["cat", "cat"], 'names "cat" more than once'),
        ("dataset.classes", ["\ud7fc"] * 2, 'names "\\ud7fc" more than once'),
        ("dataset.classes", "cat,,dog", "holds an empty name"),
        ("dataset.classes", ["cat", None], "holds something that is no name"),
        ("dataset.classes", ["mAP"], "stands for the mean"),
        ("dataset.classes", "[cat", "is not allowed"),
        ("log_dir", "", "it must be the path of a folder"),
        ("log_dir", "\ud800", "holds half a character"),
    ],
)
def test_a_wrong_value_is_named_with_its_path_and_what_is_allowed(path: str, value: Any, told: str) -> None:
    lines = errors(set_at(path, value))
    assert len(lines) == 1
    assert lines[0].startswith(f"{path}: ")
    assert told in lines[0]
    assert "it must be " in lines[0]


@pytest.mark.parametrize(
    ("values", "line"),
    [
        (
            {"train": {"epoch": 3}},
            "train.epoch: 3 is given for an unknown key: the nearest known key is train.epochs",
        ),
        ({"epochs": 3}, "epochs: 3 is given for an unknown key: the nearest known key is train.epochs"),
        ({"train": {"data_root": "/d"}}, "the nearest known key is dataset.data_root"),
        ({"train": {"learning_rate": 1}}, "the nearest known key is train.lr"),
        ({"dataset": {"dir": "/d"}}, "the nearest known key is dataset."),
        ({"trian": {"lr": 1}}, "the nearest known key is train"),
        ({"train_epochs": 3}, "the nearest known key is train.epochs"),
        ({"train.epochs": 3}, 'write it as {"train": {"epochs": ...}}'),
        ({"train": 5}, 'train: 5 is not a section: it must be an object such as {"batch_size": ...}'),
        ({"a\nb": 5}, "a\\nb: 5 is given for an unknown key"),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one(values: dict[str, Any], line: str) -> None:
    lines = errors(values)
    assert len(lines) == 1
    assert line in lines[0]


def test_a_key_of_another_task_is_recognised() -> None:
    (line,) = errors({"train": {"transfer_lr_mult": 0.1}})
    assert "unknown key (a key of CenterNet, Classification, Landmark, ReID)" in line


def test_all_errors_of_a_file_are_told_at_once() -> None:
    """Those of single values and those between values, too."""
    lines = errors(
        {
            "log_dir": 5,
            "gpus": [0, 1, 2],
            "dataset": {"valid_size": 0.6, "test_size": 0.5},
            "train": {"epochs": 0, "start_epoch": 200, "batch_size": 2, "lr": -1, "lrr": 1},
            "model": {"base_network": "darknet"},
            "valid": {"interval": 0},
            "typo": 1,
        }
    )
    assert {line.split(":")[0] for line in lines} == {
        *("log_dir", "typo", "model.base_network", "valid.interval"),
        *("train.epochs", "train.lr", "train.lrr"),
        *("dataset.valid_size", "train.batch_size"),  # Not train.start_epoch: train.epochs is wrong itself.
    }


def test_a_missing_log_dir_is_an_error_beside_the_others() -> None:
    with pytest.raises(ConfigurationError) as caught:
        configuration(YOLOv3Config, {"train": {"epochs": 5, "start_epoch": 5}})
    lines = str(caught.value).split("\n")
    assert lines == [
        "log_dir: missing: it must be the path of a folder",
        "train.start_epoch: 5 leaves no epoch to train: it must be below train.epochs (5)",
    ]


@pytest.mark.parametrize(
    ("values", "path"),
    [
        ({"dataset": {"valid_size": 0.5, "test_size": 0.5}}, "dataset.valid_size"),
        ({"train": {"start_epoch": 100}}, "train.start_epoch"),
        ({"train": {"warmup_epochs": 101}}, "train.warmup_epochs"),
        ({"train": {"batch_size": 1}, "gpus": [0, 1]}, "train.batch_size"),
        ({"gpus": list(range(17))}, "train.batch_size"),
    ],
)
def test_values_that_do_not_go_together_are_refused(values: dict[str, Any], path: str) -> None:
    (line,) = errors(values)
    section, name = path.split(".")
    value = values.get(section, {"batch_size": 16})[name]
    assert line.startswith(f"{path}: {json.dumps(value)} ")


def test_a_configuration_made_in_python_is_checked_as_well() -> None:
    with pytest.raises(ValidationError, match="leaves no epoch"):
        YOLOv3Config(log_dir=Path("/out"), train={"start_epoch": 100})  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        read({}).train.epochs = 5


@pytest.mark.parametrize(
    ("dataset", "valid_dir", "test_dir", "defaults"),
    [
        ({}, "detect_valid", "detect_test", {"train_dir", "valid_dir", "test_dir"}),
        ({"data_root": "/d"}, "detect_valid", "detect_test", {"train_dir", "valid_dir", "test_dir"}),
        (
            {"valid_size": 0, "test_size": "0.0"},
            "detect_valid",
            "detect_test",
            {"train_dir", "valid_dir", "test_dir"},
        ),
        ({"train_dir": "t"}, None, None, set()),
        ({"valid_dir": "v"}, "v", None, {"train_dir"}),
        ({"test_dir": None}, None, None, {"train_dir"}),
        ({"valid_size": 0.1}, None, None, {"train_dir"}),
        ({"train_dir": "t", "valid_dir": "v", "test_dir": "e"}, "v", "e", set()),
    ],
)
def test_default_folders_hold_only_where_nothing_is_said(
    dataset: dict[str, Any], valid_dir: str | None, test_dir: str | None, defaults: set[str]
) -> None:
    got = read({"dataset": dataset}).dataset
    assert (got.valid_dir, got.test_dir) == (valid_dir, test_dir)
    assert {name for name in ("train_dir", "valid_dir", "test_dir") if got.is_default(name)} == defaults


@pytest.mark.parametrize(
    ("train", "mode"),
    [
        ({}, "step"),
        ({"minutes": "0"}, "step"),
        ({"minutes": 5}, "cosine"),
        ({"minutes": "5.5"}, "cosine"),
        ({"minutes": 5, "lr_mode": "poly"}, "poly"),
        ({"minutes": 5, "lr_decay_epoch": "50"}, "step"),
        ({"minutes": 5, "lr_decay_period": 30}, "step"),
        ({"minutes": 5, "lr_decay": 0.5}, "step"),
    ],
)
def test_a_training_by_time_has_a_schedule_of_its_own_unless_one_is_named(
    train: dict[str, Any], mode: str
) -> None:
    assert read({"train": train}).train.lr_mode == mode


def test_a_share_counts_only_without_a_folder() -> None:
    got = read({"dataset": {"train_dir": "t", "valid_dir": "v", "valid_size": 0.2, "test_size": 0.1}}).dataset
    assert (got.valid_share, got.test_share) == (0.0, 0.1)


def test_what_is_kept_of_a_configuration_makes_it_again() -> None:
    config = read({"dataset": {"valid_size": 0.1}, "train": {"lr_decay_epoch": "3"}, "gpus": []})
    kept = json.loads(json.dumps(config.model_dump(mode="json", exclude_unset=True)))
    again = configuration(YOLOv3Config, kept)
    assert again == config
    assert again.dataset.is_default("train_dir")


def test_a_home_folder_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert read({"log_dir": "~/out"}).log_dir == Path("/home/someone/out")


def test_resuming_has_a_first_epoch_of_its_own() -> None:
    train = read({"gpus": [], "train": {"start_epoch": 3, "resume_epoch": 7}}, into=NetworkConfig).train
    assert (train.first_epoch(loaded=False), train.first_epoch(loaded=True)) == (3, 7)
    assert read({"train": {"start_epoch": 3}}).train.first_epoch(loaded=True) == 3


def test_configurations_import_nothing_heavy() -> None:
    """They are read before the progress server is up, and by every data worker."""
    code = (
        "import sys, common.config.command_line, detect.config, classification.config, reid.config, landmark.config\n"
        "print([m for m in ('mxnet', 'gluoncv', 'cv2', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "config_class", [YOLOv3Config, CenterNetConfig, ClassificationConfig, LandmarkConfig]
)
def test_what_a_training_is_cannot_change_when_it_is_resumed(config_class: type[JobConfig]) -> None:
    free = changeable(config_class)
    assert not {path for path in free if path.startswith(("model.", "dataset.train", "dataset.class"))}
    assert not free & {"train.lr", "train.batch_size", "train.seed", "train.wd", "train.ema_decay"}
    assert free >= {"log_dir", "gpus", "dataset.data_root", "train.epochs", "train.early_stop_max_value"}
    assert ("valid.score_thresh" in free) == issubclass(config_class, DetectConfig)
