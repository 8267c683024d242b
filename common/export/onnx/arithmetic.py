"""Operators on numbers: an element at a time, sums, orders, and choices of elements."""

from __future__ import annotations

import math

import numpy as np

from common.engine.symbol import UnsupportedError
from common.export.onnx.graph import Tensor, grows
from common.export.onnx.operator_table import OPERATORS, Call, Emit, operator, same_type

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
        same_type(call)
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
            same_type(call)
            other = call.inputs[1]
        return graph.cast(graph.binary(op, call.x, other, np.bool_), dtype, call.name)

    return emit


OPERATORS.update({name: _unary(op) for name, op in _UNARY.items()})
OPERATORS.update({name: _binary(op) for name, op in (_BINARY | _EXTREMES).items()})
OPERATORS.update({name: _scalar(*rule) for name, rule in _SCALAR.items()})
OPERATORS.update({f"broadcast_{name}": _comparison(op, scalar=False) for name, op in _COMPARISONS.items()})
OPERATORS.update({f"_{name}": _comparison(op, scalar=False) for name, op in _COMPARISONS.items()})
OPERATORS.update({f"_{name}_scalar": _comparison(op, scalar=True) for name, op in _COMPARISONS.items()})


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
    same_type(call)
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
    same_type(call)
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
