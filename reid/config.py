"""The configuration of re-identification."""

from __future__ import annotations

from pydantic import ConfigDict

from common.config.network_sections import ClassNetworkConfig


class ReIDConfig(ClassNetworkConfig):
    """A re-identification job: the identities are the folders of the training set."""

    model_config = ConfigDict(title="ReID")
