"""Symbols of MXNet as ONNX models, and both of them run; for tests that have onnx and onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime

from common.engine.graph import export_symbol
from common.engine.symbol import read_symbol
from common.export.onnx.graph import BATCH, OPSET, Graph
from common.export.onnx.heads import Source
from common.export.onnx.translate import Translation


def translated(
    symbol: Any,
    parameters: Mapping[str, np.ndarray],
    shape: Sequence[int],
    classes: int = 2,
    opset: int = OPSET,
) -> onnx.ModelProto:
    """A symbol whose input `data` is (batch, *shape), node by node; its outputs are called 0, 1, …"""
    plain = read_symbol(symbol.tojson())
    names = [str(number) for number in range(len(plain.heads))]
    graph = Graph(opset, names)
    data = graph.input("data", [BATCH, *shape])
    outputs = Translation(graph, plain, parameters, data, classes).tensors(plain.heads)
    return graph.model(dict(zip(names, outputs, strict=True)), {}, "test")


def run(model: onnx.ModelProto, data: np.ndarray) -> list[np.ndarray]:
    """The outputs of a model, by onnxruntime on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    found: list[np.ndarray] = session.run(None, {"data": data})
    return found


def source_of(block: Any, network: Any, width: int, height: int, classes: int) -> Source:
    """A block with the parameters of `network`, as the export takes it."""
    symbol = export_symbol(block)
    used = set(symbol.list_inputs())
    parameters = {
        name: value.data().asnumpy() for name, value in network.collect_params().items() if name in used
    }
    return Source(read_symbol(symbol.tojson()), parameters, width, height, classes)
