"""The ONNX files of a job: proven on images, left out where they differ, and used without MXNet."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


from classification.config import ClassificationConfig
from classification.task import ClassificationTask
from common.config.reading import configuration
from common.engine.graph import Inference, settle
from common.engine.inference import DeviceInference
from common.engine.onnx_inference import OnnxInference
from common.engine.parameter_file import read_parameter_file, write_parameter_file
from common.errors import ModelError
from common.export.__main__ import main as export_command
from common.export.model_files import export_model
from common.export.onnx import variants
from common.export.onnx.files import MIRRORED, PLAIN, Images, export_onnx
from common.export.onnx.heads import Written
from common.export.onnx.proof import chosen, compare
from common.export.outputs import remove_outputs
from common.predictor import Predictor
from common.trained import open_compute, open_predictor, read_card
from landmark.config import LandmarkConfig
from landmark.task import LandmarkTask
from reid.config import ReIDConfig
from reid.task import ReIDTask
from tests.helpers import jobs
from tests.helpers.centernet_models import CPU, settled, task

WORDS = (
    "names",
    "task",
    "width",
    "height",
    "mean",
    "std",
    "resize",
    "score_thresh",
    "best_thresh",
    "version",
)


def images(count: int = 6, seed: int = 1) -> Images:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (count, 64, 64, 3)).astype(np.uint8)
    matrices = np.tile(np.array([[2.0, 0, 0], [0, 3.0, 0]]), (count, 1, 1))
    batches = [(pixels[part], matrices[part]) for part in (slice(0, 2), slice(2, count))]
    return Images([f"{i}.jpg" for i in range(count)], batches, (64, 64))


def center_net(folder: Path, flip_test: bool) -> dict[str, Predictor]:
    """A CenterNet as its job leaves it, and MXNet's predictors of its graphs."""
    made = task(flip_test=flip_test)
    model = settled(flip_test=flip_test)
    export_model(model, made, folder, {"name": "mAP", "value": 0.5, "epoch": 1}, {})
    predictor = Predictor(
        made.resize, (64, 64), DeviceInference(model.inference_block(), CPU), made.decoder(model)
    )
    plain = replace(predictor, compute=DeviceInference(Inference(model.network), CPU))
    return {PLAIN: plain, MIRRORED: predictor}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Predictor]]:
    folder = tmp_path_factory.mktemp("job")
    predictors = center_net(folder, flip_test=True)
    paths, problems = export_onnx(folder, predictors, images())
    assert problems == []
    ends = [".onnx", "-raw.onnx", "-plain.onnx", "-plain-raw.onnx"]
    assert [path.name.rpartition("custom")[2] for path in paths] == ends
    return folder, predictors


@pytest.fixture
def plain(exported: tuple[Path, dict[str, Predictor]], tmp_path: Path) -> Predictor:
    """MXNet's predictor of a job in tmp_path that did not look at the mirror image, and has no ONNX files yet."""
    folder, predictors = exported
    card = json.loads((folder / "model.json").read_text())
    for name in ("flip_test", "onnx"):
        del card[name]
    (tmp_path / "model.json").write_text(json.dumps(card))
    for name in (card["symbol"], card["params"]):
        shutil.copy(folder / name, tmp_path)
    return predictors[PLAIN]


def test_predictions_that_are_known_are_not_made_again(plain: Predictor, tmp_path: Path) -> None:
    known = images().predicted(plain)

    def never(pixels: np.ndarray) -> list[np.ndarray]:
        raise AssertionError

    unused = {PLAIN: replace(plain, compute=never)}
    assert export_onnx(tmp_path, unused, images(), {PLAIN: known})[1] == []
    known[5] = known[5] * [1, 0.5, 1, 1, 1, 1]
    _, problems = export_onnx(tmp_path, unused, images(), {PLAIN: known})
    assert problems
    assert all("predictions are not MXNet's: 5.jpg" in problem for problem in problems)


def test_what_was_found_stands_in_the_card(exported: tuple[Path, Any]) -> None:
    card = json.loads((exported[0] / "model.json").read_text())
    assert len(card["onnx"]["files"]) == 4
    for name, entry in card["onnx"]["files"].items():
        assert name in card["files"]
        assert (entry["opset"], entry["images"]) == (11, 6)
        assert 0 < entry["largest_difference"]["score"] < 1e-4
        assert 0 < entry["largest_difference"]["edge"] < 1e-2


def test_a_file_says_itself_how_it_is_used(exported: tuple[Path, Any]) -> None:
    card = read_card(exported[0])
    for path in exported[0].glob("*.onnx"):
        said = onnxruntime.InferenceSession(str(path)).get_modelmeta().custom_metadata_map
        values = {name: json.loads(text) for name, text in said.items()}
        assert set(WORDS) <= set(values)
        assert values["names"] == card.classes
        assert (values["task"], values["width"], values["height"]) == ("centernet", 64, 64)
        assert values["resize"] == card.content["resize"]
        assert values["score_thresh"] == 0.3
        assert ("nms" in values) == path.stem.endswith("-raw")


@pytest.mark.parametrize("suffix", ["", "-raw", "-plain", "-plain-raw"])
def test_a_file_alone_predicts_what_the_model_does(exported: tuple[Path, Any], suffix: str) -> None:
    folder, predictors = exported
    path = folder / f"{read_card(folder).name}{suffix}.onnx"
    card = read_card(path)
    predictor = open_predictor(card, open_compute(card), card.reading())
    assert isinstance(predictor.compute, OnnxInference)
    wanted = images(3, seed=7).predicted(predictors[PLAIN if "plain" in suffix else MIRRORED])
    found = images(3, seed=7).predicted(predictor)
    result = compare("centernet", ["a", "b", "c"], wanted, found, 0.3)
    assert sum(int((rows[:, 1] > 0.3).sum()) for rows in wanted) > 10
    assert result.differs is None


def test_the_engine_is_chosen_by_the_caller(exported: tuple[Path, Any]) -> None:
    folder, _ = exported
    card = read_card(folder)
    assert isinstance(open_compute(card, "onnx"), OnnxInference)
    assert isinstance(open_compute(card, "auto", []), DeviceInference)
    with pytest.raises(ModelError, match="is ONNX; the engine for it is onnx"):
        open_compute(read_card(card.onnx_file()), "mxnet")


def test_a_file_with_one_other_weight_is_not_left(plain: Predictor, tmp_path: Path) -> None:
    card = read_card(tmp_path)
    (tmp_path / f"{card.name}.onnx").write_text("of an earlier job")
    values = {f"arg:{name}": array.copy() for name, array in read_parameter_file(card.file("params")).items()}
    name = next(name for name in values if name.endswith("conv0_weight"))
    values[name].reshape(-1)[5] += 1
    write_parameter_file(card.file("params"), values)
    paths, problems = export_onnx(tmp_path, {PLAIN: plain}, images())
    assert paths == []
    assert not list(tmp_path.glob("*.onnx"))
    names = [f"{card.name}{suffix}.onnx" for suffix in ("", "-raw")]
    for name, problem in zip(names, problems, strict=True):
        assert re.fullmatch(
            re.escape(f"{name} is left out: predictions are not MXNet's: 0.jpg: ")
            + r"\d+ detections of MXNet's missing, the best with score 0\.\d+",
            problem,
        )
    entries = json.loads((tmp_path / "model.json").read_text())["onnx"]["files"]
    assert all("predictions are not MXNet's" in entry["left_out"] for entry in entries.values())
    with pytest.raises(ModelError, match="predictions are not MXNet's"):
        open_compute(read_card(tmp_path), "onnx")


def change_weight(model: onnx.ModelProto) -> None:
    weight = max(model.graph.initializer, key=lambda each: len(each.raw_data))
    values = onnx.numpy_helper.to_array(weight).copy()
    values.reshape(-1)[5] += 1
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))


def change_order(model: onnx.ModelProto) -> None:
    """The worst detections instead of the best."""
    node = next(node for node in model.graph.node if node.op_type == "TopK")
    next(each for each in node.attribute if each.name == "largest").i = 0


def change_scale(model: onnx.ModelProto) -> None:
    """Boxes of another size."""
    node = next(node for node in reversed(model.graph.node) if node.op_type == "Mul")
    node.op_type = "Div"


@pytest.mark.parametrize(
    ("which", "change"),
    [("", change_weight), ("-raw", change_weight), ("", change_order), ("-raw", change_scale)],
)
def test_of_two_files_the_one_is_left_out_that_computes_something_else(
    which: str,
    change: Callable[[Any], None],
    plain: Predictor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = Written.model

    def altered(self: Written, metadata: Mapping[str, str], version: str) -> onnx.ModelProto:
        model = written(self, metadata, version)
        if (self.suppression is not None) == (which == "-raw"):
            change(model)
        return model

    monkeypatch.setattr(Written, "model", altered)
    paths, problems = export_onnx(tmp_path, {PLAIN: plain}, images())
    name = read_card(tmp_path).name
    assert [path.name for path in paths] == [f"{name}{'' if which else '-raw'}.onnx"]
    assert len(problems) == 1
    assert problems[0].startswith(f"{name}{which}.onnx is left out: predictions are not MXNet's: ")


def test_a_graph_with_an_unknown_operator_is_left_out_by_name(plain: Predictor, tmp_path: Path) -> None:
    name, symbol = read_card(tmp_path).name, read_card(tmp_path).file("symbol")
    symbol.write_text(symbol.read_text().replace('"op": "Convolution"', '"op": "Correlation"', 1))
    _, problems = export_onnx(tmp_path, {PLAIN: plain}, images())
    assert len(problems) == 1  # one reason for both
    assert problems[0].startswith(f"{name}.onnx, {name}-raw.onnx are left out: ")
    assert "the operator Correlation cannot be exported" in problems[0]


def test_a_new_job_removes_the_files(exported: tuple[Path, Any], tmp_path: Path) -> None:
    for path in exported[0].iterdir():
        os.link(path, tmp_path / path.name)
    remove_outputs(tmp_path, "another", [], keep_state=False)
    assert not list(tmp_path.glob("*.onnx"))


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"no model", "no ONNX model that can be read"), (b"", "no ONNX model that can be read")],
)
def test_what_is_no_model_is_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=said) as error:
        read_card(path)
    assert "\n" not in str(error.value)


def test_another_project_s_file_is_told_by_what_it_lacks(tmp_path: Path) -> None:
    import onnx

    value = onnx.helper.make_tensor_value_info("x", 1, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", [value], [
        onnx.helper.make_tensor_value_info("y", 1, [1])
    ])  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 11)], ir_version=6)
    path = tmp_path / "x.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="its metadata has no 'names'"):
        read_card(path)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("width", '"wide"', "width, height, mean, std or nms are not those of a model"),
        ("mean", "[0.5]", "width, height, mean, std or nms are not those of a model"),
        ("std", "0.5", "width, height, mean, std or nms are not those of a model"),
        ("nms", '{"overlaps": 0.5}', "width, height, mean, std or nms are not those of a model"),
        ("height", "0", "its metadata is not that of a model"),
        ("resize", "{}", "its metadata is not that of a model"),
        ("names", "3", "its metadata is not that of a model"),
        ("names", '["a", "b", "c"]', "its 2 classes have 3 names in its metadata"),
        ("task", '"segmentation"', "task is 'segmentation'; known are"),
        ("names", "[", "its metadata is no JSON"),
    ],
)
def test_metadata_of_no_use_are_told_before_anything_is_computed(
    exported: tuple[Path, Any], tmp_path: Path, key: str, value: str, said: str
) -> None:
    said_of = OnnxInference(exported[0] / f"{read_card(exported[0]).name}-raw.onnx").metadata
    ends = {
        name: onnx.helper.make_tensor_value_info(name, 1, ["batch", 8, length])
        for name, length in (("data", 4), ("more", 2), ("boxes", 4), ("scores", 2))
    }
    nodes = [onnx.helper.make_node("Identity", [x], [y]) for x, y in (("data", "boxes"), ("more", "scores"))]
    graph = onnx.helper.make_graph(nodes, "g", [ends["data"], ends["more"]], [ends["boxes"], ends["scores"]])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 11)], ir_version=6)
    texts = {**{name: json.dumps(each) for name, each in said_of.items()}, key: value}
    onnx.helper.set_model_props(model, texts)
    path = tmp_path / "x.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=re.escape(said)) as error:
        read_card(path)
    assert "\n" not in str(error.value)


def test_samples_for_the_proof_come_from_all_over_the_set() -> None:
    assert chosen(range(10)) == list(range(10))
    many = chosen(range(100))
    assert len(many) == 32
    assert many[-1] > 90


@pytest.fixture
def job(exported: tuple[Path, Any], tmp_path: Path) -> tuple[Path, dict[str, Predictor]]:
    """A copy of the job, and a set beside it whose objects are what the model finds on it."""
    folder = tmp_path / "job"
    folder.mkdir()
    for path in exported[0].iterdir():
        os.link(path, folder / path.name)
    place = tmp_path / "set"
    place.mkdir()
    wanted = images(6).predicted(exported[1][PLAIN])
    pixels = np.concatenate([batch for batch, _ in images(6).batches])
    for number, (image, rows) in enumerate(zip(pixels, wanted, strict=True)):
        Image.fromarray(image).save(place / f"{number}.png")
        scale = np.array([2, 3, 2, 3])  # what `images` makes of pixels of the input
        lines = [
            f"{int(row[0])},{','.join(f'{edge:.2f}' for edge in np.clip(row[2:] / scale, 0, 64))}"
            for row in rows
            if row[1] > 0.5
        ]
        (place / f"{number}.txt").write_text("\n".join(lines) or "-1,-1,-1,-1,-1")
    return folder, exported[1]


@pytest.mark.parametrize(
    ("options", "suffix", "kinds"),
    [
        (["--uint8"], "-uint8", ["-plain"]),
        (["--uint8", "nchw"], "-uint8", ["-raw"]),
        (["--half", "--uint8"], "-half-uint8", ["", "-raw", "-plain", "-plain-raw"]),
    ],
)
def test_other_forms_of_a_file_predict_the_same(
    job: tuple[Path, dict[str, Predictor]], options: list[str], suffix: str, kinds: list[str]
) -> None:
    folder, predictors = job
    name = read_card(folder).name
    model = folder if len(kinds) == 4 else folder / f"{name}{kinds[0]}.onnx"
    assert export_command([str(model), *options]) == 0
    for kind in kinds:
        path = folder / f"{name}{kind}{suffix}.onnx"
        size = path.stat().st_size / (folder / f"{name}{kind}.onnx").stat().st_size
        assert (0.49 < size < 0.52) if "half" in suffix else (0.99 < size < 1.01)
        listed = json.loads((folder / "model.json").read_text())["files"]
        assert (path.name in listed) == (model == folder)
        card = read_card(path)
        found = images(3).predicted(open_predictor(card, open_compute(card), card.reading()))
        wanted = images(3).predicted(predictors[PLAIN if "plain" in kind else MIRRORED])
        if "half" not in suffix:
            assert len(found[0]) == len(wanted[0])
            assert compare("centernet", ["a", "b", "c"], wanted, found, 0.3).differs is None
        else:
            for one, other in zip(wanted, found, strict=True):
                assert np.abs(one[:20, 1] - other[:20, 1]).max() < 0.05


def test_a_file_of_another_form_is_told_from_the_one_that_a_job_wrote(
    job: tuple[Path, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    path = job[0] / f"{read_card(job[0]).name}-raw.onnx"
    assert export_command([str(path), "--half", "--uint8"]) == 0
    made = path.with_name(f"{path.stem}-half-uint8.onnx")
    assert OnnxInference(made).metadata["form"] == "half-uint8"
    assert export_command([str(made), "--half"]) == 3
    assert f"{made} is of another form already" in capsys.readouterr().err


@pytest.mark.slow
def test_eight_bits_are_refused_where_they_lose_too_much(
    job: tuple[Path, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, data = job[0], job[0].parent / "set"
    path = folder / f"{read_card(folder).name}-plain-raw.onnx"
    made: list[onnx.ModelProto] = []  # quantising is what takes the time
    quantise = variants.with_whole_numbers
    monkeypatch.setattr(
        variants,
        "with_whole_numbers",
        lambda model, batches: made[0] if made else made.append(quantise(model, batches)) or made[0],
    )
    assert export_command([str(path), "--int8", str(data)]) == 3
    assert "by more than two points; nothing is written" in capsys.readouterr().err
    assert not list(folder.glob("*int8*"))
    assert export_command([str(path), "--int8", str(data), "--uint8", "--force"]) == 0
    written = folder / f"{path.stem}-int8-uint8.onnx"
    said = OnnxInference(written).metadata["int8"]
    assert said["metric"] == "mAP"
    assert said["before"] - 0.02 > said["after"]
    assert written.stat().st_size < 0.4 * path.stat().st_size


def test_files_are_written_anew_from_the_models_own(job: tuple[Path, Any]) -> None:
    folder, data = job[0], job[0].parent / "set"
    (folder / "valid_data_result.json").write_text(
        json.dumps({"Result": [{"image": str(path)} for path in [*sorted(data.glob("*.png")), "gone.png"]]})
    )
    for path in folder.glob("*.onnx"):
        path.unlink()
    assert export_command([str(folder), "--onnx"]) == 0
    assert len(list(folder.glob("*.onnx"))) == 4
    entries = json.loads((folder / "model.json").read_text())["onnx"]["files"]
    assert all(entry["images"] == 6 for entry in entries.values())


@pytest.mark.parametrize("kind", [ClassificationTask, ReIDTask, LandmarkTask])
def test_files_of_any_task_are_written_anew(kind: Any, tmp_path: Path) -> None:
    section = {ClassificationTask: ClassificationConfig, ReIDTask: ReIDConfig, LandmarkTask: LandmarkConfig}[
        kind
    ]
    values: dict[str, Any] = {
        "log_dir": str(tmp_path),
        "gpus": [],
        "model": {"base_network": "mobilenet0.25", "use_pretrained": False},
        "train": {"input_width": 48, "input_height": 32},
    }
    if kind is LandmarkTask:
        values["dataset"] = {"num_joints": 2}
    made = kind(configuration(section, values))
    model = made.build([] if kind is LandmarkTask else ["a", "b"], CPU, None)
    if kind is ClassificationTask:
        settle(model.network, (1, 3, 32, 48))
    export_model(model, made, tmp_path, {"name": made.name, "value": 0.5, "epoch": 1}, {})
    rows = []
    for number, pixels in enumerate(images().batches[1][0]):
        rows.append({"image": str(tmp_path / f"{number}.png")})
        Image.fromarray(pixels).save(rows[-1]["image"])
    (tmp_path / "valid_data_result.json").write_text(json.dumps({"Result": rows}))
    assert export_command([str(tmp_path), "--onnx"]) == 0
    (entry,) = json.loads((tmp_path / "model.json").read_text())["onnx"]["files"].values()
    assert entry["images"] == len(rows)


@pytest.mark.slow
def test_deformable_convolutions_are_onnxs_own_where_that_is_asked_for(tmp_path: Path) -> None:
    made, model = (make({"base_network": "resnet18_v1b_dcnv2"}, flip_test=False) for make in (task, settled))
    export_model(model, made, tmp_path, {"name": "mAP", "value": 0.5, "epoch": 1}, {})
    image = tmp_path / "a.png"
    Image.fromarray(images().batches[0][0][0]).save(image)
    (tmp_path / "valid_data_result.json").write_text(json.dumps({"Result": [{"image": str(image)}]}))
    assert export_command([str(tmp_path), "--onnx", "--deform"]) == 0
    paths = list(tmp_path.glob("*.onnx"))
    assert len(paths) == 2
    for path in paths:
        model = onnx.load(str(path))
        assert "DeformConv" in {node.op_type for node in model.graph.node}
        assert [entry.version for entry in model.opset_import] == [19]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "nothing to do"),
        (["--half", "--deform"], "--deform: it is for --onnx"),
        (["--onnx", "--deform"], "has no deformable convolution"),
        (["--int8", "nowhere"], "--int8: nowhere is not a folder"),
        (["--onnx"], "no image of its result files is there"),
    ],
)
def test_what_cannot_be_exported_is_one_line(
    job: tuple[Path, Any], options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export_command([str(job[0]), *options]) != 0
    error = capsys.readouterr().err.strip().splitlines()
    assert said in error[-1]


def test_what_differs_reads_as_english() -> None:
    rows, none = np.array([BOX, [0, 0.8, 60, 60, 90, 90]], np.float64), np.zeros((0, 6))
    for wanted, found, said in (
        (rows, rows[1:], "x.jpg: 1 detection of MXNet's missing, the best with score 0.9"),
        (rows, none, "x.jpg: 2 detections of MXNet's missing, the best with score 0.9"),
        (none, rows, "x.jpg: 2 detections that MXNet does not make, the best with score 0.9"),
    ):
        assert compare("yolov3", ["x.jpg"], [wanted], [found], 0.3, overlap=0.45).differs == said


Rows = list[list[float]]
BOX = [0, 0.9, 10, 10, 50, 50]


@pytest.mark.parametrize(
    ("wanted", "found", "same"),
    [
        ([BOX], [[0, 0.90001, 10, 10, 50, 50.001]], True),
        ([BOX], [[0, 0.9, 10, 10, 50, 51]], False),
        # A thousandth of the longer side is rounding, as it is of a score.
        ([[0, 0.9, -242.3, 217.1, 843.7, 246.8]], [[0, 0.9, -242.6, 217.1, 844.0, 246.8]], True),
        ([[0, 0.9, -242.3, 217.1, 843.7, 246.8]], [[0, 0.9, -243.5, 217.1, 844.9, 246.8]], False),
        ([BOX], [[0, 0.902, 10, 10, 50, 50]], False),
        ([BOX], [[1, 0.9, 10, 10, 50, 50]], False),
        ([BOX], [], False),
        ([], [BOX], False),
        ([BOX], [BOX, BOX], False),
        ([BOX, [0, 0.3005, 1, 1, 5, 5]], [BOX], True),  # at the threshold
        ([BOX, [0, 0.2, 1, 1, 5, 5]], [BOX], True),  # below it
        # One suppresses the other, or does not: their IoU is that of the suppression.
        ([[0, 0.9, 0, 0, 20, 10], [0, 0.8, 0, 0, 9, 10]], [[0, 0.9, 0, 0, 20, 10]], True),
        ([[0, 0.9, 0, 0, 20, 10], [0, 0.8, 0, 0, 7, 10]], [[0, 0.9, 0, 0, 20, 10]], False),
    ],
)
def test_detections_above_the_threshold_must_be_the_same(wanted: Rows, found: Rows, same: bool) -> None:
    rows = [np.array(each, np.float64).reshape(-1, 6) for each in (wanted, found)]
    assert (compare("yolov3", ["x"], [rows[0]], [rows[1]], 0.3, overlap=0.45).differs is None) == same


@pytest.mark.parametrize("task_name", ["classification", "reid", "landmark"])
def test_other_predictions_must_be_the_same_too(task_name: str) -> None:
    prediction = np.array([[0.2, 0.8], [0.5, 0.5]]) if task_name == "landmark" else np.array([0.2, 0.8])
    for change, same in ((1e-6, True), (0.1, False), (float("nan"), False)):
        other = prediction.copy()
        other.reshape(-1)[0] += change
        assert (compare(task_name, ["x"], [prediction], [other]).differs is None) == same


HIDDEN = """from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *more: None if name == "onnx" else find(name, *more)"""


@pytest.mark.slow
def test_a_job_writes_them_unless_told_otherwise_or_onnx_is_not_installed(tmp_path: Path) -> None:
    data = jobs.make_data(tmp_path / "data", train=4, valid=17)
    said = {}
    for name, export, before in (
        ("with", {}, ""),
        ("without", {"onnx": False}, ""),
        ("absent", {}, HIDDEN),
    ):
        values = jobs.config("landmark", tmp_path / name, data, epochs=1, lr_decay_epoch="")
        ended = jobs.fit(jobs.SCRIPTS["landmark"], {**values, "export": export}, before=before)
        assert ended.status == 0, ended.output
        said[name] = (tmp_path / name / "estimator.log").read_text()
    assert [path.name for path in (tmp_path / "with").glob("*.onnx")] == ["landmark_mobilenet0.25.onnx"]
    card = json.loads((tmp_path / "with" / "model.json").read_text())
    assert card["onnx"]["files"]["landmark_mobilenet0.25.onnx"]["images"] == 32
    for name in ("without", "absent"):
        assert not list((tmp_path / name).glob("*.onnx"))
        assert "onnx" not in json.loads((tmp_path / name / "model.json").read_text())
    told = "No ONNX files are written, for want of onnx"
    assert [told in said[name] for name in ("with", "without", "absent")] == [False, False, True]


def test_predicting_by_onnx_imports_neither_framework(exported: tuple[Path, Any]) -> None:
    code = (
        "import sys, numpy\n"
        "from pathlib import Path\n"
        "from common.trained import open_compute, read_card\n"
        "card = read_card(Path(sys.argv[1]))\n"
        "card.reading()\n"
        "open_compute(card, 'onnx')(numpy.zeros((1, 64, 64, 3), numpy.uint8))\n"
        "print([name for name in ('mxnet', 'gluoncv', 'onnx') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(exported[0])], cwd=jobs.ROOT, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]", done.stderr
