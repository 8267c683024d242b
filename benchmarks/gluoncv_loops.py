"""The training loops of GluonCV's own scripts, step by step: what training.py measures ours beside.

Transform, target generation, network and loss are GluonCV's; the loader is Gluon's, with worker processes. options:
data, size, batch and workers, as training.py has them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon

SGD = {"learning_rate": 1e-5, "momentum": 0.9, "wd": 1e-4}


class DetectionFolder(gluon.data.Dataset):
    """Images of a folder with their boxes (n, 5): x1, y1, x2, y2, class id."""

    def __init__(self, folder: Path) -> None:
        self.images = sorted(folder.glob("*.jpg"))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        path = self.images[index]
        rows = [line.split(",") for line in path.with_suffix(".txt").read_text().split()]
        boxes = np.array([[*map(float, row[1:]), float(row[0])] for row in rows], np.float32)
        return mx.image.imread(str(path)), boxes

    def names(self) -> list[str]:
        """Names for the classes that occur."""
        return [f"class{i}" for i in range(1 + int(max(self[i][1][:, 4].max() for i in range(len(self)))))]


def yolov3(options: argparse.Namespace, base_network: str) -> Iterator[None]:
    """Steps of train_yolo3."""
    from gluoncv.data.batchify import Pad, Stack, Tuple
    from gluoncv.data.transforms.presets.yolo import YOLO3DefaultTrainTransform
    from gluoncv.model_zoo import get_model

    dataset = DetectionFolder(options.data / "detect_train")
    name, names = f"yolo3_{base_network}_custom", dataset.names()
    network = get_model(name, classes=names, pretrained_base=False)
    network.initialize()
    twin = get_model(name, classes=names, pretrained_base=False)  # as the script: for the transform's anchors
    twin.initialize()
    loader = gluon.data.DataLoader(
        dataset.transform(YOLO3DefaultTrainTransform(options.size, options.size, twin)),
        options.batch,
        True,
        batchify_fn=Tuple(*([Stack() for _ in range(6)] + [Pad(axis=0, pad_val=-1)])),
        last_batch="rollover",
        num_workers=options.workers,
    )
    trainer = gluon.Trainer(network.collect_params(), "sgd", SGD, kvstore=None)
    network.hybridize()
    while True:
        for batch in loader:
            arrays = [array.as_in_context(mx.cpu()) for array in batch]
            with autograd.record():
                total = sum(network(arrays[0], arrays[6], *arrays[1:6]))
            total.backward()
            trainer.step(options.batch)
            total.mean().asscalar()
            yield


def ssd(options: argparse.Namespace, base_network: str) -> Iterator[None]:
    """Steps of train_ssd."""
    from gluoncv.data.batchify import Stack, Tuple
    from gluoncv.data.transforms.presets.ssd import SSDDefaultTrainTransform
    from gluoncv.loss import SSDMultiBoxLoss
    from gluoncv.model_zoo import get_model

    dataset = DetectionFolder(options.data / "detect_train")
    size, name = (300 if base_network == "vgg16_atrous" else 512), base_network
    network = get_model(f"ssd_{size}_{name}_custom", classes=dataset.names(), pretrained_base=False)
    network.initialize()
    with autograd.train_mode():
        _, _, anchors = network(mx.nd.zeros((1, 3, options.size, options.size)))
    loader = gluon.data.DataLoader(
        dataset.transform(SSDDefaultTrainTransform(options.size, options.size, anchors)),
        options.batch,
        True,
        batchify_fn=Tuple(Stack(), Stack(), Stack()),
        last_batch="rollover",
        num_workers=options.workers,
    )
    trainer = gluon.Trainer(network.collect_params(), "sgd", SGD, kvstore=None)
    loss_of = SSDMultiBoxLoss()
    network.hybridize(static_alloc=True, static_shape=True)
    while True:
        for batch in loader:
            image, classes, boxes = ([array.as_in_context(mx.cpu())] for array in batch)
            with autograd.record():
                class_pred, box_pred, _ = network(image[0])
                total, _, _ = loss_of([class_pred], [box_pred], classes, boxes)
                autograd.backward(total)
            trainer.step(1)
            total[0].wait_to_read()
            yield


def center_net(options: argparse.Namespace, base_network: str) -> Iterator[None]:
    """Steps of train_center_net."""
    from gluoncv.data.transforms.presets.center_net import CenterNetDefaultTrainTransform
    from gluoncv.loss import HeatmapFocalLoss, MaskedL1Loss
    from gluoncv.model_zoo import get_model

    dataset = DetectionFolder(options.data / "detect_train")
    names = dataset.names()
    network = get_model(f"center_net_{base_network}_voc", pretrained_base=False)
    network.initialize()
    network.reset_class(names)
    loader = gluon.data.DataLoader(
        dataset.transform(CenterNetDefaultTrainTransform(options.size, options.size, len(names))),
        options.batch,
        True,
        last_batch="rollover",
        num_workers=options.workers,
    )
    trainer = gluon.Trainer(network.collect_params(), "sgd", SGD, kvstore=None)
    losses = HeatmapFocalLoss(from_logits=True), MaskedL1Loss(weight=0.1), MaskedL1Loss(weight=1.0)
    network.hybridize()
    while True:
        for batch in loader:
            image, heatmap, size, size_mask, offset, offset_mask = (
                array.as_in_context(mx.cpu()) for array in batch
            )
            with autograd.record():
                maps = network(image)
                total = losses[0](maps[0], heatmap)
                total = total + losses[1](maps[1], size, size_mask)
                total = total + losses[2](maps[2], offset, offset_mask)
            total.backward()
            trainer.step(1)
            total.wait_to_read()
            yield


def classification(options: argparse.Namespace, base_network: str) -> Iterator[None]:
    """Steps of train_imagenet."""
    from gluoncv.model_zoo import get_model
    from mxnet.gluon.data.vision import ImageFolderDataset, transforms

    composed = transforms.Compose(
        [
            transforms.RandomResizedCrop(options.size, scale=(0.25, 1.0)),
            transforms.RandomFlipLeftRight(),
            transforms.RandomColorJitter(brightness=0.4, contrast=0.4, saturation=0.4),
            transforms.RandomLighting(0.1),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    dataset = ImageFolderDataset(str(options.data)).transform_first(composed)
    loader = gluon.data.DataLoader(
        dataset, options.batch, shuffle=True, num_workers=options.workers, last_batch="rollover"
    )
    network = get_model(base_network, classes=2, pretrained=False)
    network.initialize(mx.init.MSRAPrelu())
    network.hybridize(static_alloc=True, static_shape=True)
    trainer = gluon.Trainer(network.collect_params(), "sgd", SGD, kvstore=None)
    loss_of = gluon.loss.SoftmaxCrossEntropyLoss()
    while True:
        for images, labels in loader:
            images, labels = images.as_in_context(mx.cpu()), labels.as_in_context(mx.cpu())
            with autograd.record():
                loss = loss_of(network(images), labels)
            loss.backward()
            trainer.step(options.batch)
            loss.mean().asscalar()
            yield


LOOPS: dict[str, Callable[[argparse.Namespace, str], Iterator[None]]] = {
    "yolov3": yolov3,
    "ssd": ssd,
    "center_net": center_net,
    "classification": classification,
}
