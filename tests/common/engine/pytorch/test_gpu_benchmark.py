"""benchmarks/gpu.py runs where nothing but PyTorch and NumPy is, and says how right what it computes is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed here; make test-torch has it")

from benchmarks.gpu_cases import ROOT, Case, make

SMALL: dict[str, Case] = {
    "classification": (
        "classification.task:ClassificationTask",
        {
            "model": {"base_network": "mobilenet0.25", "use_pretrained": False},
            "train": {"optimizer": "sgd", "input_width": 96, "input_height": 96},
        },
        4,
    ),
}
ALONE = """
import runpy, sys
for name in ("mxnet", "gluoncv", "cv2", "PIL", "simplejpeg", "pydantic", "tensorboard", "scipy", "onnx"):
    sys.modules[name] = None
sys.argv = ["gpu.py", *sys.argv[1:]]
runpy.run_path("benchmarks/gpu.py", run_name="__main__")
"""


def test_the_benchmark_for_gpus_needs_pytorch_alone_and_is_right_to_float32(tmp_path: Path) -> None:
    for name in SMALL:
        make(tmp_path, name, 4, SMALL)
    table = tmp_path / "table.md"
    options = ["--cpu", "--seconds", "0.1", "--precisions", "float32", "bfloat16", "--output", str(table)]
    ended = subprocess.run(
        [sys.executable, "-c", ALONE, str(tmp_path), *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in table.read_text().splitlines()
        if "|" in line
    ]
    for name in SMALL:
        single, half, theirs = (row for row in rows if row[0] == name)
        assert [single[1], half[1]] == ["float32", "bfloat16"]
        assert float(single[3]) > 0
        assert float(half[3]) > 0
        losses_off, gradients_off = map(float, single[6:])
        assert 0 < losses_off < 1e-4
        assert gradients_off < 1e-2
        assert "MXNet in float32 on the CPU, beside float64's" in theirs[1]
        assert 0 < float(theirs[6]) < 1e-3
    assert "its image libraries are not installed here" in table.read_text()
