"""A CenterNet job as a platform sees it: command line, progress over HTTP, files; each network once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common.engine.devices import bfloat16_supported
from common.training.checkpoint import read_checkpoint
from tests.helpers.detection_jobs import NAMES, subset
from tests.helpers.jobs import Ended, free_port
from tests.helpers.jobs import fit as run
from tests.helpers.strangers import outputs, prepared, reopened

pytestmark = pytest.mark.slow

WIDTH, HEIGHT = 96, 64


def fit(log_dir: Path, config: dict[str, Any], *options: str, **how: Any) -> Ended:
    values = {"log_dir": str(log_dir), "gpus": [], **config}
    return run("detect/fit_center_net.py", values, *options, **how)


def config(data: Path, **keys: Any) -> dict[str, Any]:
    """A job of seconds; keys: SECTION__KEY=value."""
    sections: dict[str, dict[str, Any]] = {
        "dataset": {
            "data_root": str(data),
            "train_dir": "detect_train",
            "valid_dir": "detect_valid",
            "classes": NAMES,
        },
        "model": {"base_network": "resnet18_v1b", "use_pretrained": False, "data_shape": [WIDTH, HEIGHT]},
        "train": {"num_workers": 2, "batch_size": 4, "epochs": 2, "pretrained_base": False},
        "valid": {"score_thresh": 0.01},
        "export": {"onnx": False},
    }
    for path, value in keys.items():
        section, _, key = path.partition("__")
        sections[section][key] = value
    return sections


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return subset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Ended:
    """One whole job with the default network that the tests below look at."""
    keys: dict[str, Any] = {
        "model__base_network": "resnet18_v1b_dcnv2",
        "train__epochs": 4,
        "valid__interval": 4,
    }
    return fit(
        tmp_path_factory.mktemp("job") / "out", config(data, **keys), linger=1, polled=True, fresh=True
    )


def exported(job: Ended, graph: str, image: str) -> list[np.ndarray]:
    """Ids, scores and boxes (in input pixels) of an exported graph for an image, and the map to its pixels."""
    card = job.json("model.json")
    pixels, back = prepared(card, image)
    return [*(output[0] for output in outputs(job.log_dir, card, pixels, graph)), back]


def differences(job: Ended, graph: str) -> list[float]:
    """How far the objects of the result file are from the nearest detection of a graph: pixels and score."""
    found = []
    for entry in job.json("valid_data_result.json")["Result"]:
        ids, scores, boxes, back = exported(job, graph, entry["image"])
        corners = boxes.reshape(-1, 2, 2) @ back[:, :2].T + back[:, 2]
        with Image.open(entry["image"]) as image:
            corners = np.clip(corners, 0, image.size).reshape(-1, 4)
        for each in entry["objects"]:
            box = np.array([float(value) for value in each["bbox"].split(", ")])
            apart = np.abs(corners - box).max(1) + 1e3 * np.abs(scores[:, 0] - float(each["score"]))
            found.append(float(apart[ids[:, 0] == int(each["id"])].min(initial=np.inf)))
    assert found
    return found


def test_a_whole_job_ends_well_and_leaves_its_files(job: Ended) -> None:
    assert job.status == 0, job.output
    names = {path.name for path in job.log_dir.iterdir()}
    assert names >= {
        "estimator.log",
        "center_net_resnet18_v1b_dcnv2_custom-symbol.json",
        "center_net_resnet18_v1b_dcnv2_custom-0000.params",
        "model.json",
        "best_checkpoint.pkl",
        "valid_data_result.json",
        "data_report.json",
        "status.json",
    }
    assert "test_data_result.json" not in names
    assert not [name for name in names if name.endswith(".part")]
    status = job.json("status.json")
    assert (status["state"], status["error"]) == ("finished", None)


def test_the_log_says_that_the_default_network_is_slow_on_a_cpu_and_what_to_choose(job: Ended) -> None:
    assert "deformable convolutions are slow to train on a CPU; resnet18_v1b has none" in job.log()


def test_progress_only_ever_grows(job: Ended) -> None:
    points = job.polls[-1][1]
    steps = [point[1] for point in points]
    assert sorted(set(steps)) == [1, 2, 10, 20, 30]
    assert steps == sorted(steps)
    for step in set(steps):
        fractions = [fraction for _, number, fraction in points if number == step]
        assert (fractions[0], fractions[-1]) == (0.0, 1.0)
        assert fractions == sorted(fractions)


def test_boxes_of_the_result_file_are_inside_of_the_original_image(job: Ended) -> None:
    result = job.json("valid_data_result.json")
    assert [next(iter(entry)) for entry in result["AP"]] == [*NAMES, "mAP"]
    widest = 0.0
    for entry in result["Result"]:
        for found in entry["objects"]:
            x1, y1, x2, y2 = (float(value) for value in found["bbox"].split(", "))
            assert 0 <= x1 < x2 <= 640
            assert 0 <= y1 < y2 <= 480
            widest = max(widest, x2)
    assert widest > WIDTH  # pixels of the original, not of the input


def test_the_exported_graph_with_the_mirror_gives_the_boxes_of_the_result_file(job: Ended) -> None:
    card = job.json("model.json")
    assert max(differences(job, card["flip_test"]["symbol"])) < 0.2
    # The one without it, which costs half, sees something else.
    assert max(differences(job, card["symbol"])) > 1


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Ended:
    """A job without deformable convolutions and without a look at the mirrored image."""
    log_dir = tmp_path_factory.mktemp("plain") / "out"
    return fit(log_dir, config(data, valid__flip_test=False, valid__nms_thresh="0.5"))


def test_without_flip_test_the_exported_model_gives_the_boxes_of_the_result_file(plain: Ended) -> None:
    assert plain.status == 0, plain.output
    card = plain.json("model.json")
    assert card["flip_test"]["symbol"] is None
    assert not list(plain.log_dir.glob("*flip*"))
    assert max(differences(plain, card["symbol"])) < 0.2


def test_iterative_training_takes_the_network_of_the_checkpoint_and_keeps_what_it_knows(
    job: Ended, tmp_path: Path, data: Path
) -> None:
    classes = ["WBC", "bacterium", "RBC"]
    for text in data.glob("*/*.txt"):  # the ids mean other names now; none is beyond them
        assert not any(line.startswith("3") for line in text.read_text().splitlines())
    wanted = config(data, dataset__classes=classes, train__lr=1e-12, train__epochs=1)
    wanted["model"] = {"base_network": "no such network", "data_shape": [32, 32]}
    ended = fit(tmp_path / "out", wanted, "--load", str(job.log_dir / "best_checkpoint.pkl"))
    assert ended.status == 0, ended.output
    assert "Classes known from before: WBC, RBC" in ended.log()
    assert "slow to train" in ended.log()
    given = ended.json("model.json")["input"]
    assert (given["width"], given["height"]) == (WIDTH, HEIGHT)
    before = read_checkpoint(job.log_dir / "best_checkpoint.pkl", "centernet")["parameters"]
    after = read_checkpoint(tmp_path / "out" / "best_checkpoint.pkl", "centernet")
    assert after["classes"] == classes
    assert after["model"]["base_network"] == "resnet18_v1b_dcnv2"
    name = "heads.0.2.weight"
    np.testing.assert_allclose(after["parameters"][name][[0, 2]], before[name][[1, 0]], atol=1e-5)
    np.testing.assert_allclose(after["parameters"]["heads.1.2.weight"], before["heads.1.2.weight"], atol=1e-5)


def test_missing_pretrained_parameters_of_the_default_are_named(tmp_path: Path, data: Path) -> None:
    environment = {
        "MXNET_HOME": str(tmp_path / "home"),
        "MXNET_GLUON_REPO": f"http://127.0.0.1:{free_port()}/",
    }
    wanted = config(data)
    wanted["model"] = {}
    ended = fit(tmp_path / "out", wanted, environment=environment)
    assert ended.status == 1
    assert "center_net_resnet18_v1b_dcnv2_coco-0874df9a.params" in ended.last_line
    assert str(tmp_path / "home" / "models") in ended.last_line


@pytest.mark.soak
def test_the_largest_network_goes_through_a_whole_job(tmp_path: Path, data: Path) -> None:
    """`test_centernet.py` trains all of them."""
    base_network = "resnet101_v1b_dcnv2"
    keys: dict[str, Any] = {"model__base_network": base_network, "model__data_shape": [64, 64]}
    ended = fit(tmp_path / "out", config(data, train__epochs=1, **keys))
    assert ended.status == 0, ended.output
    assert (tmp_path / "out" / f"center_net_{base_network}_custom-symbol.json").exists()


@pytest.mark.parametrize("base_network", ["resnet18_v1b", "resnet18_v1b_dcnv2"])
def test_mixed_precision_computes_differently_or_is_refused_where_the_processor_has_none(
    plain: Ended, tmp_path: Path, data: Path, base_network: str
) -> None:
    deformable = base_network.endswith("dcnv2")
    keys: dict[str, Any] = {"model__base_network": base_network, "valid__flip_test": False}
    mixed = fit(
        tmp_path / "mixed", config(data, model__amp=True, train__epochs=1 if deformable else 2, **keys)
    )
    if not bfloat16_supported():
        assert mixed.status == 1
        assert "model.amp: this processor has no bfloat16" in mixed.last_line
        return
    assert mixed.status == 0, mixed.output
    name = "heads.0.2.weight"
    found, exact = (
        read_checkpoint(ended.log_dir / "training_state.pkl", "centernet")["parameters"][name]
        for ended in (mixed, plain)
    )
    assert np.isfinite(found).all()
    assert deformable or (found != exact).any()


def test_the_model_opened_from_its_folder_gives_the_rows_of_the_result_file(job: Ended) -> None:
    written, again = reopened(job.log_dir)
    assert written
    assert again == [{key: row[key] for key in again[0]} for row in written]
