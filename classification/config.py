"""The configuration of image classification."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import ConfigDict, Field

from common.config.network_sections import ClassNetworkConfig, NetworkTrainConfig
from common.config.section import Conflict, key
from common.config.values import OptionalFlag


class ClassificationTrainConfig(NetworkTrainConfig):
    """How to train a classifier."""

    gentle_transfer: OptionalFlag = key(
        None,
        "Classification alone. Keep what ImageNet parameters know: the last layer begins at a regression on what they "
        "see in the training set, steps are small, BatchNorm keeps its statistics, and the average of the parameters "
        "reaches back three times as far; false: train as from random parameters, but for train.transfer_lr_mult; "
        "null: true for a training of up to 60 steps, and where that regression is right for nine of ten training "
        "images that it was not made from. Without model.use_pretrained, with model.use_gn or model.use_se, and for "
        "inputs below 64 pixels it counts as false; with --load, null does too.",
        "仅用于分类。"
        "保留 ImageNet 参数已有的知识：最后一层从在训练集特征上的回归结果开始，每步的改变较小，"
        "BatchNorm 保持其统计量，参数平均覆盖的范围为三倍；false 表示除 train.transfer_lr_mult 外与从随机参数训练相同；"
        "null 表示训练不超过 60 步时、或该回归对未参与计算的训练图像十张中能答对九张时为 true。"
        "未使用 model.use_pretrained、使用 model.use_gn 或 model.use_se、或输入小于 64 像素时视为 false；"
        "使用 --load 时 null 也视为 false。",
    )

    @property
    def left_open(self) -> tuple[str, ...]:
        return (*super().left_open, *(("gentle_transfer",) if self.gentle_transfer is None else ()))


class ClassificationConfig(ClassNetworkConfig):
    """An image classification job: the classes are the folders of the training set."""

    model_config = ConfigDict(title="Classification")

    train: ClassificationTrainConfig = Field(default_factory=ClassificationTrainConfig)

    def conflicts(self) -> Iterator[Conflict]:
        """Those of every such job, and a network without BatchNorm that is to have it synchronised."""
        yield from super().conflicts()
        model = self.model
        if model.syncbn and model.use_gn:
            yield Conflict(
                ("model.syncbn", "model.use_gn"), "cannot be: GroupNorm has taken BatchNorm's place"
            )
        elif model.syncbn and model.base_network.startswith("vgg") and not model.batch_norm:
            yield Conflict(
                ("model.syncbn", "model.base_network"),
                f"cannot be: {model.base_network} has no BatchNorm unless model.batch_norm is true",
            )
