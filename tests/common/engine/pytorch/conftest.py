"""These tests have PyTorch beside GluonCV: it is hidden while that is imported."""

from __future__ import annotations

from common.engine.devices import load_mxnet

load_mxnet()
