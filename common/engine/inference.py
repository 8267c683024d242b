"""A network's arithmetic on the devices of a job, from images to outputs."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mxnet import gluon

from common.engine.arrays import on_device
from common.engine.engine import MISFITS
from common.engine.graph import Inference, inference_graph
from common.engine.parameter_file import check_parameter_file
from common.errors import ModelError, PretrainedError


class DeviceInference:
    """Computes a block from uint8 images (B, H, W, 3) to its outputs, in float32, a part of the batch on each device.

    The block's parameters are looked up at every call: it goes with a training.
    """

    def __init__(self, block: Any, contexts: Sequence[Any]) -> None:
        self._graph = inference_graph(block)
        self._contexts = list(contexts)

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        parts = []
        for piece, context in zip(np.array_split(images, len(self._contexts)), self._contexts, strict=True):
            if len(piece):
                outputs = self._graph(on_device(piece, context))
                parts.append(outputs if isinstance(outputs, (list, tuple)) else [outputs])
        return [np.concatenate([array.asnumpy() for array in arrays]) for arrays in zip(*parts, strict=True)]


def symbol_inference(symbol: Path, params: Path, contexts: Sequence[Any]) -> DeviceInference:
    """The arithmetic of an exported model: graph and parameters from files. Raises ModelError."""
    try:
        check_parameter_file(params)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the type of "data" is not said: it is float32
            network = gluon.SymbolBlock.imports(str(symbol), ["data"], str(params), ctx=list(contexts))
    except PretrainedError as error:
        raise ModelError(str(error)) from None
    except (*MISFITS, OSError) as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise ModelError(f"{symbol} and {params.name} do not make a model: {reason}") from None
    return DeviceInference(Inference(network), contexts)
