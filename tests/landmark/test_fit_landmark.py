"""A landmark job as a platform sees it, and what its keys do to network and training."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import mxnet as mx
import numpy as np
import pytest

from common.checkpoint import read_checkpoint, write_checkpoint
from common.config import configuration
from common.errors import CheckpointError, ConfigurationError
from common.estimator import Estimator, parameters
from common.graph import MEAN, STD
from common.limits import GradientLimit, RateLimit
from common.loader import Batch
from common.samples import Sample
from common.task import Inputs
from landmark.config import LandmarkConfig
from landmark.mirroring import MIRRORED_68
from landmark.task import LandmarkModel, LandmarkTask
from landmark.transforms import EvaluationTransform, TrainingTransform

ROOT = Path(__file__).resolve().parents[2]
JOINTS = 3
WIDTH, HEIGHT = 64, 48


def draw(folder: Path, count: int, seed: int) -> None:
    """Images of several sizes with a triangle each, its corners red, green and blue: the keypoints."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        width, height = rng.integers(60, 140, 2).tolist()
        middle, size = rng.uniform(0.35, 0.65, 2), rng.uniform(0.15, 0.3)
        corners = middle + size * np.array([[-1, -0.7], [1, -0.7], [0, 1]])
        points = corners * (width, height)
        image = np.full((height, width, 3), 90, np.uint8)
        cv2.fillPoly(image, [points.astype(np.int32)], (200, 200, 200))
        for point, colour in zip(points, ((0, 0, 255), (0, 255, 0), (255, 0, 0)), strict=True):
            cv2.circle(image, tuple(int(v) for v in point), max(4, width // 14), colour, -1)
        cv2.imwrite(str(folder / f"{number:03}.png"), image)
        (folder / f"{number:03}.txt").write_text("".join(f"{x:.2f},{y:.2f}\n" for x, y in points))


def keys(data: Path, log_dir: Path, **more: Any) -> dict[str, Any]:
    """A job of seconds; more: SECTION__KEY=value."""
    values: dict[str, Any] = {
        "log_dir": str(log_dir),
        "gpus": [],
        "dataset": {"data_root": str(data), "train_dir": "train", "valid_dir": "valid", "num_joints": JOINTS},
        "model": {"base_network": "mobilenet0.25", "use_pretrained": False},
        "train": {"epochs": 2, "lr": 0.002, "input_width": WIDTH, "input_height": HEIGHT, "num_workers": 1},
    }
    for path, value in more.items():
        section, _, key = path.partition("__")
        values[section][key] = value
    return values


def task(**more: Any) -> LandmarkTask:
    return LandmarkTask(configuration(LandmarkConfig, keys(Path("data"), Path("out"), **more)))


def build(checkpoint: dict[str, Any] | None = None, **more: Any) -> LandmarkModel:
    mx.random.seed(0)
    return task(**more).build([], [mx.cpu()], checkpoint)


def checkpoint_of(model: LandmarkModel) -> dict[str, Any]:
    return {"model": model.description(), "parameters": parameters(model.network)}


def batch(epoch: int = 0, number: int = 0, rows: int = 4, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray] = {
        "image": rng.integers(0, 256, (rows, HEIGHT, WIDTH, 3), np.uint8),
        "points": rng.uniform(0.2, 0.8, (rows, JOINTS, 2)).astype(np.float32),
    }
    return Batch(arrays, np.arange(rows), rows, (WIDTH, HEIGHT), [], epoch, number)


def losses(model: LandmarkModel, inputs: Inputs) -> list[np.ndarray]:
    block, _ = model.training_block()
    found = block(*(mx.nd.array(array, dtype=array.dtype) for array in (*inputs.split, *inputs.shared)))
    return [loss.asnumpy() for loss in (found if isinstance(found, (list, tuple)) else [found])]


@dataclass
class Ended:
    """A job that has ended."""

    status: int
    output: str
    log_dir: Path

    def json(self, name: str) -> Any:
        return json.loads((self.log_dir / name).read_text())


def fit(values: dict[str, Any], *options: str) -> Ended:
    log_dir = Path(values["log_dir"])
    path = log_dir.parent / f"{log_dir.name}.json"
    path.write_text(json.dumps(values))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "landmark/fit_landmark.py", "--config", str(path), *options]
    done = subprocess.run(
        [*command, "--port", port, "--linger", "0"], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    return Ended(done.returncode, done.stdout + done.stderr, log_dir)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    draw(folder / "train", 20, seed=0)
    draw(folder / "valid", 6, seed=1)
    return folder


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Ended:
    """One whole job that the tests below look at; its training set is smaller than a batch."""
    return fit(keys(data, tmp_path_factory.mktemp("job") / "out"))


def _no_other() -> Sample:
    raise AssertionError("an image is seen as it is, with no other one")


def rows_of(result: dict[str, Any], key: str) -> np.ndarray:
    return np.array([[(point["x"], point["y"]) for point in row[key]] for row in result["Result"]])


def test_a_whole_job_leaves_its_files(job: Ended) -> None:
    assert job.status == 0, job.output
    names = {path.name for path in job.log_dir.iterdir()}
    assert names >= {
        "estimator.log",
        "landmark_mobilenet0.25-symbol.json",
        "landmark_mobilenet0.25-0000.params",
        "model.json",
        "best_checkpoint.pkl",
        "valid_data_result.json",
        "data_report.json",
    }
    assert "test_data_result.json" not in names
    assert job.json("status.json")["best_metric"]["name"] == "-RMSE"
    assert "NME=" in (job.log_dir / "estimator.log").read_text()


def test_the_result_file_holds_keypoints_in_pixels_of_the_original_images(job: Ended, data: Path) -> None:
    result = job.json("valid_data_result.json")
    images = sorted(str(path) for path in (data / "valid").glob("*.png"))
    assert [row["image"] for row in result["Result"]] == images
    annotated = np.array([np.loadtxt(path[:-3] + "txt", delimiter=",") for path in images])
    np.testing.assert_allclose(rows_of(result, "groundtruth"), annotated, atol=1e-4)
    difference = rows_of(result, "keypoints") - annotated
    assert result["RMSE"] == pytest.approx(np.sqrt((difference**2).mean()), rel=1e-6)
    assert job.json("status.json")["best_metric"]["value"] == pytest.approx(-result["RMSE"], rel=1e-4)
    sides = np.ptp(annotated, axis=1)
    nme = np.linalg.norm(difference, axis=2).mean(axis=1) / np.sqrt(sides.prod(axis=1))
    assert result["NME"] == pytest.approx(nme.mean(), rel=1e-6)


def test_the_exported_model_gives_the_keypoints_of_the_result_file(job: Ended) -> None:
    card = job.json("model.json")
    network = mx.gluon.SymbolBlock.imports(
        str(job.log_dir / card["symbol"]), ["data"], str(job.log_dir / card["params"])
    )
    shape = card["input"]["width"], card["input"]["height"]
    assert shape == (WIDTH, HEIGHT)
    result = job.json("valid_data_result.json")
    for row, expected in zip(result["Result"], rows_of(result, "keypoints"), strict=True):
        height, width = cv2.imread(row["image"]).shape[:2]
        transform = EvaluationTransform(JOINTS)
        out = {name: np.empty(size, kind) for name, (size, kind) in transform.layout(shape).items()}
        sample = Sample(row["image"], width, height, np.zeros((JOINTS, 2), np.float32))
        transform(sample, shape, np.random.default_rng(0), _no_other, out)
        pixels = ((out["image"] / 255 - MEAN) / STD).transpose(2, 0, 1)[None]
        points = network(mx.nd.array(pixels)).asnumpy()[0] * (width, height)
        np.testing.assert_allclose(points, expected, atol=0.01)


def test_training_taken_up_again_goes_on_where_it_was(job: Ended, data: Path, tmp_path: Path) -> None:
    values = keys(data, tmp_path / "out", train__lr=1e-12, train__epochs=1)
    values["model"] = {"base_network": "no such network"}  # has no effect with --load
    checkpoint = job.log_dir / "best_checkpoint.pkl"
    ended = fit(values, "--load", str(checkpoint))
    assert ended.status == 0, ended.output
    before, after = (
        read_checkpoint(path, "landmark") for path in (checkpoint, tmp_path / "out" / checkpoint.name)
    )
    assert after["model"] == before["model"]
    assert after["model"]["num_joints"] == JOINTS
    for name, value in before["parameters"].items():
        if "running" not in name:
            np.testing.assert_allclose(after["parameters"][name], value, atol=1e-6, err_msg=name)


def test_a_checkpoint_of_other_keypoints_is_refused_in_one_line() -> None:
    checkpoint = checkpoint_of(build(dataset__num_joints=5))
    with pytest.raises(CheckpointError) as caught:
        build(checkpoint)
    assert str(caught.value) == "the checkpoint has 5 keypoints; dataset.num_joints is 3"


def test_a_checkpoint_whose_parameters_do_not_fit_is_refused() -> None:
    checkpoint = checkpoint_of(build())
    del checkpoint["parameters"]["output.weight"]
    with pytest.raises(CheckpointError, match=r"do not fit its network: .*output\.weight"):
        build(checkpoint)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("label_smoothing", "true", "train.label_smoothing: "),
        ("teacher", "resnet18_v1", 'train.teacher: "resnet18_v1"'),
    ],
)
def test_what_means_something_for_classes_alone_is_refused(key: str, value: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        task(**{f"train__{key}": value})
    assert str(caught.value).startswith(said)
    assert "keypoints" in str(caught.value)


@pytest.mark.parametrize(("baseline", "expected"), [(0, None), ("-3.5", -3.5)])
def test_a_baseline_of_0_is_none(baseline: Any, expected: float | None) -> None:
    assert task(train__early_stop_baseline=baseline).early_stop_baseline == expected


def test_evaluation_falls_with_the_error_and_is_in_pixels() -> None:
    sample = Sample("a.jpg", 100, 50, np.array([[0, 0], [40, 0], [0, 10]], np.float32))
    model = build()
    found = task().evaluate([sample], [sample.annotation + np.array([3.0, 0.0])], model)
    assert found.value == pytest.approx(-np.sqrt(9 / 2))
    assert found.curves == {"NME": pytest.approx(3 / 20)}
    lost = task().evaluate([sample], [np.full((3, 2), np.nan)], model)
    assert np.isnan(lost.value)


def test_a_fresh_network_begins_at_the_mean_of_the_training_set() -> None:
    points = np.array([[[10, 20], [50, 20], [30, 40]], [[30, 20], [70, 20], [50, 40]]], np.float32)
    samples = [Sample("a.jpg", 100, 50, points[0]), Sample("b.jpg", 100, 50, points[1])]
    model = build()
    task().begin(model, samples)
    found = model.network(mx.nd.zeros((1, 3, HEIGHT, WIDTH))).asnumpy()[0]
    np.testing.assert_allclose(found, points.mean(axis=0) / (100, 50), atol=0.05)


@pytest.mark.parametrize(
    ("joints", "given", "expected"),
    [
        (68, None, MIRRORED_68),
        (68, [], None),
        (67, None, None),
        (3, [1, 0, 2], (1, 0, 2)),
        (3, "1，0，2", (1, 0, 2)),
    ],
)
def test_images_are_mirrored_where_the_mirrored_points_are_known_or_given(
    joints: int, given: object, expected: tuple[int, ...] | None
) -> None:
    made = task(dataset__num_joints=joints, dataset__mirrored_joints=given).training_transform([])
    assert isinstance(made, TrainingTransform)
    assert made.mirrored == expected


def test_a_table_of_other_keypoints_is_refused_by_name() -> None:
    with pytest.raises(ConfigurationError) as caught:
        task(dataset__num_joints=3, dataset__mirrored_joints=[1, 0])
    assert str(caught.value).startswith("dataset.mirrored_joints: [1, 0] has 2 entries")


def multipliers(model: LandmarkModel) -> dict[str, set[float]]:
    found: dict[str, set[float]] = {"features": set(), "rest": set()}
    for name, parameter in model.network._collect_params_with_prefix().items():
        found["features" if name.startswith("features.") else "rest"].add(parameter.lr_mult)
    return found


def test_pretrained_layers_and_the_head_learn_at_their_rates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    zoo = mx.gluon.model_zoo.vision.mobilenet0_25(classes=10)
    zoo.initialize()
    zoo(mx.nd.zeros((1, 3, 224, 224)))
    zoo.save_parameters(str(tmp_path / "models" / "mobilenet0.25.params"))
    monkeypatch.setenv("MXNET_HOME", str(tmp_path))
    rates: dict[str, Any] = {"train__transfer_lr_mult": 0.02, "train__output_lr_mult": 0.3}
    model = build(model__use_pretrained=True, **rates)
    assert multipliers(model) == {"features": {0.02}, "rest": {0.3}}
    values = zoo._collect_params_with_prefix()["features.0.weight"].data().asnumpy()
    np.testing.assert_array_equal(model.network.features[0].weight.data().asnumpy(), values)
    assert multipliers(build(**rates)) == {"features": {1.0}, "rest": {1.0}}


def test_no_wd_spares_biases_gamma_and_beta() -> None:
    for no_wd, spared in ((True, {0.0}), (False, {1.0})):
        decays: dict[bool, set[float]] = {True: set(), False: set()}
        for name, parameter in build(train__no_wd=no_wd).network._collect_params_with_prefix().items():
            if "running" not in name:
                decays[name.endswith(("bias", "gamma", "beta"))].add(parameter.wd_mult)
        assert decays == {True: spared, False: {1.0}}


def test_optimizer_and_precision_are_the_configured_ones() -> None:
    assert type(task().optimizer()).__name__ == "Adam"
    nag = task(train__optimizer="nag", train__momentum=0.8, train__wd=0.01).optimizer()
    assert (type(nag).__name__, nag.momentum, nag.wd) == ("NAG", 0.8, 0.01)
    assert task().precision(on_gpu=False) == "float32"
    assert (task().compiled(), task(train__mode="imperative").compiled()) == (True, False)
    assert isinstance(task().limit(), RateLimit)
    assert isinstance(task(train__optimizer="sgd").limit(), GradientLimit)


def test_mixup_mixes_images_and_holds_them_against_the_points_of_both() -> None:
    model = build(train__mixup=True)
    images, points = model.training_inputs(batch()).split
    opposite = np.ascontiguousarray(points[::-1])

    def loss(images: np.ndarray, points: np.ndarray, share: float) -> np.ndarray:
        return losses(model, Inputs([images, points], [np.array([share], np.float32)]))[0]

    (plain,) = losses(build(), build().training_inputs(batch()))
    np.testing.assert_allclose(loss(images, points, 1.0), plain, rtol=1e-4)
    dark_and_light = np.zeros_like(images)
    dark_and_light[:2] = 200
    grey = np.full_like(images, 60)
    grey[:2] = 140
    expected = 0.7 * loss(grey, points, 1.0) + 0.3 * loss(grey, opposite, 1.0)
    np.testing.assert_allclose(loss(dark_and_light, points, 0.7), expected, rtol=1e-3)
    assert np.abs(loss(dark_and_light, points, 1.0) - expected).max() > 0.01


def test_the_share_of_mixup_is_drawn_anew_for_every_batch_and_1_in_the_last_epochs() -> None:
    model = build(train__mixup=True, train__epochs=10, train__mixup_off_epoch=2, train__mixup_alpha=0.4)
    shares = [float(model.training_inputs(batch(0, number)).shared[0]) for number in range(300)]
    assert len(set(shares)) == 300
    assert np.var(shares) == pytest.approx(0.25 / 1.8, abs=0.03)  # the variance of Beta(0.4, 0.4)
    last = [float(model.training_inputs(batch(epoch)).shared[0]) for epoch in (7, 8, 9)]
    assert last[0] != 1.0
    assert last[1:] == [1.0, 1.0]
    assert build().training_inputs(batch()).shared == []


def test_a_student_comes_to_give_its_teachers_points(tmp_path: Path) -> None:
    teacher = build()
    teacher.network.output.bias.set_data(mx.nd.array([20, 30, 70, 30, 50, 80]))
    write_checkpoint(tmp_path / "teacher.pkl", "landmark", checkpoint_of(teacher))
    model = build(train__teacher=str(tmp_path / "teacher.pkl"), train__hard_weight=0.25)
    total, hard, soft = losses(model, model.training_inputs(batch()))
    np.testing.assert_allclose(total, 0.25 * hard + 0.75 * soft, rtol=1e-5)
    assert model.losses == ("loss", "points", "teacher")
    model = build(train__teacher=str(tmp_path / "teacher.pkl"), train__hard_weight=0)
    estimator = Estimator(model, [mx.cpu()], mx.optimizer.create("adam"))
    far = losses(model, model.training_inputs(batch()))[2].mean()
    for _ in range(30):
        estimator.step(batch(), 0.003)
    near = losses(model, model.training_inputs(batch()))[2].mean()
    assert near < 0.2 * far
    block, _ = model.training_block()
    same = parameters(block.teacher)
    assert all(np.array_equal(same[name], value) for name, value in parameters(teacher.network).items())
    assert not any(name.startswith("teacher") for name in parameters(model.network))


def test_a_teacher_of_other_keypoints_is_refused_with_its_key(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "teacher.pkl", "landmark", checkpoint_of(build(dataset__num_joints=4)))
    with pytest.raises(CheckpointError, match=r"^train\.teacher: the checkpoint has 4 keypoints;"):
        build(train__teacher=str(tmp_path / "teacher.pkl"))
    with pytest.raises(CheckpointError, match=r"^train\.teacher: .*nowhere\.pkl"):
        build(train__teacher="nowhere.pkl")


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"train__mixup": True, "train__mixup_off_epoch": 4},
        {"train__optimizer": "sgd", "train__lr": 0.05, "train__no_wd": True},
        {"train__dtype": "bfloat16"},
        {"train__mode": "imperative"},
    ],
    ids=lambda more: "-".join(more) or "plain",
)
def test_jobs_learn_to_find_the_corners(tmp_path: Path, more: dict[str, Any]) -> None:
    draw(tmp_path / "data" / "train", 96, seed=2)
    draw(tmp_path / "data" / "valid", 24, seed=3)
    learning = {"train__epochs": 30, "train__batch_size": 16, "train__lr_decay_epoch": "20"}
    ended = fit(keys(tmp_path / "data", tmp_path / "out", **{**learning, **more}))
    assert ended.status == 0, ended.output
    annotated = rows_of(ended.json("valid_data_result.json"), "groundtruth")
    trivial = np.sqrt(((annotated - annotated.mean(axis=0)) ** 2).mean())
    assert ended.json("valid_data_result.json")["RMSE"] < 0.5 * trivial
