"""The configuration of re-identification."""

from __future__ import annotations

from pydantic import ConfigDict

from common.network_config import NetworkConfig


class ReIDConfig(NetworkConfig):
    """A re-identification job: the identities are the folders of the training set."""

    model_config = ConfigDict(title="ReID")
