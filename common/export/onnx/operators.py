"""What each of MXNet's operators is in ONNX: a function an operator, in one table.

Meanings are those of MXNet 1.9.1 (https://mxnet.apache.org/versions/1.9.1/api/python/docs/api/ and its sources under
src/operator) and of ONNX (https://onnx.ai/onnx/operators/). A function gets the graph, its node's inputs and
attributes, and gives the node's outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from common.engine.symbol import Attributes, UnsupportedError, reshaped
from common.export.onnx.deformable import deform_conv, sampled_convolution
from common.export.onnx.graph import DEFORM_CONV_OPSET, Graph, Tensor, broadcast, grows
from common.export.onnx.suppression import box_nms


@dataclass(frozen=True)
class Call:
    """A node to be written. classes: of a detector, for what depends on their number."""

    graph: Graph
    name: str
    inputs: Sequence[Tensor]
    attributes: Attributes
    classes: int

    @property
    def x(self) -> Tensor:
        """The first input."""
        return self.inputs[0]


Emit = Callable[[Call], "Tensor | list[Tensor]"]
OPERATORS: dict[str, Emit] = {}


def operator(*names: str) -> Callable[[Emit], Emit]:
    """Enter a function into the table under the names of its operator."""

    def enter(function: Emit) -> Emit:
        OPERATORS.update(dict.fromkeys(names, function))
        return function

    return enter


# Operators that are one node of ONNX.

_UNARY = {
    "exp": "Exp",
    "log": "Log",
    "sqrt": "Sqrt",
    "abs": "Abs",
    "floor": "Floor",
    "negative": "Neg",
    "relu": "Relu",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "_copy": "Identity",
    "BlockGrad": "Identity",
}
_BINARY = {
    "_add": "Add",
    "_sub": "Sub",
    "_mul": "Mul",
    "_div": "Div",
    "elemwise_add": "Add",
    "elemwise_sub": "Sub",
    "elemwise_mul": "Mul",
    "elemwise_div": "Div",
    "broadcast_add": "Add",
    "broadcast_sub": "Sub",
    "broadcast_mul": "Mul",
    "broadcast_div": "Div",
}
_EXTREMES = {
    "broadcast_maximum": "Max",
    "broadcast_minimum": "Min",
    "_maximum": "Max",
    "_minimum": "Min",
}
_SCALAR = {
    "_plus_scalar": ("Add", False),
    "_minus_scalar": ("Sub", False),
    "_rminus_scalar": ("Sub", True),
    "_mul_scalar": ("Mul", False),
    "_div_scalar": ("Div", False),
    "_rdiv_scalar": ("Div", True),
    "_power_scalar": ("Pow", False),
}
_COMPARISONS = {"equal": "Equal", "greater": "Greater", "lesser": "Less"}


def _unary(op: str) -> Emit:
    return lambda call: call.graph.add(op, [call.x], call.x.shape, name=call.name)


def _binary(op: str) -> Emit:
    def emit(call: Call) -> Tensor:
        _same_type(call)
        a, b = call.inputs
        return call.graph.binary(op, a, b, name=call.name)

    return emit


def _scalar(op: str, reverse: bool) -> Emit:
    def emit(call: Call) -> Tensor:
        scalar = call.attributes.get("scalar", 1.0)
        call.attributes.only("is_int", True, False, 1, 0)
        if call.x.dtype.kind in "iu" and scalar != int(scalar):
            raise UnsupportedError(f"{scalar} beside whole numbers")
        number = call.graph.constant(scalar, call.x.dtype)
        a, b = (number, call.x) if reverse else (call.x, number)
        return call.graph.binary(op, a, b, name=call.name)

    return emit


def _comparison(op: str, scalar: bool) -> Emit:
    """MXNet's comparisons give 0 and 1 in the type of what they compare."""

    def emit(call: Call) -> Tensor:
        graph, dtype = call.graph, call.x.dtype
        if scalar:
            call.attributes.only("is_int", True, False, 1, 0)
            other = graph.constant(call.attributes.get("scalar", 1.0), dtype)
        else:
            _same_type(call)
            other = call.inputs[1]
        return graph.cast(graph.binary(op, call.x, other, np.bool_), dtype, call.name)

    return emit


def _same_type(call: Call) -> None:
    if len({tensor.dtype for tensor in call.inputs}) > 1:
        raise UnsupportedError(f"inputs of types {', '.join(str(tensor.dtype) for tensor in call.inputs)}")


OPERATORS.update({name: _unary(op) for name, op in _UNARY.items()})
OPERATORS.update({name: _binary(op) for name, op in (_BINARY | _EXTREMES).items()})
OPERATORS.update({name: _scalar(*rule) for name, rule in _SCALAR.items()})
OPERATORS.update({f"broadcast_{name}": _comparison(op, scalar=False) for name, op in _COMPARISONS.items()})
OPERATORS.update({f"_{name}": _comparison(op, scalar=False) for name, op in _COMPARISONS.items()})
OPERATORS.update({f"_{name}_scalar": _comparison(op, scalar=True) for name, op in _COMPARISONS.items()})


# Layers.


@operator("Convolution")
def _convolution(call: Call) -> Tensor:
    attributes = call.attributes
    call.attributes.only("layout", "NCHW", None)
    weight = call.inputs[1]
    dimensions = len(weight.shape) - 2
    kernel = attributes.numbers("kernel")
    stride = attributes.numbers("stride", (1,) * dimensions)
    dilate = attributes.numbers("dilate", (1,) * dimensions)
    pad = attributes.numbers("pad", (0,) * dimensions)
    attributes.get("num_filter", None)
    attributes.get("no_bias", False)
    spatial = [
        (length + 2 * p - d * (k - 1) - 1) // s + 1
        for length, k, s, d, p in zip(call.x.shape[2:], kernel, stride, dilate, pad, strict=True)
    ]
    return call.graph.add(
        "Conv",
        call.inputs,
        [call.x.shape[0], weight.shape[0], *spatial],
        name=call.name,
        kernel_shape=kernel,
        strides=stride,
        dilations=dilate,
        pads=(*pad, *pad),
        group=attributes.whole("num_group", 1),
    )


@operator("Deconvolution")
def _deconvolution(call: Call) -> Tensor:
    attributes = call.attributes
    attributes.only("layout", "NCHW", None)
    attributes.only("target_shape", (), None)
    weight = call.inputs[1]
    dimensions = len(weight.shape) - 2
    kernel = attributes.numbers("kernel")
    stride = attributes.numbers("stride", (1,) * dimensions)
    dilate = attributes.numbers("dilate", (1,) * dimensions)
    pad = attributes.numbers("pad", (0,) * dimensions)
    adjust = attributes.numbers("adj", (0,) * dimensions)
    group = attributes.whole("num_group", 1)
    attributes.get("num_filter", None)
    attributes.get("no_bias", False)
    spatial = [
        (length - 1) * s + d * (k - 1) + 1 - 2 * p + a
        for length, k, s, d, p, a in zip(call.x.shape[2:], kernel, stride, dilate, pad, adjust, strict=True)
    ]
    options = {"output_padding": adjust} if any(adjust) else {}
    return call.graph.add(
        "ConvTranspose",
        call.inputs,
        [call.x.shape[0], weight.shape[1] * group, *spatial],
        name=call.name,
        kernel_shape=kernel,
        strides=stride,
        dilations=dilate,
        pads=(*pad, *pad),
        group=group,
        **options,
    )


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
    attributes = call.attributes
    attributes.only("layout", "NCHW", None)
    attributes.only("num_group", 1)
    attributes.only("num_deformable_group", 1)
    for name in ("num_filter", "no_bias", "im2col_step"):
        attributes.get(name, None)
    write = deform_conv if call.graph.opset >= DEFORM_CONV_OPSET else sampled_convolution
    return write(
        call.graph,
        *call.inputs,
        kernel=attributes.numbers("kernel"),
        stride=attributes.numbers("stride", (1, 1)),
        dilate=attributes.numbers("dilate", (1, 1)),
        pad=attributes.numbers("pad", (0, 0)),
        name=call.name,
    )


@operator("_contrib_box_nms")
def _box_nms(call: Call) -> Tensor:
    attributes = call.attributes
    for name in ("in_format", "out_format"):
        attributes.only(name, "corner")
    attributes.only("background_id", -1)
    attributes.only("force_suppress", False)
    attributes.only("score_index", 1)
    attributes.only("coord_start", 2)
    attributes.only("id_index", 0)
    return box_nms(
        call.graph,
        call.x,
        classes=call.classes,
        overlap=float(attributes.get("overlap_thresh", 0.5)),
        least_score=float(attributes.get("valid_thresh", 0.0)),
        candidates=attributes.whole("topk", -1),
        name=call.name,
    )


# Shapes.


@operator("Flatten")
def _flatten(call: Call) -> Tensor:
    return call.graph.reshape(call.x, [call.x.shape[0], math.prod(call.x.shape[1:])], call.name)


@operator("Reshape")
def _reshape(call: Call) -> Tensor:
    call.attributes.only("reverse", False)
    shape = reshaped(call.x.shape, call.attributes.numbers("shape"))
    return call.graph.reshape(call.x, shape, call.name)


@operator("reshape_like")
def _reshape_like(call: Call) -> Tensor:
    for name in ("lhs_begin", "lhs_end", "rhs_begin", "rhs_end"):
        call.attributes.only(name, None)
    return call.graph.reshape(call.x, call.inputs[1].shape, call.name)


@operator("transpose")
def _transpose(call: Call) -> Tensor:
    axes = call.attributes.numbers("axes") or tuple(reversed(range(len(call.x.shape))))
    return call.graph.transpose(call.x, axes, call.name)


@operator("expand_dims")
def _expand_dims(call: Call) -> Tensor:
    axis = call.attributes.whole("axis", 0) % (len(call.x.shape) + 1)
    return call.graph.reshape(call.x, [*call.x.shape[:axis], 1, *call.x.shape[axis:]], call.name)


@operator("squeeze")
def _squeeze(call: Call) -> Tensor:
    shape = call.x.shape
    default = tuple(i for i, axis in enumerate(shape) if axis == 1)
    axes = {axis % len(shape) for axis in call.attributes.numbers("axis", default)}
    return call.graph.reshape(call.x, [a for i, a in enumerate(shape) if i not in axes], call.name)


@operator("Concat")
def _concat(call: Call) -> Tensor:
    _same_type(call)
    call.attributes.get("num_args", None)
    return call.graph.concat(call.inputs, call.attributes.whole("dim", 1), call.name)


@operator("stack")
def _stack(call: Call) -> Tensor:
    _same_type(call)
    call.attributes.get("num_args", None)
    shape = call.x.shape
    axis = call.attributes.whole("axis", 0) % (len(shape) + 1)
    each = [call.graph.reshape(x, [*shape[:axis], 1, *shape[axis:]]) for x in call.inputs]
    return call.graph.concat(each, axis, call.name)


@operator("SliceChannel")
def _slice_channel(call: Call) -> list[Tensor]:
    graph, x = call.graph, call.x
    axis = call.attributes.whole("axis", 1) % len(x.shape)
    count = call.attributes.whole("num_outputs", 1)
    squeeze = call.attributes.flag("squeeze_axis")
    step = x.shape[axis] // count
    parts = [graph.slice(x, axis, i * step, (i + 1) * step) for i in range(count)]
    if squeeze:
        parts = [graph.reshape(part, [*x.shape[:axis], *x.shape[axis + 1 :]]) for part in parts]
    return parts


@operator("slice_axis")
def _slice_axis(call: Call) -> Tensor:
    axis, begin = call.attributes.whole("axis", 0), call.attributes.whole("begin", 0)
    end = call.attributes.get("end", None)
    return call.graph.slice(call.x, axis, begin, None if end is None else int(end), call.name)


@operator("slice_like")
def _slice_like(call: Call) -> Tensor:
    x, like = call.inputs
    for axis in call.attributes.numbers("axes") or range(len(like.shape)):
        if x.shape[axis] != like.shape[axis]:
            x = call.graph.slice(x, axis, 0, like.shape[axis])
    return x


@operator("reverse")
def _reverse(call: Call) -> Tensor:
    x = call.x
    for axis in call.attributes.numbers("axis"):
        x = call.graph.reverse(x, axis % len(x.shape))
    return x


@operator("tile")
def _tile(call: Call) -> Tensor:
    reps = call.attributes.numbers("reps")
    length = max(len(reps), len(call.x.shape))
    reps = (1,) * (length - len(reps)) + reps
    x = call.graph.reshape(call.x, (1,) * (length - len(call.x.shape)) + call.x.shape)
    shape = [axis * rep for axis, rep in zip(x.shape, reps, strict=True)]
    return call.graph.add("Tile", [x, call.graph.constant(reps, np.int64)], shape, name=call.name)


@operator("repeat")
def _repeat(call: Call) -> Tensor:
    graph, x = call.graph, call.x
    repeats, axis = call.attributes.whole("repeats", 1), call.attributes.get("axis", None)
    if axis is None:
        x, axis = graph.reshape(x, [math.prod(x.shape)]), 0
    before, (length, *after) = x.shape[: axis % len(x.shape)], x.shape[axis % len(x.shape) :]
    apart = graph.reshape(x, [*before, length, 1, *after])
    repeated = graph.expand(apart, [*before, length, repeats, *after])
    return graph.reshape(repeated, [*before, length * repeats, *after], call.name)


@operator("Pad")
def _pad(call: Call) -> Tensor:
    call.attributes.only("mode", "constant", "edge", "reflect")
    mode = call.attributes.get("mode", "constant")
    width = call.attributes.numbers("pad_width")
    begin, end = width[::2], width[1::2]
    value = float(call.attributes.get("constant_value", 0))
    return call.graph.pad(call.x, begin, end, value, mode, call.name)


@operator("broadcast_axis", "broadcast_axes")
def _broadcast_axis(call: Call) -> Tensor:
    shape = list(call.x.shape)
    axes, sizes = call.attributes.numbers("axis"), call.attributes.numbers("size")
    for axis, size in zip(axes, sizes, strict=True):
        shape[axis] = size
    return call.graph.expand(call.x, shape, name=call.name)


@operator("broadcast_like")
def _broadcast_like(call: Call) -> Tensor:
    for name in ("lhs_axes", "rhs_axes"):
        call.attributes.only(name, None)
    like = call.inputs[1]
    return call.graph.expand(call.x, broadcast(call.x.shape, like.shape), like, name=call.name)


@operator("shape_array")
def _shape_array(call: Call) -> Tensor:
    return call.graph.shape_of(call.x.shape, call.x)


# Values.


@operator("_arange")
def _arange(call: Call) -> Tensor:
    attributes = call.attributes
    attributes.only("infer_range", False)
    attributes.get("ctx", None)
    start, stop, step = (
        attributes.get(name, default) for name, default in (("start", 0), ("stop", None), ("step", 1))
    )
    if stop is None:
        start, stop = 0, start
    values = np.arange(start, stop, step).repeat(attributes.whole("repeat", 1))
    return call.graph.constant(values, attributes.get("dtype", "float32"), call.name)


@operator("_contrib_arange_like")
def _arange_like(call: Call) -> Tensor:
    graph, attributes = call.graph, call.attributes
    attributes.only("repeat", 1)
    attributes.get("ctx", None)
    start, step = attributes.get("start", 0), attributes.get("step", 1)
    axis = attributes.get("axis", None)
    length = math.prod(call.x.shape) if axis is None else call.x.shape[axis]
    if not grows(length):
        return graph.constant(start + step * np.arange(length), call.x.dtype, call.name)
    if axis != 0 or (start, step) != (0, 1):
        raise UnsupportedError("numbers along the batch that are not 0, 1, …")
    return graph.cast(graph.images(call.x), call.x.dtype, call.name)


def _filled(value: int) -> Emit:
    return lambda call: call.graph.expand(
        call.graph.constant(value, call.x.dtype), call.x.shape, call.x, name=call.name
    )


OPERATORS.update({"zeros_like": _filled(0), "ones_like": _filled(1)})


@operator("Cast")
def _cast(call: Call) -> Tensor:
    dtype = np.dtype(call.attributes.get("dtype", "float32"))
    return call.graph.cast(call.x, dtype, call.name)


@operator("amp_multicast")
def _multicast(call: Call) -> list[Tensor]:
    """Types brought into line, where they are in line already."""
    for name in ("num_outputs", "cast_narrow"):
        call.attributes.get(name, None)
    _same_type(call)
    return list(call.inputs)


@operator("clip")
def _clip(call: Call) -> Tensor:
    graph, x = call.graph, call.x
    low, high = (float(call.attributes.get(name, 0)) for name in ("a_min", "a_max"))
    if graph.opset < 11:
        return graph.add("Clip", [x], x.shape, name=call.name, min=low, max=high)
    limits = [graph.constant(limit, x.dtype, f"{call.name}_limit") for limit in (low, high)]
    return graph.add("Clip", [x, *limits], x.shape, name=call.name)


@operator("square")
def _square(call: Call) -> Tensor:
    return call.graph.binary("Mul", call.x, call.x, name=call.name)


@operator("rsqrt")
def _rsqrt(call: Call) -> Tensor:
    root = call.graph.add("Sqrt", [call.x], call.x.shape)
    return call.graph.add("Reciprocal", [root], call.x.shape, name=call.name)


@operator("broadcast_mod")
def _mod(call: Call) -> Tensor:
    """The remainder with the divisor's sign; ONNX has it for whole numbers."""
    _same_type(call)
    a, b = call.inputs
    if a.dtype.kind == "i":
        return call.graph.binary("Mod", a, b, name=call.name)
    quotient = call.graph.binary("Div", a, b)
    whole = call.graph.add("Floor", [quotient], quotient.shape)
    return call.graph.binary("Sub", a, call.graph.binary("Mul", whole, b), name=call.name)


@operator("where")
def _where(call: Call) -> Tensor:
    condition, a, b = call.inputs
    if condition.shape != a.shape:
        raise UnsupportedError("a condition of another shape")
    chosen = [call.graph.cast(condition, np.bool_), a, b]
    return call.graph.add("Where", chosen, a.shape, a.dtype, name=call.name)


@operator("add_n")
def _add_n(call: Call) -> Tensor:
    call.attributes.get("num_args", None)
    return call.graph.add("Sum", call.inputs, call.x.shape, name=call.name)


@operator("batch_dot")
def _batch_dot(call: Call) -> Tensor:
    a, b = call.inputs
    for name in ("forward_stype",):
        call.attributes.only(name, None)
    if call.attributes.flag("transpose_a"):
        a = call.graph.transpose(a, [0, 2, 1])
    if call.attributes.flag("transpose_b"):
        b = call.graph.transpose(b, [0, 2, 1])
    return call.graph.add("MatMul", [a, b], [a.shape[0], a.shape[1], b.shape[2]], name=call.name)


def _reduction(op: str) -> Emit:
    def emit(call: Call) -> Tensor:
        every = tuple(range(len(call.x.shape)))
        axes = call.attributes.numbers("axis") or every
        call.attributes.only("exclude", False)
        return call.graph.reduce(op, call.x, axes, call.attributes.flag("keepdims"), call.name)

    return emit


OPERATORS.update(
    {
        name: _reduction(f"Reduce{op}")
        for name, op in (("mean", "Mean"), ("sum", "Sum"), ("max", "Max"), ("min", "Min"))
    }
)


@operator("topk")
def _topk(call: Call) -> Tensor | list[Tensor]:
    graph, attributes, x = call.graph, call.attributes, call.x
    last = len(x.shape) - 1
    attributes.only("axis", -1, last)
    attributes.only("ret_typ", "indices", "value", "both")
    kind = attributes.get("ret_typ", "indices")
    dtype = np.dtype(attributes.get("dtype", "float32"))
    count = attributes.whole("k", 1)
    shape = [*x.shape[:-1], count]
    number = graph.constant([count], np.int64)
    largest = int(not attributes.flag("is_ascend"))
    values, places = graph.add_all(
        "TopK",
        [x, number],
        [(shape, x.dtype), (shape, np.int64)],
        name=call.name,
        axis=last,
        largest=largest,
        sorted=1,
    )
    places = graph.cast(places, dtype)
    return [values, places] if kind == "both" else values if kind == "value" else places


@operator("gather_nd")
def _gather_nd(call: Call) -> Tensor:
    """MXNet's places lie along the first axis of the indices, ONNX's along the last."""
    graph, (x, indices) = call.graph, call.inputs
    rank = len(indices.shape)
    last = graph.cast(graph.transpose(indices, [*range(1, rank), 0]), np.int64)
    shape = [*indices.shape[1:], *x.shape[indices.shape[0] :]]
    return graph.add("GatherND", [x, last], shape, x.dtype, name=call.name)
