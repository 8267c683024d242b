"""A classifier that starts from ImageNet keeps what that has taught: train.gentle_transfer."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import mxnet as mx
import numpy as np
import pytest

from classification import linear_start
from classification.config import ClassificationConfig
from classification.linear_start import regression
from classification.task import ClassificationTask, ClassifierModel
from common.config.reading import configuration
from common.data.samples import Sample
from common.engine.engine import OptimizerSettings
from common.engine.inference import DeviceInference
from common.engine.mxnet_engine import MXNetEngine
from common.engine.parameters import parameters
from common.images.decoding import decode
from common.networks.base_networks import base_network, initialize
from common.processes.pool import WorkerPool
from common.ranks.ranks import ALONE
from tests.helpers.classification_jobs import batch, draw, keys
from tests.helpers.jobs import SCRIPTS, assert_same, config, fit, make_data
from tests.helpers.jobs import parameters as trained

NAMES = ["blue", "green", "red"]
NAME = "mobilenet0.25"
SIDE = 64
CPU = [mx.cpu()]


@pytest.mark.parametrize("count", [60, 400])  # fewer images than features, and more
def test_a_regression_finds_what_separates_the_classes(count: int) -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, 100))
    labels, others = (np.arange(many) % 3 for many in (count, 600))
    made = regression(centres[labels] + rng.normal(0, 3, (count, 100)), labels, 3)
    found = ((centres[others] + rng.normal(0, 3, (600, 100))) @ made.weight.T + made.bias).argmax(1)
    right = (found == others).mean()
    assert right > (0.75 if count == 60 else 0.9)
    assert made.accuracy == pytest.approx(right, abs=0.1 if count == 60 else 0.03)
    assert made.weight.dtype == made.bias.dtype == np.float32


def test_features_that_say_nothing_are_given_no_weight() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 0, 0, 1], 30)
    made = regression(rng.normal(size=(120, 200)), labels, 2)
    logits = rng.normal(size=(400, 200)) @ made.weight.T + made.bias
    sure = 1 / (1 + np.exp(-np.abs(logits[:, 0] - logits[:, 1])))
    assert 0.35 < made.accuracy < 0.65  # a mean over classes: that one of them is more frequent says nothing
    assert sure.mean() < 0.9  # three quarters are of one class; whoever learns by heart is sure of all


def test_a_feature_that_is_nearly_constant_is_given_no_large_weight() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    features = rng.normal(labels[:, None] * [[1.0, 1.0, 0.0]], [[1.0, 1.0, 0.0]])
    features[:, 2] = 1e-5 * labels
    assert np.abs(regression(features, labels, 2).weight).max() < 100.0


@pytest.mark.parametrize("count", [1, 2])
def test_a_class_without_an_image_and_features_without_a_difference_do_not_matter(count: int) -> None:
    made = regression(np.ones((count, 8)), np.zeros(count, int), 3)
    assert np.isfinite(made.weight).all()
    assert made.bias.argmax() == 0


# What a job does before its first step


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    with WorkerPool(1) as made:
        yield made


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random parameters in the place of ImageNet's: they tell colours apart too."""
    mx.random.seed(0)
    np.random.seed(0)
    network = base_network(NAME, 1000)
    initialize(network, CPU)
    folder = tmp_path_factory.mktemp("home")
    (folder / "models").mkdir()
    network.save_parameters(str(folder / "models" / f"{NAME}.params"))
    return folder


@pytest.fixture
def imagenet(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MXNET_HOME", str(models))


@pytest.fixture
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    folder = draw(tmp_path_factory.mktemp("data") / "train", NAMES, 24)
    made = []
    for number, name in enumerate(NAMES):
        for path in sorted((folder / name).iterdir()):
            height, width = cv2.imread(str(path)).shape[:2]
            made.append(Sample(str(path), width, height, np.array([number], np.float32)))
    return made


def task(**more: Any) -> ClassificationTask:
    sides = {"train__input_width": SIDE, "train__input_height": SIDE}
    usual = {"model__use_pretrained": True, "train__gentle_transfer": True}
    values = keys(Path("data"), Path("out"), **{**usual, **sides, **more})
    return ClassificationTask(configuration(ClassificationConfig, values))


def build(of: ClassificationTask) -> ClassifierModel:
    mx.random.seed(0)
    np.random.seed(0)
    return of.build(NAMES, CPU, None)


def begun(of: ClassificationTask, samples: list[Sample], pool: WorkerPool) -> ClassifierModel:
    return begun_with(of, samples, pool)[0]


def begun_with(
    of: ClassificationTask, samples: list[Sample], pool: WorkerPool
) -> tuple[ClassifierModel, Mapping[str, Any]]:
    """The model, and what has been found out on the way."""
    model = build(of)
    calls: list[bool] = []

    def alive() -> None:
        calls.append(True)

    found = of.look_first(model, samples, lambda block: DeviceInference(block, CPU), pool, ALONE, alive)
    assert bool(calls) == (of.config.model.use_pretrained and of.config.train.gentle_transfer is not False)
    return model, found


def changed(model: ClassifierModel, other: ClassifierModel) -> set[str]:
    ours, theirs = parameters(model.network), parameters(other.network)
    return {name for name in ours if (ours[name] != theirs[name]).any()}


@pytest.mark.usefixtures("imagenet")
def test_a_pretrained_network_knows_its_classes_before_the_first_step(
    samples: list[Sample], pool: WorkerPool
) -> None:
    made = task()
    model, plain = begun(made, samples, pool), build(made)
    assert changed(model, plain) == {"output.weight", "output.bias"}
    assert _right(made, model, samples) > 0.9
    assert _right(made, plain, samples) < 0.7
    assert not changed(model, begun(made, samples, pool))


def _right(made: ClassificationTask, model: ClassifierModel, samples: list[Sample]) -> float:
    images = np.zeros((len(samples), SIDE, SIDE, 3), np.uint8)
    for sample, image in zip(samples, images, strict=True):
        made.resize.draw(decode(sample.image)[0], image, None)
    found = DeviceInference(model.inference_block(), CPU)(images)[0].argmax(1)
    return float(np.mean([a == sample.annotation[0] for a, sample in zip(found, samples, strict=True)]))


@pytest.mark.usefixtures("imagenet")
@pytest.mark.parametrize("key", ["model__use_pretrained", "train__gentle_transfer"])
def test_a_network_of_which_nothing_is_to_be_kept_begins_at_random(
    samples: list[Sample], pool: WorkerPool, key: str
) -> None:
    made = task(**{key: False})
    assert not changed(begun(made, samples, pool), build(made))


@pytest.mark.usefixtures("imagenet")
def test_as_many_images_are_looked_at_as_there_is_time_for(
    samples: list[Sample], pool: WorkerPool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "visualtl")
    Path(samples[5].image).write_bytes(b"no image")

    def seen(**more: Any) -> int:
        begun(task(**more), samples, pool)
        said = next(
            record.getMessage() for record in caplog.records[::-1] if "regression on" in record.getMessage()
        )
        return int(said.split(" training images")[0].split()[-1])

    assert seen() == 71  # all but one
    assert 63 <= seen(train__minutes=1e-6) <= 64
    monkeypatch.setattr(linear_start, "MOST", 9)
    assert 29 <= seen() <= 30  # ten a class


@pytest.mark.usefixtures("imagenet")
@pytest.mark.parametrize(
    ("keys_given", "gentle"),
    [
        ({"train__epochs": 20}, True),  # 3 batches of 24 images: 60 steps
        ({"train__epochs": 21}, True),  # the regression tells the colours
        ({"train__epochs": 21, "train__batch_size": 8}, False),
        ({"train__minutes": 1000}, False),
        ({"model__use_pretrained": False, "train__epochs": 1}, False),
        ({"train__gentle_transfer": False, "train__epochs": 1}, False),
        ({"train__gentle_transfer": True, "train__epochs": 999}, True),
    ],
)
def test_what_is_left_open_is_found_out(
    samples: list[Sample], pool: WorkerPool, keys_given: dict[str, Any], gentle: bool
) -> None:
    known = keys_given == {"train__epochs": 21}
    if not known:  # classes that nothing tells apart
        labels = np.random.default_rng(0).permutation(len(samples)) % len(NAMES)
        samples = [replace(s, annotation=np.float32([n])) for s, n in zip(samples, labels, strict=True)]
    made = task(**{"train__gentle_transfer": None, "train__batch_size": 24, **keys_given})
    model, found = begun_with(made, samples, pool)
    assert found == {"gentle_transfer": gentle}
    assert changed(model, build(made)) == ({"output.weight", "output.bias"} if gentle else set())


# How it learns


@pytest.mark.usefixtures("imagenet")
@pytest.mark.parametrize(("optimizer", "gentle"), [("adam", True), ("sgd", True), ("adam", False)])
def test_steps_are_small_and_statistics_stay(optimizer: str, gentle: bool) -> None:
    made = task(train__optimizer=optimizer, train__gentle_transfer=gentle)
    model, recipe = build(made), made.recipe(on_gpu=False)
    engine = MXNetEngine(model.blocks(), CPU, OptimizerSettings(optimizer), limit=recipe.limit)
    before = engine.parameters()
    engine.take(model.training_inputs(batch()).split)
    engine.forward()
    engine.backward()
    engine.update(1e4, engine.norms())
    after = engine.parameters()
    changes = {
        name: float(np.linalg.norm(after[name] - value) / max(np.linalg.norm(value), 1e-9))
        for name, value in before.items()
        if "running_" in name or value.ndim == 4
    }
    longest = max(change for name, change in changes.items() if "running_" not in name)
    assert longest == pytest.approx(0.002 if gentle else 0.02, rel=0.2)
    assert all(changes[name] > 0.0 for name in changes if "running_" in name) == (not gentle)
    assert any(changes[name] > 0.0 for name in changes if "running_" in name) == (not gentle)


@pytest.mark.parametrize(
    "more", [{"model__use_gn": True}, {"model__use_se": True}, {"train__input_width": 63}]
)
def test_what_imagenet_does_not_know_is_learnt_as_from_random_parameters(more: dict[str, Any]) -> None:
    plain = task(model__use_pretrained=False).recipe(on_gpu=False)
    assert task(model__base_network="resnet18_v1", **more).recipe(on_gpu=False) == plain
    assert task(model__base_network="resnet18_v1").recipe(on_gpu=False) != plain


# In jobs


@pytest.mark.slow
def test_a_job_that_is_cut_off_and_resumed_ends_where_a_whole_one_does(tmp_path: Path, models: Path) -> None:
    data, home = make_data(tmp_path / "data"), {"MXNET_HOME": str(models)}

    def job(name: str, epochs: int, gentle: bool | None, *options: str) -> str:
        values = config("classification", tmp_path / name, data, epochs=epochs)
        values["model"]["use_pretrained"] = True
        values["train"].update(input_width=SIDE, input_height=SIDE, gentle_transfer=gentle)
        ended = fit(SCRIPTS["classification"], values, *options, environment=home)
        assert ended.status == 0, ended.output
        return ended.output

    said = "begins at that regression"
    assert said in job("whole", 2, True)
    assert said in job("parts", 1, None)
    again = job("parts", 2, None, "--resume")
    assert "regression" not in again
    assert_same(trained("classification", tmp_path / "whole"), trained("classification", tmp_path / "parts"))
    settled = json.loads((tmp_path / "parts" / "run.json").read_text())["configuration"]
    assert settled["train"]["gentle_transfer"] is True
