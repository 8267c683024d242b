"""The configuration of image classification."""

from __future__ import annotations

from pydantic import ConfigDict

from common.config.network_sections import ClassNetworkConfig


class ClassificationConfig(ClassNetworkConfig):
    """An image classification job: the classes are the folders of the training set."""

    model_config = ConfigDict(title="Classification")
