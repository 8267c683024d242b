"""The networks that suggestions choose from, and which of them at which input."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.advice import steps_needed
from common.data.boxes import objects_of
from common.datasets import Datasets
from common.language import Words
from common.networks.pretrained import models_folder, present
from common.suggest.data import Data

ROOT = Path(__file__).resolve().parents[2]
# An input is at most so many times as large as the images are: enlarging adds nothing to see.
_ENLARGED = 1.1
# Share of the rest that is steps, and no validation.
STEPPING = 0.9


@dataclass(frozen=True)
class Choice:
    """A network that suggestions choose from.

    script: that trains it. config, task: "module:class". keys: by section. sizes: of the input, the largest first.
    steps, passes: a training needs so many steps, and to see every image so often; the largest input at which there is
    time for both is taken. most_objects: of the training set, up to which it is chosen. parameters: of which it needs
    the file here. reason: with the figure that stands behind it.
    """

    does: str
    script: str
    config: str
    task: str
    keys: Mapping[str, Mapping[str, Any]]
    sizes: tuple[int, ...]
    batch: int
    steps: int
    passes: int
    reason: Words
    most_objects: float = math.inf
    parameters: str | None = None

    def available(self) -> bool:
        """Whether this version has it, and its parameters are here. Raises PretrainedError if these are damaged."""
        if not (ROOT / self.script).is_file():
            return False
        return self.parameters is None or present(self.parameters, models_folder()) is not None

    def sized(self, size: int) -> dict[str, dict[str, Any]]:
        """The keys of an input of this size."""
        if self.does == "detection":
            return {"model": {"data_shape": [size, size]}}
        return {"train": {"input_width": size, "input_height": size}}


_PRETRAINED: dict[str, Any] = {"base_network": "mobilenetv2_1.0", "use_pretrained": True}
_FROM_THE_BOX: Words = (
    "mobilenetv2_1.0 begins with ImageNet's parameters, which are here: accuracy 0.865 on photos of waste (trashnet) "
    "after 4 minutes on two cores, and 0.556 from random parameters",
    "mobilenetv2_1.0 从本机已有的 ImageNet 参数开始：在 trashnet 上，两个核心训练 4 分钟的准确率为 0.865，"
    "从随机参数开始为 0.556",
)
_SMALL = {"base_network": "mobilenetv3_small", "use_pretrained": False}
_AT_RANDOM: Words = (
    "mobilenetv3_small learns fastest from random parameters; no pretrained ones are here",
    "本机没有预训练参数，从随机参数开始时 mobilenetv3_small 学得最快",
)


# Of 100 epochs, over which a training by time lays its schedule: from random parameters every step is short, and a rate
# that falls all the while moves too little in few of them.
_LATE: dict[str, Any] = {"lr_mode": "step", "lr_decay_epoch": [90]}


def _network(does: str, folder: str, name: str, pretrained: bool, passes: int, **train: Any) -> Choice:
    """One that tasks on a base network share."""
    return Choice(
        does,
        f"{folder}/fit_{folder}.py",
        f"{folder}.config:{name}Config",
        f"{folder}.task:{name}Task",
        {"model": _PRETRAINED if pretrained else _SMALL, "train": {"lr_mode": "cosine", **train}},
        sizes=(224, 160, 128),
        batch=32,
        steps=steps_needed(does, pretrained),
        passes=passes,
        reason=_FROM_THE_BOX if pretrained else _AT_RANDOM,
        parameters="mobilenetv2_1.0" if pretrained else None,
    )


CHOICES: tuple[Choice, ...] = (
    Choice(
        "detection",
        "detect/fit_ssd.py",
        "detect.config:SSDConfig",
        "detect.ssd.task:SSDTask",
        {"model": {"base_network": "mobilenetv2_1.0_lite"}, "train": {"lr_mode": "cosine"}},
        sizes=(512, 416, 300, 224, 160),
        batch=8,
        steps=steps_needed("detection", pretrained=True),
        passes=12,
        reason=(
            "SSD on mobilenetv2_1.0 begins with ImageNet's parameters, which are here: mAP 0.95 on microcontroller "
            "(104 images) after 14 passes over them, YOLOv3 from random parameters 0.40 after 36; 0.86 on blood cells "
            "(255 images) after 8 minutes on two cores",
            "SSD（mobilenetv2_1.0）从本机已有的 ImageNet 参数开始：在 microcontroller（104 张）上遍历 14 次后 mAP "
            "0.95，从随机参数开始的 YOLOv3 遍历 36 次后为 0.40；"
            "blood cells（255 张）在两个核心上训练 8 分钟 mAP 0.86",
        ),
        parameters="mobilenetv2_1.0",
    ),
    Choice(
        "detection",
        "detect/fit_center_net.py",
        "detect.config:CenterNetConfig",
        "detect.center_net.task:CenterNetTask",
        {
            "model": {"base_network": "resnet18_v1b", "use_pretrained": False},
            "train": {"pretrained_base": False, "lr_mode": "cosine"},
            "valid": {"flip_test": False},
        },
        sizes=(512, 416, 320, 256, 192),
        batch=8,
        steps=450,
        passes=20,
        reason=(
            "CenterNet on resnet18_v1b learns a few hundred objects best: mAP 0.50 on microcontroller (104 images) "
            "after 6 minutes on two cores, YOLOv3 0.43",
            "目标只有几百个时 CenterNet（resnet18_v1b）学得最好：microcontroller（104 张）在两个核心上训练 6 分钟"
            " mAP 0.50，YOLOv3 为 0.43",
        ),
        most_objects=1000,
    ),
    Choice(
        "detection",
        "detect/fit_yolov3.py",
        "detect.config:YOLOv3Config",
        "detect.yolov3.task:YOLOv3Task",
        {
            "model": {"base_network": "mobilenet1.0", "use_pretrained": False},
            "train": dict(_LATE),
        },
        sizes=(416, 320, 256, 192, 160),
        batch=8,
        steps=steps_needed("detection", pretrained=False),
        passes=10,
        reason=(
            "YOLOv3 on mobilenet1.0 learns thousands of objects best: mAP 0.88 on blood cells (255 images) after 7 "
            "minutes on two cores, CenterNet 0.79 after 11",
            "目标有几千个时 YOLOv3（mobilenet1.0）学得最好：blood cells（255 张）在两个核心上训练 7 分钟 mAP 0.88，"
            "CenterNet 训练 11 分钟为 0.79",
        ),
    ),
    _network("classification", "classification", "Classification", True, 8),
    _network("classification", "classification", "Classification", False, 20),
    _network("reid", "reid", "ReID", True, 8),
    _network("reid", "reid", "ReID", False, 20),
    _network("landmark", "landmark", "Landmark", True, 8),
    _network("landmark", "landmark", "Landmark", False, 20),
)
"""In the order of preference: the first that suits is taken."""


def choices_for(does: str) -> list[Choice]:
    """What there is for a task, the preferred first."""
    return [choice for choice in CHOICES if choice.does == does and choice.available()]


def choice_for(data: Data, sets: Datasets) -> Choice:
    """The preferred network of those that suit."""
    objects = objects_in(sets) if data.does == "detection" else 0
    return next(choice for choice in choices_for(data.does) if objects <= choice.most_objects)


def objects_in(sets: Datasets) -> int:
    """Boxes of the training set."""
    return sum(len(objects_of(sample.annotation)) for sample in sets.train)


def batch_for(choice: Choice, sets: Datasets) -> int:
    """Of few images a smaller batch, so that there are several steps to a pass."""
    batch = choice.batch
    while batch > 4 and len(sets.train) < 4 * batch:
        batch //= 2
    return batch


def sizes_for(
    choice: Choice, sets: Datasets, batch: int, seconds: float, a_step: float, measured: int
) -> Iterator[int]:
    """Inputs to choose from: the largest at which there is time for the steps that a training needs and, should objects
    be too small in it, larger ones with time for half of them. None is much larger than the images are."""
    needed = steps_for(choice, sets, batch)
    sides = sorted(max(sample.width, sample.height) for sample in sets.train)
    usual = sides[len(sides) // 2]
    smallest = choice.sizes[-1]
    steps = {
        size: steps_in(seconds, a_step, size / measured)
        for size in choice.sizes
        if size <= max(_ENLARGED * usual, smallest)
    }
    first = max((size for size in steps if steps[size] >= needed), default=smallest)
    yield first
    yield from sorted(size for size in steps if size > first and steps[size] >= needed / 2)


def steps_in(seconds: float, a_step: float, larger: float) -> float:
    """How many there are in so many seconds of a job. a_step: seconds of one at an input that is so many times
    smaller."""
    return seconds * STEPPING / (a_step * larger**2)


def steps_for(choice: Choice, sets: Datasets, batch: int) -> int:
    """Steps that a training of this network needs on this set."""
    return max(choice.steps, choice.passes * -(-len(sets.train) // batch))
