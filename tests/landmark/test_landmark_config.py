"""What the configuration of landmark regression adds."""

from __future__ import annotations

import pytest

from common.config.reading import configuration
from common.errors import ConfigurationError
from landmark.config import LandmarkConfig


def test_defaults() -> None:
    config = configuration(LandmarkConfig, {"log_dir": "/out"})
    assert config.dataset.num_joints == 68
    assert (config.train.early_stop_baseline, config.train.early_stop_max_value) == (0, 0)
    assert (config.train.lr, config.train.batch_size, config.model.base_network) == (0.035, 64, "resnet50_v1")


def test_joints_are_counted_from_one() -> None:
    assert (
        configuration(LandmarkConfig, {"log_dir": "/o", "dataset": {"num_joints": "5"}}).dataset.num_joints
        == 5
    )
    with pytest.raises(ConfigurationError, match=r"^dataset\.num_joints: 0 is too small"):
        configuration(LandmarkConfig, {"log_dir": "/o", "dataset": {"num_joints": 0}})
