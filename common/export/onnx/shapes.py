"""Operators that lay elements out anew."""

from __future__ import annotations

import math

import numpy as np

from common.engine.symbol import reshaped
from common.export.onnx.graph import Tensor, broadcast
from common.export.onnx.operator_table import Call, operator, same_type


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
    same_type(call)
    call.attributes.get("num_args", None)
    return call.graph.concat(call.inputs, call.attributes.whole("dim", 1), call.name)


@operator("stack")
def _stack(call: Call) -> Tensor:
    same_type(call)
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
