"""What benchmarks/gpu.py needs of a machine that has MXNet: graphs, batches, and what MXNet computes of them.

    python benchmarks/gpu_cases.py FOLDER [--rows 4]

Writes a file of less than 60 MB for each case: the graphs as JSON, the names and shapes of parameters (their values
follow from a seed, on every machine alike), a batch of images of tests/data/blood_cells as the task's loader makes it,
and losses and gradients of its first images on the CPU. Where PyTorch can be imported too (`make test-torch` makes such
a Python: .venv-torch) these are its own in float64, and how far MXNet's in float32 are from them is noted. That counts:
MXNet's BatchNorm on the CPU adds up a map in float32, number by number, which the fifty layers of an untrained network
turn into one part in a thousand of its loss.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from benchmarks.gpu import off, values_of
from common.config.reading import configuration
from common.data.samples import Sample
from common.engine.devices import load_mxnet
from common.images.decoding import probe
from common.loading.loader import Loader
from common.processes.pool import WorkerPool
from common.task import Inputs

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "tests" / "data" / "blood_cells" / "detect_train"
LARGEST = 60_000_000

#: Name of the case: script's task, what the configuration says beside the defaults, images of a batch.
Case = tuple[str, dict[str, Any], int]
CASES: dict[str, Case] = {
    "yolov3_darknet53_416": (
        "detect.yolov3.task:YOLOv3Task",
        {"model": {"use_pretrained": False, "data_shape": [416, 416]}, "train": {"pretrained_base": False}},
        64,
    ),
    "centernet_resnet18_dcnv2_512": (
        "detect.center_net.task:CenterNetTask",
        {"model": {"use_pretrained": False}, "train": {"pretrained_base": False}},
        32,
    ),
    "classification_resnet50_v1_224": (
        "classification.task:ClassificationTask",
        {"model": {"use_pretrained": False}, "train": {"optimizer": "sgd"}},
        128,
    ),
}


def samples(task: Any, count: int) -> list[Sample]:
    """Images with boxes, or with one of ten classes."""
    made = []
    for number, path in enumerate(sorted(IMAGES.glob("*.jpg"))):
        width, height = probe(str(path))
        if task.does == "detection":
            text = path.with_suffix(".txt").read_text().replace("，", ",")
            rows = [[float(part) for part in line.split(",")] for line in text.split()]
            annotation = np.array(rows, np.float32)
            annotation = annotation[annotation[:, 0] >= 0].reshape(-1, 5)
        else:
            annotation = np.array([number % 10], np.float32)
        made.append(Sample(str(path), width, height, annotation))
    return (made * (1 + count // len(made)))[:count]


def make(folder: Path, name: str, rows: int, cases: Mapping[str, Case] = CASES) -> Path:
    """Write a case. rows: images whose losses and gradients are computed here."""
    import mxnet as mx

    from common.engine.engine import OptimizerSettings
    from common.engine.mxnet_engine import MXNetEngine
    from common.engine.tracing import program
    from common.task import Model

    where, keys, batch_size = cases[name]
    kind = resolve_name(where)
    (base,) = kind.__orig_bases__
    config = configuration(base.__args__[0], {"log_dir": "out", "gpus": [], **keys})
    task = kind(config)
    classes = ["RBC", "WBC", "Platelets"] if task.does == "detection" else [str(i) for i in range(10)]
    model: Model = task.build(classes, [mx.cpu()], None)
    chosen = samples(task, batch_size)
    with (
        WorkerPool(0) as pool,
        Loader(
            chosen,
            model.with_targets(task.training_transform(chosen), chosen),
            pool,
            batch_size=batch_size,
            shapes=lambda epoch, number: task.shape,
            training=True,
        ) as loader,
    ):
        batch = next(iter(loader.epoch(0)))
        inputs = model.training_inputs(batch)
        split = [np.array(array) for array in inputs.split]
    recipe = task.recipe(on_gpu=False)
    blocks = model.blocks()
    described = program(blocks)
    parameters = {
        key: {
            "name": each.name,
            "own": list(each.own),
            "shape": list(each.value.shape),
            "trained": each.trained,
            "begins_at_0": each.begins_at_0,
            "lr_mult": each.lr_mult,
            "wd_mult": each.wd_mult,
        }
        for key, each in described.parameters.items()
    }
    values = values_of(parameters)
    by_own = {own: values[key] for key, each in described.parameters.items() for own in each.own}
    engine = MXNetEngine(blocks, [mx.cpu()], OptimizerSettings("sgd"))
    engine.set_parameters(by_own)
    engine.take([array[:rows] for array in split], inputs.shared)
    engine.forward()
    engine.backward()
    norms, losses = engine.norms(), engine.losses()
    truth = {"of": "MXNet's", "losses": 0.0, "gradients": 0.0}
    if importlib.util.find_spec("torch"):
        from benchmarks.kinks import by_torch

        valued = {key: replace(each, value=values[key]) for key, each in described.parameters.items()}
        first = Inputs([array[:rows] for array in split], inputs.shared)
        true_losses, gradients = by_torch(
            replace(described, parameters=valued), first, {}, held=True, dtype="float64"
        )
        true_norms = np.array([np.linalg.norm(gradient) for gradient in gradients]) / rows
        wrong = off(losses, norms, true_losses, true_norms)
        truth = {"of": "float64's", "losses": wrong[0], "gradients": wrong[1]}
        losses, norms = true_losses, true_norms
    document = {
        "training": described.training,
        "inputs": list(described.inputs),
        "inference": described.inference,
        "parameters": parameters,
        "optimizer": recipe.optimizer.name,
        "momentum": recipe.optimizer.momentum,
        "wd": recipe.optimizer.wd,
        "learning_rate": config.train.lr,
        "share": getattr(recipe.limit, "share", 0.0),
        "ema_decay": config.train.ema_decay,
        "rows": rows,
        "losses": losses.tolist(),
        "truth": truth,
        "names": [each.name for each in described.parameters.values() if each.trained],
    }
    arrays = {f"split{number}": array for number, array in enumerate(split)}
    arrays |= {f"shared{number}": np.asarray(array) for number, array in enumerate(inputs.shared)}
    path = folder / f"{name}.npz"
    np.savez_compressed(path, document=np.array(json.dumps(document)), norms=norms, **arrays)
    size = path.stat().st_size
    if size > LARGEST:
        raise SystemExit(f"{path}: {size / 1e6:.1f} MB; at most {LARGEST / 1e6:.0f} MB")
    print(
        f"{path}: {size / 1e6:.1f} MB, losses {np.round(losses, 3).tolist()}, {truth['of']}; MXNet's are off by "
        f"{truth['losses']:.1e}, its gradients by {truth['gradients']:.1e}",
        flush=True,
    )
    return path


def main(argv: Sequence[str] | None = None) -> None:
    """Write the cases that the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=4, help="images computed here")
    parser.add_argument("--only", nargs="*", default=list(CASES), choices=list(CASES))
    options = parser.parse_args(argv)
    options.folder.mkdir(parents=True, exist_ok=True)
    load_mxnet()
    for name in options.only:
        make(options.folder, name, options.rows)


if __name__ == "__main__":
    main()
