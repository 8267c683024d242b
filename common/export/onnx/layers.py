"""Operators that are layers of networks, and the suppression of boxes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from common.engine.layer_attributes import Windows, deformable_windows, suppression, windows
from common.engine.symbol import UnsupportedError
from common.export.onnx.deformable import deform_conv, sampled_convolution
from common.export.onnx.graph import DEFORM_CONV_OPSET, Tensor
from common.export.onnx.operator_table import Call, operator
from common.export.onnx.suppression import box_nms


@operator("Convolution")
def _convolution(call: Call) -> Tensor:
    look, weight = windows(call.attributes), call.inputs[1]
    spatial = [
        (length + 2 * p - d * (k - 1) - 1) // s + 1
        for length, k, s, d, p in zip(
            call.x.shape[2:], look.kernel, look.stride, look.dilate, look.pad, strict=True
        )
    ]
    return call.graph.add(
        "Conv", call.inputs, [call.x.shape[0], weight.shape[0], *spatial], name=call.name, **_of_node(look)
    )


@operator("Deconvolution")
def _deconvolution(call: Call) -> Tensor:
    look, weight = windows(call.attributes), call.inputs[1]
    call.attributes.only("target_shape", (), None)
    adjust = call.attributes.numbers("adj") or (0,) * len(look.kernel)
    spatial = [
        (length - 1) * s + d * (k - 1) + 1 - 2 * p + a
        for length, k, s, d, p, a in zip(
            call.x.shape[2:], look.kernel, look.stride, look.dilate, look.pad, adjust, strict=True
        )
    ]
    options = {"output_padding": adjust} if any(adjust) else {}
    return call.graph.add(
        "ConvTranspose",
        call.inputs,
        [call.x.shape[0], weight.shape[1] * look.groups, *spatial],
        name=call.name,
        **_of_node(look),
        **options,
    )


def _of_node(look: Windows) -> dict[str, Any]:
    """The windows of a convolution as ONNX's attributes."""
    return {
        "kernel_shape": look.kernel,
        "strides": look.stride,
        "dilations": look.dilate,
        "pads": (*look.pad, *look.pad),
        "group": look.groups,
    }


@operator("FullyConnected")
def _fully_connected(call: Call) -> Tensor:
    graph, (x, weight, *bias) = call.graph, call.inputs
    call.attributes.get("num_hidden", None)
    call.attributes.get("no_bias", False)
    if call.attributes.flag("flatten", True):
        flat = graph.reshape(x, [x.shape[0], math.prod(x.shape[1:])])
        bias = bias or [graph.constant(np.zeros(weight.shape[0]), weight.dtype)]
        return graph.add(
            "Gemm", [flat, weight, *bias], [x.shape[0], weight.shape[0]], name=call.name, transB=1
        )
    product = graph.add("MatMul", [x, graph.transpose(weight, [1, 0])], [*x.shape[:-1], weight.shape[0]])
    return graph.binary("Add", product, bias[0], name=call.name) if bias else product


@operator("BatchNorm", "_contrib_SyncBatchNorm")
def _batch_norm(call: Call) -> Tensor:
    graph, attributes = call.graph, call.attributes
    attributes.only("axis", 1)
    attributes.only("output_mean_var", False)
    for name in ("ndev", "key"):
        attributes.get(name, None)
    x, gamma, *others = call.inputs
    if attributes.flag("fix_gamma", True):
        gamma = graph.constant(np.ones(gamma.shape), gamma.dtype)
    epsilon = float(attributes.get("eps", 1e-3))
    return graph.add("BatchNormalization", [x, gamma, *others], x.shape, name=call.name, epsilon=epsilon)


@operator("L2Normalization")
def _l2_normalization(call: Call) -> Tensor:
    call.attributes.only("mode", "instance")
    graph, x = call.graph, call.x
    squares = graph.reduce("ReduceSum", graph.binary("Mul", x, x), range(1, len(x.shape)))
    length = graph.binary("Add", squares, float(call.attributes.get("eps", 1e-10)))
    return graph.binary("Div", x, graph.add("Sqrt", [length], length.shape), name=call.name)


@operator("Activation")
def _activation(call: Call) -> Tensor:
    ops = {
        "relu": "Relu",
        "sigmoid": "Sigmoid",
        "tanh": "Tanh",
        "softrelu": "Softplus",
        "softsign": "Softsign",
    }
    call.attributes.only("act_type", *ops)
    return call.graph.add(
        ops[call.attributes.get("act_type", "relu")], [call.x], call.x.shape, name=call.name
    )


@operator("LeakyReLU")
def _leaky_relu(call: Call) -> Tensor:
    call.attributes.only("act_type", "leaky")
    slope = float(call.attributes.get("slope", 0.25))
    return call.graph.add("LeakyRelu", [call.x], call.x.shape, name=call.name, alpha=slope)


@operator("softmax")
def _softmax(call: Call) -> Tensor:
    last = len(call.x.shape) - 1
    call.attributes.only("axis", -1, last)
    call.attributes.only("temperature", None, 1)
    call.attributes.only("use_length", False)
    call.attributes.only("dtype", None)
    return call.graph.add("Softmax", [call.x], call.x.shape, name=call.name, axis=last)


@operator("Dropout")
def _dropout(call: Call) -> Tensor:
    call.attributes.only("mode", "training")
    for name in ("p", "axes"):
        call.attributes.get(name, None)
    return call.x


@operator("Pooling")
def _pooling(call: Call) -> Tensor:
    graph, attributes, x = call.graph, call.attributes, call.x
    attributes.only("layout", "NCHW", None)
    attributes.only("pool_type", "max", "avg")
    kind = {"max": "Max", "avg": "Average"}[attributes.get("pool_type", "max")]
    spatial = x.shape[2:]
    kernel = attributes.numbers("kernel")
    stride = attributes.numbers("stride") or (1,) * len(spatial)
    pad = attributes.numbers("pad") or (0,) * len(spatial)
    convention = attributes.get("pooling_convention", "valid")
    count = attributes.flag("count_include_pad", True)
    if attributes.flag("global_pool"):
        return graph.add(f"Global{kind}Pool", [x], [*x.shape[:2], *(1 for _ in spatial)], name=call.name)
    if convention not in ("valid", "full"):
        raise UnsupportedError(f"pooling_convention={convention}; only valid and full can be exported")
    sizes, missing = [], []
    for length, k, s, p in zip(spatial, kernel, stride, pad, strict=True):
        steps = (length + 2 * p - k) / s
        sizes.append(1 + (math.ceil(steps) if convention == "full" else math.floor(steps)))
        missing.append(max((sizes[-1] - 1) * s + k - length - 2 * p, 0))
    if kind == "Average" and any(missing):
        raise UnsupportedError("pooling_convention=full, where an average goes beyond the map")
    return graph.add(
        f"{kind}Pool",
        [x],
        [*x.shape[:2], *sizes],
        name=call.name,
        kernel_shape=kernel,
        strides=stride,
        # Whole windows beside the map stand for the rounding up, which runtimes do in several ways.
        pads=(*pad, *(p + m for p, m in zip(pad, missing, strict=True))),
        **({"count_include_pad": int(count)} if kind == "Average" else {}),
    )


@operator("_contrib_AdaptiveAvgPooling2D")
def _adaptive_average(call: Call) -> Tensor:
    """The average over ceil and floor of equal parts, as two products of matrices where the parts are unequal."""
    graph, x = call.graph, call.x
    sizes = call.attributes.numbers("output_size", (1,))
    sizes = sizes * 2 if len(sizes) == 1 else sizes
    spatial = x.shape[2:]
    if sizes == (1, 1):
        return graph.add("GlobalAveragePool", [x], [*x.shape[:2], 1, 1], name=call.name)
    if all(length % size == 0 for length, size in zip(spatial, sizes, strict=True)):
        window = [length // size for length, size in zip(spatial, sizes, strict=True)]
        return graph.add(
            "AveragePool", [x], [*x.shape[:2], *sizes], name=call.name, kernel_shape=window, strides=window
        )
    rows, columns = (_averages(length, size) for length, size in zip(spatial, sizes, strict=True))
    by_row = graph.add("MatMul", [graph.constant(rows), x], [*x.shape[:2], sizes[0], spatial[1]])
    return graph.add("MatMul", [by_row, graph.constant(columns.T)], [*x.shape[:2], *sizes], name=call.name)


def _averages(length: int, size: int) -> np.ndarray:
    """(size, length): the share of each place of `length` in each of `size` averages."""
    matrix = np.zeros((size, length), np.float32)
    for i in range(size):
        start, stop = i * length // size, -(-(i + 1) * length // size)
        matrix[i, start:stop] = 1 / (stop - start)
    return matrix


@operator("UpSampling")
def _upsampling(call: Call) -> Tensor:
    call.attributes.only("sample_type", "nearest")
    call.attributes.only("num_args", 1)
    call.attributes.get("num_filter", None)
    graph, scale = call.graph, call.attributes.whole("scale", 1)
    batch, channels, *spatial = call.x.shape
    scales = graph.constant([1, 1, *(scale for _ in spatial)], np.float32)
    shape = [batch, channels, *(scale * length for length in spatial)]
    if graph.opset < 11:
        return graph.add("Resize", [call.x, scales], shape, name=call.name, mode="nearest")
    return graph.add(
        "Resize",
        [call.x, graph.constant(np.zeros(0), np.float32), scales],
        shape,
        name=call.name,
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )


@operator("_contrib_ModulatedDeformableConvolution")
def _modulated_deformable_convolution(call: Call) -> Tensor:
    look = deformable_windows(call.attributes)
    write = deform_conv if call.graph.opset >= DEFORM_CONV_OPSET else sampled_convolution
    return write(
        call.graph,
        *call.inputs,
        kernel=look.kernel,
        stride=look.stride,
        dilate=look.dilate,
        pad=look.pad,
        name=call.name,
    )


@operator("_contrib_box_nms")
def _box_nms(call: Call) -> Tensor:
    kind = suppression(call.attributes)
    return box_nms(
        call.graph,
        call.x,
        classes=call.classes,
        overlap=kind.overlap,
        least_score=kind.score,
        candidates=kind.candidates,
        name=call.name,
    )
