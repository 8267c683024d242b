"""Other forms of an ONNX file: image bytes in, smaller weights, whole numbers inside."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Layout = Literal["nhwc", "nchw"]

# Weights of fewer numbers are left as they are: constants of the decoding among them.
_LARGE = 256
# onnxruntime's whole numbers by channel need this version of ONNX's operators.
_QUANTISED_OPSET = 13


def with_bytes(model: onnx.ModelProto, layout: Layout) -> onnx.ModelProto:
    """The model on images of bytes, (batch, height, width, 3) or (batch, 3, height, width), RGB, normalised inside."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    said = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    mean, std = (np.array(said[name], np.float32) for name in ("mean", "std"))
    given = made.graph.input[0]
    batch = given.type.tensor_type.shape.dim[0].dim_param
    high, wide = said["height"], said["width"]
    shape = [batch, high, wide, 3] if layout == "nhwc" else [batch, 3, high, wide]
    # (x / 255 - mean) / std, as one product and one sum.
    constants = {
        "normalise_scale": (1 / (255 * std)).reshape(1, 3, 1, 1),
        "normalise_shift": (-mean / std).reshape(1, 3, 1, 1),
    }
    name, normal = given.name, f"{given.name}_normalised"
    nodes, current = [], name
    if layout == "nhwc":
        nodes.append(helper.make_node("Transpose", [current], ["data_nchw"], "data_nchw", perm=[0, 3, 1, 2]))
        current = "data_nchw"
    nodes += [
        helper.make_node("Cast", [current], ["data_float"], "data_float", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["data_float", "normalise_scale"], ["data_scaled"], "data_scaled"),
        helper.make_node("Add", ["data_scaled", "normalise_shift"], [normal], normal),
    ]
    for node in made.graph.node:
        node.input[:] = [normal if each == name else each for each in node.input]
    rest = list(made.graph.node)
    del made.graph.node[:]
    made.graph.node.extend([*nodes, *rest])
    made.graph.initializer.extend(numpy_helper.from_array(value, key) for key, value in constants.items())
    given.CopyFrom(helper.make_tensor_value_info(name, TensorProto.UINT8, shape))
    return made


def with_half_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its weights in float16, half of the size; it computes in float32 as before."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    casts, weights = [], []
    for weight in made.graph.initializer:
        values = numpy_helper.to_array(weight)
        if values.dtype != np.float32 or values.size < _LARGE:
            weights.append(weight)
            continue
        limit = float(np.finfo(np.float16).max)
        half = np.clip(values, -limit, limit).astype(np.float16)
        weights.append(numpy_helper.from_array(half, f"{weight.name}_half"))
        casts.append(
            helper.make_node(
                "Cast", [f"{weight.name}_half"], [weight.name], weight.name, to=TensorProto.FLOAT
            )
        )
    rest = list(made.graph.node)
    del made.graph.node[:], made.graph.initializer[:]
    made.graph.node.extend([*casts, *rest])
    made.graph.initializer.extend(weights)
    return made


def with_whole_numbers(model: onnx.ModelProto, batches: Iterable[np.ndarray]) -> onnx.ModelProto:
    """The model whose convolutions and products compute with 8 bits: onnxruntime's static quantisation.

    batches: inputs of the model (B, 3, H, W), float32, from which the ranges of its maps are taken.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    name = model.graph.input[0].name

    class Reader(CalibrationDataReader):
        """The batches, as the tool asks for them."""

        def __init__(self) -> None:
            self._left = iter(batches)

        def get_next(self) -> dict[str, Any] | None:
            """The next batch by the input's name; None at the end."""
            batch = next(self._left, None)
            return None if batch is None else {name: batch}

    with tempfile.TemporaryDirectory() as place:
        given, folded, written = (
            str(Path(place) / f"{step}.onnx") for step in ("given", "folded", "written")
        )
        onnx.save(onnx.version_converter.convert_version(model, _QUANTISED_OPSET), given)
        quant_pre_process(given, folded, skip_symbolic_shape=True)
        quantize_static(
            folded,
            written,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv", "Gemm"],
        )
        made = onnx.load(written)
    del made.metadata_props[:]
    made.metadata_props.extend(model.metadata_props)
    return made


def said_of(model: onnx.ModelProto, additions: Sequence[tuple[str, Any]]) -> onnx.ModelProto:
    """The model, which says more of itself: names and values."""
    for key, value in additions:
        model.metadata_props.add(key=key, value=json.dumps(value, ensure_ascii=False))
    return model
