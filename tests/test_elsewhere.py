"""A model's ONNX files where none of the frameworks is: Python with requirements-onnx.lock alone, OpenVINO, ncnn.

`make test-elsewhere` makes the environments; what is not there is skipped.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from common.evaluate import main as evaluate
from common.trained import read_card
from tests.helpers.deployed_models import (
    PHOTO,
    SCORE,
    SIZE,
    Objects,
    agree,
    objects,
    output,
    printed,
    write_job,
)
from tests.helpers.detection_jobs import BLOOD_CELLS, ROOT

# ELSEWHERE names another folder of environments.
FOLDER = Path(os.environ.get("ELSEWHERE", ROOT / ".venv-elsewhere"))


def python(environment: str) -> Path:
    """The interpreter of an environment."""
    return FOLDER / environment / "bin" / "python"


def where_there(environment: str) -> pytest.MarkDecorator:
    """A test's mark that it needs an environment."""
    reason = f"{FOLDER.name}/{environment} is not installed: make test-elsewhere"
    return pytest.mark.skipif(not python(environment).exists(), reason=reason)


VERSIONS = [pytest.param(version, marks=where_there(version)) for version in ("3.10", "3.11", "3.12", "3.13")]
RUNTIMES = python("runtimes")


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector's log_dir."""
    folder = tmp_path_factory.mktemp("job")
    write_job(folder)
    return folder


@pytest.fixture(scope="module")
def wanted(job: Path, tmp_path_factory: pytest.TempPathFactory) -> Objects:
    """What MXNet finds on the photo."""
    return objects(job, tmp_path_factory.mktemp("out") / "mxnet", "mxnet")


@pytest.mark.parametrize("version", VERSIONS)
def test_predict_and_evaluate_need_no_framework(
    version: str, job: Path, wanted: Objects, tmp_path: Path
) -> None:
    interpreter = python(version)
    there = "import importlib.util as u; print([n for n in ('mxnet', 'gluoncv') if u.find_spec(n)])"
    assert output([interpreter, "-c", there]).strip() == "[]"
    agree(wanted, objects(job, tmp_path / "onnx", "auto", interpreter), 1e-4, 0.01)

    data = tmp_path / "set"
    data.mkdir()
    for image in sorted((BLOOD_CELLS / "detect_valid").glob("*.jpg"))[:4]:
        for path in (image, image.with_suffix(".txt")):
            os.link(path, data / path.name)
    words = ["--data", data, "--workers", "0"]
    output(
        [interpreter, "-m", "common.evaluate", read_card(job).onnx_file(), *words, "--out", tmp_path / "a"]
    )
    assert evaluate([str(word) for word in [job, *words, "--out", tmp_path / "b"]]) == 0
    figures = [
        re.search(r'"figures": {[^}]*}', (tmp_path / name / "evaluation.json").read_text()) for name in "ab"
    ]
    first, second = (
        [float(number) for number in re.findall(r": (-?[\d.e-]+)", found[0])] for found in figures if found
    )
    assert first == pytest.approx(second, abs=1e-3)
    assert first


@where_there("runtimes")
def test_openvino(job: Path, wanted: Objects) -> None:
    agree(wanted, printed([RUNTIMES, "docs/detect_openvino.py", read_card(job).onnx_file(), PHOTO, SCORE]))


@where_there("runtimes")
def test_ncnn(job: Path, wanted: Objects, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(next(job.glob("*-raw.onnx")).read_bytes())
    where = "import importlib.util as u; print(u.find_spec('pnnx').submodule_search_locations[0])"
    converter = Path(output([RUNTIMES, "-c", where]).strip()) / "pnnx"
    output([converter, tmp_path / "model.onnx", f"inputshape=[1,3,{SIZE[1]},{SIZE[0]}]", "fp16=0"])
    layers = tmp_path / "model.ncnn.param"
    layers.write_text(re.sub(r"^Resize( .*)", r"Interp\1 0=1 1=2.0 2=2.0", layers.read_text(), flags=re.M))
    agree(wanted, printed([RUNTIMES, "docs/detect_ncnn.py", layers, PHOTO, SCORE, job / "model.json"]))
