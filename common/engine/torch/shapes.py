"""Operators that lay elements out anew."""

from __future__ import annotations

import torch
import torch.nn.functional as nnf
from torch import Tensor

from common.engine.symbol import reshaped
from common.engine.torch.operator_table import Call, Compute, operator


@operator("Reshape", precision="any")
def _reshape(call: Call) -> Compute:
    call.attributes.only("reverse", False)
    codes = call.attributes.numbers("shape")
    return lambda x: x.reshape(reshaped(x.shape, codes))


@operator("reshape_like", precision="any")
def _reshape_like(call: Call) -> Compute:
    for name in ("lhs_begin", "lhs_end", "rhs_begin", "rhs_end"):
        call.attributes.only(name, None)
    return lambda x, like: x.reshape(like.shape)


@operator("transpose", precision="any")
def _transpose(call: Call) -> Compute:
    axes = call.attributes.numbers("axes")
    return lambda x: x.permute(axes or tuple(reversed(range(x.dim()))))


@operator("SwapAxis", precision="any")
def _swap_axes(call: Call) -> Compute:
    first, second = (call.attributes.whole(name, 0) for name in ("dim1", "dim2"))
    return lambda x: x.transpose(first, second)


@operator("expand_dims", precision="any")
def _expand_dims(call: Call) -> Compute:
    axis = call.attributes.whole("axis", 0)
    return lambda x: x.unsqueeze(axis)


@operator("squeeze", precision="any")
def _squeeze(call: Call) -> Compute:
    axes = call.attributes.numbers("axis")
    return lambda x: x.squeeze(axes) if axes else x.squeeze()


@operator("Concat", precision="any")
def _concat(call: Call) -> Compute:
    call.attributes.get("num_args", None)
    axis = call.attributes.whole("dim", 1)
    return lambda *inputs: torch.cat(inputs, axis)


@operator("stack", precision="any")
def _stack(call: Call) -> Compute:
    call.attributes.get("num_args", None)
    axis = call.attributes.whole("axis", 0)
    return lambda *inputs: torch.stack(inputs, axis)


@operator("SliceChannel", precision="any")
def _slice_channel(call: Call) -> Compute:
    axis, count = call.attributes.whole("axis", 1), call.attributes.whole("num_outputs", 1)
    squeeze = call.attributes.flag("squeeze_axis")

    def compute(x: Tensor) -> list[Tensor]:
        parts = x.tensor_split(count, axis)
        return [part.squeeze(axis) for part in parts] if squeeze else list(parts)

    return compute


def _cut(x: Tensor, axis: int, begin: int | None, end: int | None, step: int = 1) -> Tensor:
    length = x.shape[axis]
    start, stop, step = slice(begin, end, step).indices(length)
    if step < 0:  # backwards: the same places in order, turned round
        count = len(range(start, stop, step))
        last = start + (count - 1) * step
        return x.narrow(axis, last, start - last + 1).flip(axis)[
            (slice(None),) * (axis % x.dim()) + (slice(None, None, -step),)
        ]
    if step == 1:
        return x.narrow(axis, start, max(stop - start, 0))
    return x[(slice(None),) * (axis % x.dim()) + (slice(start, stop, step),)]


@operator("slice_axis", precision="any")
def _slice_axis(call: Call) -> Compute:
    axis, begin = call.attributes.whole("axis", 0), call.attributes.whole("begin", 0)
    end = call.attributes.get("end", None)
    return lambda x: _cut(x, axis, begin, end)


@operator("slice", precision="any")
def _slice(call: Call) -> Compute:
    begin, end = (tuple(call.attributes.get(name, ())) for name in ("begin", "end"))
    steps = call.attributes.get("step", None) or ()

    def compute(x: Tensor) -> Tensor:
        for axis, (first, last) in enumerate(zip(begin, end, strict=True)):
            step = (steps[axis] if axis < len(steps) else None) or 1
            x = _cut(x, axis, first, last, step)
        return x

    return compute


@operator("slice_like", precision="any")
def _slice_like(call: Call) -> Compute:
    axes = call.attributes.numbers("axes")

    def compute(x: Tensor, like: Tensor) -> Tensor:
        for axis in axes or range(like.dim()):
            x = x.narrow(axis, 0, like.shape[axis])
        return x

    return compute


@operator("reverse", precision="any")
def _reverse(call: Call) -> Compute:
    axes = call.attributes.numbers("axis")
    return lambda x: x.flip(axes)


@operator("tile", precision="any")
def _tile(call: Call) -> Compute:
    reps = call.attributes.numbers("reps")
    return lambda x: x.tile(reps)


@operator("repeat", precision="any")
def _repeat(call: Call) -> Compute:
    repeats, axis = call.attributes.whole("repeats", 1), call.attributes.get("axis", None)
    return lambda x: x.repeat_interleave(repeats, axis)


@operator("Pad", precision="any")
def _pad(call: Call) -> Compute:
    call.attributes.only("mode", "constant", "edge", "reflect")
    mode = {"edge": "replicate"}.get(kind := call.attributes.get("mode", "constant"), kind)
    width = call.attributes.numbers("pad_width")
    value = float(call.attributes.get("constant_value", 0))
    sides = [side for axis in range(len(width) // 2 - 1, -1, -1) for side in width[2 * axis : 2 * axis + 2]]
    if mode == "constant":
        return lambda x: nnf.pad(x, sides, value=value)
    return lambda x: nnf.pad(x, sides[:-4], mode=mode)


@operator("broadcast_axis", "broadcast_axes", precision="any")
def _broadcast_axis(call: Call) -> Compute:
    axes, sizes = call.attributes.numbers("axis"), call.attributes.numbers("size")

    def compute(x: Tensor) -> Tensor:
        shape = list(x.shape)
        for axis, size in zip(axes, sizes, strict=True):
            shape[axis] = size
        return x.expand(shape)

    return compute


@operator("broadcast_like", precision="any")
def _broadcast_like(call: Call) -> Compute:
    for name in ("lhs_axes", "rhs_axes"):
        call.attributes.only(name, None)
    return lambda x, like: x.expand(like.shape)


@operator("shape_array", precision="any")
def _shape_array(call: Call) -> Compute:
    return lambda x: torch.tensor(x.shape, dtype=torch.int64, device=x.device)
