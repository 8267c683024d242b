"""Seconds that the ONNX files of a job take: to be written, and held against MXNet on 32 images.

    python3 benchmarks/proof.py [NETWORK ...]    # of NETWORKS

Parameters are random. MXNet's predictions of the images are there already, as a job's validation leaves them; those of
CenterNet's graph without the mirror image are not.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.runtimes import spread_center_net, spread_ssd, spread_yolov3

_IMAGES, _BATCH = 32, 4
_SPREAD = {"YOLOv3": spread_yolov3, "CenterNet": spread_center_net, "SSD": spread_ssd}


def networks() -> dict[str, tuple[Any, dict[str, Any], dict[str, Any]]]:
    """By name: task and configuration class, and the sections `model` and `train`."""
    from classification.config import ClassificationConfig
    from classification.task import ClassificationTask
    from detect.center_net.task import CenterNetTask
    from detect.config import CenterNetConfig, SSDConfig, YOLOv3Config
    from detect.ssd.task import SSDTask
    from detect.yolov3.task import YOLOv3Task

    scratch = {"pretrained_base": False}
    return {
        "YOLOv3 mobilenet1.0 416": (
            (YOLOv3Task, YOLOv3Config),
            {"base_network": "mobilenet1.0", "use_pretrained": False, "data_shape": [416, 416]},
            scratch,
        ),
        "SSD mobilenet1.0 300": ((SSDTask, SSDConfig), {"base_network": "mobilenet1.0"}, scratch),
        "SSD mobilenetv2_1.0_lite 300": (
            (SSDTask, SSDConfig),
            {"base_network": "mobilenetv2_1.0_lite"},
            scratch,
        ),
        "CenterNet resnet18_v1b 512": (
            (CenterNetTask, CenterNetConfig),
            {"base_network": "resnet18_v1b", "use_pretrained": False, "data_shape": [512, 512]},
            scratch,
        ),
        "classification mobilenet1.0 224": (
            (ClassificationTask, ClassificationConfig),
            {"base_network": "mobilenet1.0", "use_pretrained": False},
            {"input_width": 224, "input_height": 224},
        ),
    }


def measured(name: str, folder: Path, batch: int) -> dict[str, Any]:
    """Seconds of one network."""
    import mxnet as mx

    from common.config.reading import configuration
    from common.engine.graph import Inference, settle
    from common.engine.inference import DeviceInference
    from common.export.model_files import export_model
    from common.export.onnx.files import MIRRORED, PLAIN, Images, export_onnx
    from common.predictor import Predictor

    (kind, section), model_section, train = networks()[name]
    mx.random.seed(0)
    np.random.seed(0)
    values = {"log_dir": str(folder), "gpus": [], "model": model_section, "train": train}
    task = kind(configuration(section, values))
    model = task.build(["a", "b", "c"], [mx.cpu()], None)
    shape = task.shape
    settle(model.network, (1, 3, shape[1], shape[0]))
    for kind_of, spread in _SPREAD.items():
        if name.startswith(kind_of):
            spread(model.network, shape[0])
    export_model(model, task, folder, {"name": "none", "value": None, "epoch": None}, {})
    compute = DeviceInference(model.inference_block(), [mx.cpu()])
    predictor = Predictor(task.resize, shape, compute, task.decoder(model))
    predictors = {PLAIN: predictor}
    if MIRRORED in model.further_exports():
        plain = DeviceInference(Inference(model.network), [mx.cpu()])
        predictors = {PLAIN: Predictor(task.resize, shape, plain, task.decoder(model)), MIRRORED: predictor}
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (_IMAGES, shape[1], shape[0], 3)).astype(np.uint8)
    matrices = np.tile(np.eye(2, 3), (batch, 1, 1))
    batches = [(pixels[i : i + batch], matrices) for i in range(0, _IMAGES, batch)]
    images = Images([f"{i}.jpg" for i in range(_IMAGES)], batches, shape)
    known = {MIRRORED if MIRRORED in predictors else PLAIN: images.predicted(predictor)}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began, processor = time.perf_counter(), time.process_time()
    paths, problems = export_onnx(folder, predictors, images, known)
    return {
        "network": name,
        "files": len(paths),
        "seconds": round(time.perf_counter() - began, 2),
        "processor seconds": round(time.process_time() - processor, 2),
        "megabytes more at the peak": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10,
        "left out": problems,
    }


def main() -> None:
    """A line of JSON for each network, each in a process of its own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="*", metavar="NETWORK")
    parser.add_argument("--batch", type=int, default=_BATCH, help="images of a batch (default: %(default)s)")
    options = parser.parse_args()
    names = options.networks
    if len(names) == 1:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measured(names[0], Path(folder), options.batch)), flush=True)
        return
    for name in names or networks():
        subprocess.run([sys.executable, __file__, name, "--batch", str(options.batch)], check=True)


if __name__ == "__main__":
    main()
