"""A ReID job as a platform sees it, with known and with new identities, and what its keys do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import pytest

from common.config.network_names import embedding_dimension
from common.config.reading import configuration
from common.data.samples import Sample
from common.engine.mxnet_internals import named_parameters
from common.engine.parameters import parameters
from common.evaluator import Evaluation
from common.networks.base_networks import base_network, initialize
from common.training.checkpoint import read_checkpoint, write_checkpoint
from reid.config import ReIDConfig
from reid.metric import leave_one_out
from reid.task import ReIDModel, ReIDTask
from tests.helpers.classification_jobs import batch, draw, keys
from tests.helpers.estimators import by_recipe
from tests.helpers.jobs import Ended, fit
from tests.helpers.strangers import outputs, prepared, reopened

pytestmark = pytest.mark.slow

SCRIPT = "reid/fit_reid.py"
NAME = "mobilenet0.25"
NAMES = ["blue", "green", "red"]
CPU = [mx.cpu()]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    draw(folder / "train", NAMES, 6, seed=1)
    draw(folder / "valid", NAMES, 3, seed=2)
    draw(folder / "test", ["white", "blue"], 3, seed=3)
    return folder


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Ended:
    """One whole job that the tests below look at: known identities in validation, a new one in the test."""
    more = {"dataset__test_dir": "test", "train__epochs": 30, "train__lr": 0.01, "train__batch_size": 12}
    return fit(SCRIPT, keys(data, tmp_path_factory.mktemp("job") / "out", **more), fresh=True)


def task(data: Path = Path("data"), **more: Any) -> ReIDTask:
    return ReIDTask(configuration(ReIDConfig, keys(data, Path("out"), **more)))


def build(classes: list[str] = NAMES, checkpoint: dict[str, Any] | None = None, **more: Any) -> ReIDModel:
    mx.random.seed(0)
    np.random.seed(0)
    return task(**more).build(classes, CPU, checkpoint)


def losses(**more: Any) -> tuple[tuple[str, ...], np.ndarray]:
    """Names and means of the losses of a first step."""
    model = build(**more)
    found = by_recipe(task(**more), model).step(batch(), 0.001)
    assert found is not None
    return model.losses, found


def test_a_whole_job_leaves_its_files(job: Ended) -> None:
    assert job.status == 0, job.output
    names = {path.name for path in job.log_dir.iterdir()}
    assert names >= {
        f"reid_{NAME}-symbol.json",
        f"reid_{NAME}-0000.params",
        "model.json",
        "best_checkpoint.pkl",
        "valid_data_result.json",
        "test_data_result.json",
    }
    assert job.json("status.json")["best_metric"]["name"] == "accuracy"


def test_known_identities_have_accuracy_rows_and_retrieval(job: Ended) -> None:
    result = job.json("valid_data_result.json")
    rows = result["Result"]
    assert float(result["Accuray"]) == pytest.approx(np.mean([row["result"] == "True" for row in rows]))
    assert float(result["Accuray"]) > 0.6
    assert {row["class"] for row in rows} <= set(NAMES)
    assert result["Queries"] == 9
    assert 0 <= result["mAP"] <= 1
    assert len(result["Classes"]) == 3


def test_new_identities_have_retrieval_alone(job: Ended) -> None:
    result = job.json("test_data_result.json")
    rows = result["Result"]
    assert result["Accuray"] == str(float(np.mean([row["result"] == "True" for row in rows])))
    assert float(result["Accuray"]) == pytest.approx(result["Rank1"])
    assert result["Queries"] == 6
    assert [Path(row["image"]).parent.name for row in result["Result"]] == ["blue"] * 3 + ["white"] * 3
    assert {row["class"] for row in result["Result"]} <= {"blue", "white"}
    assert job.json("data_report.json")["test"]["samples_by_class"] == {"blue": 3, "white": 3}


def test_the_exported_model_gives_the_embeddings_behind_the_figures(job: Ended) -> None:
    card = job.json("model.json")
    assert card["outputs"][0]["shape"][1] == embedding_dimension(NAME)
    result = job.json("test_data_result.json")
    images = [prepared(card, row["image"])[0] for row in result["Result"]]
    (embeddings,) = outputs(job.log_dir, card, np.concatenate(images))
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-4)
    identities = np.unique([row["groundtruth"] for row in result["Result"]], return_inverse=True)[1]
    found = leave_one_out(embeddings, identities)
    assert found.rank1 == pytest.approx(result["Rank1"])
    assert found.mean_average_precision == pytest.approx(result["mAP"], abs=0.02)


def test_the_model_opened_from_its_folder_embeds(job: Ended) -> None:
    written, again = reopened(job.log_dir)
    assert again == [{"image": row["image"]} for row in written]


@pytest.mark.slow
def test_iterative_training_and_validation_on_new_identities(job: Ended, data: Path, tmp_path: Path) -> None:
    draw(tmp_path / "data" / "train", ["white", "red"], 3)
    draw(tmp_path / "data" / "valid", ["green", "blue"], 3)
    values = keys(tmp_path / "data", tmp_path / "out", train__epochs=1, train__lr=1e-9)
    ended = fit(SCRIPT, values, "--load", str(job.log_dir / "best_checkpoint.pkl"))
    assert ended.status == 0, ended.output
    assert "Classes known from before: red" in ended.log()
    assert ended.json("status.json")["best_metric"]["name"] == "rank1"
    assert ended.json("status.json")["best_metric"]["value"] == pytest.approx(
        ended.json("valid_data_result.json")["Rank1"], abs=1e-3
    )
    before = read_checkpoint(job.log_dir / "best_checkpoint.pkl", "reid")["parameters"]
    after = read_checkpoint(tmp_path / "out" / "best_checkpoint.pkl", "reid")["parameters"]
    np.testing.assert_allclose(after["output.weight"][0], before["output.weight"][2], atol=1e-6)


def test_the_metric_is_accuracy_only_where_validation_has_trainings_identities(data: Path) -> None:
    made, model = task(data), build()

    def metric(identities: list[int]) -> str:
        valid = [Sample(f"{i}.jpg", 8, 8, np.array([i], np.float32)) for i in identities]
        return made.evaluator(model, valid).metric

    assert metric([]) == metric([0, 0, len(NAMES) - 1]) == "accuracy"
    assert metric([0, len(NAMES)]) == "rank1"


def test_of_equal_rank_1_the_better_map_is_better(data: Path) -> None:
    made, model = task(data), build()
    samples = [Sample(f"{i}.jpg", 8, 8, np.array([i], np.float32)) for i in (5, 5, 5, 6, 6, 6)]
    width = model.network.output.weight.shape[1]

    def found(angles: list[float]) -> Evaluation:
        rows = np.zeros((6, len(NAMES) + width), np.float32)
        rows[:, len(NAMES)], rows[:, len(NAMES) + 1] = np.cos(angles), np.sin(angles)
        return made.evaluator(model, samples).evaluate(samples, list(rows))

    apart, astray, mixed = (
        found([0, 0.1, 0.2, 1, 1.1, 1.2]),
        found([0, 0.1, 0.9, -0.3, -0.35, -0.4]),
        found([0, 0.1, 0.9, 1.1, 1.2, 1.35]),
    )
    assert (apart.value, astray.value, mixed.value) == (1.0, 1.0, pytest.approx(5 / 6))
    assert apart.tie_break > astray.tie_break
    assert (apart.tie_break == 1.0, apart.unsettled, astray.unsettled) == (True, False, True)


def test_batches_hold_several_images_of_each_identity() -> None:
    samples = [Sample(f"{i}.jpg", 8, 8, np.array([i % 5], np.float32)) for i in range(40)]
    ordered = task().recipe(on_gpu=False).order
    assert ordered is not None
    order = ordered(samples)
    first, other = (order(epoch, np.random.default_rng(0)) for epoch in (0, 1))
    for start in range(0, len(first), 8):
        _, counts = np.unique(first[start : start + 8] % 5, return_counts=True)
        assert counts.tolist() == [4, 4]
    assert first.tolist() != other.tolist()
    assert task(train__mixup=True).recipe(on_gpu=False).order is None


def test_the_keys_of_classification_hold_here_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = build(train__seed=1)
    content = {
        "classes": NAMES,
        "model": teacher.description(),
        "parameters": parameters(teacher.network),
    }
    write_checkpoint(tmp_path / "teacher.pkl", "reid", content)
    names, plain = losses()
    assert names == ("loss", "cross_entropy", "triplet")
    assert losses(train__label_smoothing=True)[1][1] != pytest.approx(plain[1], rel=1e-5)
    assert losses(train__mixup=True)[0] == ("loss",)
    np.testing.assert_allclose(losses(train__mode="imperative")[1], plain, rtol=1e-3)
    names, taught = losses(train__teacher=str(tmp_path / "teacher.pkl"), train__hard_weight=0.25)
    assert names == ("loss", "cross_entropy", "teacher", "triplet")
    assert taught[0] == pytest.approx(0.25 * taught[1] + 0.75 * taught[2] + taught[3], rel=1e-4)
    imagenet = base_network(NAME, 1000)
    initialize(imagenet, CPU)
    (tmp_path / "models").mkdir()
    imagenet.save_parameters(str(tmp_path / "models" / f"{NAME}.params"))
    monkeypatch.setenv("MXNET_HOME", str(tmp_path))
    assert losses(train__teacher=NAME)[0] == names


def test_pretrained_layers_the_neck_and_the_head_learn_at_their_rates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = base_network(NAME, 7)
    initialize(source, CPU)
    (tmp_path / "models").mkdir()
    source.save_parameters(str(tmp_path / "models" / f"{NAME}.params"))
    monkeypatch.setenv("MXNET_HOME", str(tmp_path))
    named = named_parameters(build(model__use_pretrained=True).network)
    rates = {name.split(".")[0]: parameter.lr_mult for name, parameter in named.items()}
    assert rates == {"features": 0.01, "neck": 0.1, "output": 0.1}
