"""A network's arithmetic with PyTorch, from images to outputs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from common.engine.torch.graph import TorchGraph
from common.engine.torch.operators import Pass
from common.engine.torch.tensors import array


class TorchInference:
    """Computes a graph from uint8 images (B, H, W, 3) to its outputs, in float32.

    values: of its parameters by name, as they are at every call.
    """

    def __init__(self, graph: TorchGraph, values: Mapping[str, Tensor], device: torch.device) -> None:
        self._graph, self._values, self._device = graph, values, device

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        with torch.no_grad():
            given = torch.from_numpy(np.ascontiguousarray(images)).to(self._device)
            outputs = self._graph({**self._values, "images": given}, Pass(training=False), self._device)
            return [array(output.float()) for output in outputs]
