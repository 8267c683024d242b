"""The configuration of landmark regression."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import ConfigDict, Field

from common.config.network_sections import NetworkConfig, NetworkDatasetConfig, NetworkTrainConfig, Teacher
from common.config.section import Conflict, key
from common.config.values import ClassNames, Flag, Indices, Number, Whole
from landmark.mirroring import mirror_table


class LandmarkDatasetConfig(NetworkDatasetConfig):
    """Images with keypoints."""

    num_joints: Whole = key(68, "Keypoints of an image.", "每张图像的关键点个数。", ge=1, le=10_000)
    keypoints: ClassNames = key(
        None,
        "Labels of the keypoints in their order, for formats that name points; null: numeric order where all labels "
        "are numbers, else sorted.",
        "关键点标签及其顺序，用于给点命名的格式；null 表示标签均为数字时按数值排序，否则按名称排序。",
    )
    mirrored_joints: Indices = key(
        None,
        "Number of the keypoint that each keypoint becomes in a mirrored image, from 0; training then mirrors half of "
        "the images. [] for no mirroring; null: the usual 68 points of a face are known, others are not mirrored.",
        "水平翻转后每个关键点对应的关键点编号（从 0 开始），设置后训练时翻转一半的图像。[] 表示不翻转；"
        "null：68 点人脸使用内置对应表，其他点数不翻转。",
    )

    def conflicts(self) -> Iterator[Conflict]:
        """Those of every data set, and a table that is no mirroring of these keypoints."""
        yield from super().conflicts()
        try:
            mirror_table(self.num_joints, self.mirrored_joints)
        except ValueError as error:
            yield Conflict(("dataset.mirrored_joints", "dataset.num_joints"), str(error))
        if self.keypoints is not None and len(self.keypoints) != self.num_joints:
            reason = f"has {len(self.keypoints)} labels; dataset.num_joints is {self.num_joints}"
            yield Conflict(("dataset.keypoints", "dataset.num_joints"), reason)


class LandmarkTrainConfig(NetworkTrainConfig):
    """How to train on keypoints. The metric is -RMSE in pixels: it rises to 0."""

    early_stop_baseline: Number = key(
        0.0,
        "Training does not stop early before -RMSE has reached this; 0: no such baseline.",
        "指标（-RMSE）达到该值之前不会提前停止；0 表示无此限制。",
        changeable=True,
    )
    early_stop_max_value: Number = key(
        0.0,
        "Training stops at once when -RMSE reaches this.",
        "指标（-RMSE）达到该值时立即停止训练。",
        changeable=True,
    )

    teacher: Teacher = key(
        None,
        "Distillation from the best_checkpoint.pkl of a landmark job; null: none.",
        "蒸馏使用的关键点任务的 best_checkpoint.pkl；null 表示不蒸馏。",
    )
    temperature: Number = key(20.0, "Without effect on keypoints.", "对关键点不起作用。", gt=0, le=1000)
    label_smoothing: Flag = key(
        False, "Must be false: keypoints have no classes.", "必须为 false：关键点没有类别。"
    )

    def conflicts(self) -> Iterator[Conflict]:
        """Those of every base network, and what has a meaning for classes alone."""
        yield from super().conflicts()
        if self.label_smoothing:
            yield Conflict(("train.label_smoothing",), "cannot be: keypoints have no classes to smooth")
        if self.teacher is not None and not self.teacher.endswith(".pkl"):
            yield Conflict(
                ("train.teacher",),
                "knows no keypoints: give the best_checkpoint.pkl of a landmark training (*.pkl)",
            )


class LandmarkConfig(NetworkConfig):
    """A landmark job."""

    model_config = ConfigDict(title="Landmark")

    dataset: LandmarkDatasetConfig = Field(default_factory=LandmarkDatasetConfig)
    train: LandmarkTrainConfig = Field(default_factory=LandmarkTrainConfig)
