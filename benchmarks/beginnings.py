"""Whether gradients of networks with random parameters hold for the length of a step, for benchmarks/QUALITY.md.

    python benchmarks/beginnings.py FOLDER [--size 96] [--images 8] [--change 0.002]

FOLDER holds the open set microcontroller. Of its first training images the gradient is computed, every weight is
changed at random by `--change` of its norm, and the gradient is computed again. Printed are the mean cosines between
the two, over the weights of the backbone and over all others, for networks whose BatchNorms begin with a beta of 0, as
layers do, and as the project lets them begin (`common.engine.initializers.begin_nearly_linear`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.quality import images_of
from common.engine.devices import load_mxnet

NETWORKS = {"yolov3": ("mobilenet1.0", "darknet53"), "centernet": ("resnet18_v1b",)}
CLASSES = 4
ROWS = 16


def batch(folder: Path, size: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (count, size, size, 3), stretched, and their boxes (count, ROWS, 5), as training has them."""
    images, boxes = [], np.full((count, ROWS, 5), -1, np.float32)
    for number, name in enumerate(images_of(folder)[:count]):
        image = cv2.imread(str(folder / name))
        images.append(cv2.resize(image, (size, size))[..., ::-1])
        height, width = image.shape[:2]
        rows = np.loadtxt((folder / name).with_suffix(".txt"), delimiter=",", ndmin=2)[:ROWS]
        boxes[number, : len(rows), :4] = rows[:, 1:] * (size / np.array([width, height, width, height]))
        boxes[number, : len(rows), 4] = rows[:, 0]
    return np.stack(images), boxes


def blocks(task: str, name: str, images: np.ndarray, boxes: np.ndarray) -> tuple[Any, list[Any], Any]:
    """The training block of a random network, what it is given, and the network's backbone."""
    import mxnet as mx

    from common.config.reading import configuration
    from common.loading.loader import Batch
    from detect.center_net.task import CenterNetTask
    from detect.config import CenterNetConfig, YOLOv3Config
    from detect.yolov3.task import YOLOv3Task

    size = images.shape[1]
    given: dict[str, Any] = {"log_dir": "unused", "gpus": [], "train": {"pretrained_base": False}}
    given["model"] = {"base_network": name, "use_pretrained": False, "data_shape": [size, size]}
    made: Any = (
        YOLOv3Task(configuration(YOLOv3Config, given))
        if task == "yolov3"
        else CenterNetTask(configuration(CenterNetConfig, given))
    )
    mx.random.seed(1)
    model = made.build([str(number) for number in range(CLASSES)], [mx.cpu()], None)
    shape = (size, size)
    arrays: dict[str, np.ndarray] = {"image": images, "boxes": boxes}
    targets = model.targets([])
    if task == "centernet":
        from detect.center_net.targets import CenterNetTargets

        targets = CenterNetTargets(CLASSES)
    layout = targets.layout(shape, {"boxes": ((ROWS, 5), "float32")})
    arrays |= {key: np.zeros((len(images), *sizes), kind) for key, (sizes, kind) in layout.items()}
    for number in range(len(images)):
        targets(shape, {key: array[number] for key, array in arrays.items()})
    inputs = model.training_inputs(Batch(arrays, np.arange(len(images)), len(images), shape))
    block, _ = model.training_block()
    block.hybridize()
    return (
        block,
        [mx.nd.array(each, dtype=each.dtype) for each in (*inputs.split, *inputs.shared)],
        model.backbone,
    )


def cosines(block: Any, arrays: Sequence[Any], weights: Sequence[Any], change: float) -> list[float]:
    """Of the gradient of each of `weights` before and after every one has changed at random by `change` of its norm.

    block: a training block, of whose first loss of `arrays` they are.
    """
    import mxnet as mx

    def gradients() -> list[np.ndarray]:
        with mx.autograd.record():
            loss = block(*arrays)[0].sum()
        loss.backward()
        return [weight.grad().asnumpy().ravel() for weight in weights]

    before = gradients()
    rng = np.random.default_rng(0)
    for weight in weights:
        values = weight.data().asnumpy()
        noise = rng.normal(size=values.shape)
        weight.set_data(
            mx.nd.array(values + noise * (change * np.linalg.norm(values) / np.linalg.norm(noise)))
        )
    return [
        float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-30))
        for a, b in zip(before, gradients(), strict=True)
    ]


def means(block: Any, arrays: Sequence[Any], backbone: Any, change: float) -> tuple[float, float]:
    """Mean `cosines` of the backbone's weights, and of the others."""
    weights = [
        parameter
        for parameter in block.collect_params().values()
        if parameter.grad_req != "null" and len(parameter.shape) > 1
    ]
    own = {
        parameter
        for part in backbone
        for layer in _layers(part)
        for parameter in layer.collect_params().values()
    }
    found = np.array(cosines(block, arrays, weights, change))
    inside = np.array([weight in own for weight in weights])
    return float(found[inside].mean()), float(found[~inside].mean())


def _layers(part: Any) -> Iterator[Any]:
    """A part of a backbone is a layer or a list of them."""
    yield from part if isinstance(part, list) else [part]


def main() -> None:
    """Print a line for each network and beginning."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, metavar="FOLDER")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--change", type=float, default=0.002)
    options = parser.parse_args()
    load_mxnet(1)
    import mxnet as mx

    from common.engine.mxnet_internals import descendants

    images, boxes = batch(options.data / "microcontroller" / "detect_train", options.size, options.images)

    def as_layers_do(block: Any) -> None:
        for layer in descendants(block):
            if isinstance(layer, mx.gluon.nn.BatchNorm):
                layer.beta.set_data(mx.nd.zeros(layer.beta.shape))

    beginnings: dict[str, Callable[[Any], None]] = {"0": as_layers_do, "as it is": lambda block: None}
    for task, names in NETWORKS.items():
        for name in names:
            for label, change in beginnings.items():
                block, arrays, backbone = blocks(task, name, images, boxes)
                change(block)
                inside, others = means(block, arrays, backbone, options.change)
                print(f"| {task} {name} | beta {label} | {inside:.2f} | {others:.2f} |", flush=True)


if __name__ == "__main__":
    main()
