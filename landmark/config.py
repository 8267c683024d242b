"""The configuration of landmark regression."""

from __future__ import annotations

from pydantic import ConfigDict, Field

from common.config import key
from common.network_config import NetworkConfig, NetworkDatasetConfig, NetworkTrainConfig
from common.values import Number, Whole


class LandmarkDatasetConfig(NetworkDatasetConfig):
    """Images with keypoints."""

    num_joints: Whole = key(68, "Keypoints of an image.", "每张图像的关键点个数。", ge=1, le=10_000)


class LandmarkTrainConfig(NetworkTrainConfig):
    """How to train on keypoints. The metric is -RMSE in pixels: it rises to 0."""

    early_stop_baseline: Number = key(
        0.0,
        "Training does not stop early before -RMSE has reached this; 0: no such baseline.",
        "指标（-RMSE）达到该值之前不会提前停止；0 表示无此限制。",
    )
    early_stop_max_value: Number = key(
        0.0, "Training stops at once when -RMSE reaches this.", "指标（-RMSE）达到该值时立即停止训练。"
    )


class LandmarkConfig(NetworkConfig):
    """A landmark job."""

    model_config = ConfigDict(title="Landmark")

    dataset: LandmarkDatasetConfig = Field(default_factory=LandmarkDatasetConfig)
    train: LandmarkTrainConfig = Field(default_factory=LandmarkTrainConfig)
