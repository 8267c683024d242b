"""mAP of CenterNet trained with GluonCV's own transform, targets, losses and network, to set a job of ours beside.

    python benchmarks/gluoncv_centernet.py --data FOLDER [--epochs 40] [--report 5,15,40] [--size 256] [--batch 8]
    python detect/fit_center_net.py --config job.json          # the same images, epochs, batch and learning rate

FOLDER holds detect_train, detect_valid and classes.txt. The loop is that of GluonCV's train_center_net script; the
backbone begins at random. The metric, and the way from the input back to the original image, are this project's.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)


def read(folder: Path) -> list[tuple[Path, Any]]:
    """Images of a folder with their boxes (n, 5): x1, y1, x2, y2, class id."""
    import numpy as np

    samples = []
    for path in sorted(folder.glob("*.jpg")):
        rows = [[float(value) for value in line.split(",")] for line in path.with_suffix(".txt").open()]
        boxes = np.array(rows, np.float32).reshape(-1, 5)
        boxes = boxes[boxes[:, 0] >= 0]
        if len(boxes):
            samples.append((path, boxes[:, [1, 2, 3, 4, 0]]))
    return samples


def train(options: argparse.Namespace) -> None:
    """Train, and print the metric after the epochs that are asked for."""
    import mxnet as mx
    import numpy as np
    from gluoncv.data.transforms.presets.center_net import CenterNetDefaultTrainTransform
    from gluoncv.loss import HeatmapFocalLoss, MaskedL1Loss
    from gluoncv.model_zoo import get_model
    from mxnet import autograd, gluon

    class Folder(gluon.data.Dataset):
        def __init__(self, items: list[tuple[Path, Any]]) -> None:
            self.items = items

        def __len__(self) -> int:
            return len(self.items)

        def __getitem__(self, index: int) -> Any:
            path, boxes = self.items[index]
            return mx.image.imread(str(path)), boxes.copy()

    mx.random.seed(options.seed)
    np.random.seed(options.seed)
    names = (options.data / "classes.txt").read_text().split()
    network = get_model("center_net_resnet18_v1b_voc", pretrained_base=False)
    network.initialize()
    network.reset_class(names)
    items = Folder(read(options.data / "detect_train"))
    loader = gluon.data.DataLoader(
        items.transform(CenterNetDefaultTrainTransform(options.size, options.size, len(names))),
        options.batch,
        True,
        last_batch="rollover",
        num_workers=2,
    )
    trainer = gluon.Trainer(
        network.collect_params(), "sgd", {"learning_rate": options.lr, "momentum": 0.9, "wd": 1e-4}
    )
    losses = HeatmapFocalLoss(from_logits=True), MaskedL1Loss(weight=0.1), MaskedL1Loss(weight=1.0)
    began = time.monotonic()
    for epoch in range(1, options.epochs + 1):
        # As in the contract: steps of a tenth at epochs 25, 50 and 75.
        trainer.set_learning_rate(options.lr * 0.1 ** sum(epoch > step for step in (25, 50, 75)))
        network.hybridize()
        for batch in loader:
            image, heatmap, size, size_mask, offset, offset_mask = (
                array.as_in_context(mx.cpu()) for array in batch
            )
            with autograd.record():
                predicted = network(image)
                total = losses[0](predicted[0], heatmap)
                total = total + losses[1](predicted[1], size, size_mask)
                total = total + losses[2](predicted[2], offset, offset_mask)
            total.backward()
            trainer.step(1)
            total.wait_to_read()
        if epoch in options.report:
            seconds = time.monotonic() - began
            print(
                f"epoch {epoch}: mAP {evaluate(network, options, names):.4f} after {seconds:.0f} s",
                flush=True,
            )


def evaluate(network: Any, options: argparse.Namespace, names: list[str]) -> float:
    """mAP at an overlap of 0.5 on detect_valid."""
    import mxnet as mx
    import numpy as np

    from common.engine.graph import MEAN, STD
    from common.images.decoding import decode
    from common.images.resize import Resize
    from detect.geometry import clip_detections
    from detect.metric import MeanAveragePrecision

    network.hybridize()  # the signature differs from the training's
    metric = MeanAveragePrecision(len(names), 0.5, "voc")
    shape = (options.size, options.size)
    for path, boxes in read(options.data / "detect_valid"):
        height, width = mx.image.imread(str(path)).shape[:2]
        image = np.empty((*shape, 3), np.uint8)
        matrix = Resize("letterbox").draw(decode(str(path))[0], image)
        pixels = (image / 255 - np.array(MEAN)) / np.array(STD)
        ids, scores, corners = (
            array[0].asnumpy() for array in network(mx.nd.array(pixels.transpose(2, 0, 1)[None]))
        )
        scale, shift = matrix[[0, 1], [0, 1]], matrix[:, 2]
        boxes_found = corners * np.tile(scale, 2) + np.tile(shift, 2)
        rows = np.concatenate([ids.reshape(-1, 1), scores.reshape(-1, 1), boxes_found], axis=-1)
        metric.update(boxes[:, [4, 0, 1, 2, 3]], clip_detections(rows[rows[:, 0] >= 0], width, height))
    return float(metric.result()[1])


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument(
        "--report", type=lambda text: [int(part) for part in text.split(",")], default=[5, 15, 40]
    )
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    from common.engine.devices import use_all_cores

    use_all_cores()
    train(options)


if __name__ == "__main__":
    main()
