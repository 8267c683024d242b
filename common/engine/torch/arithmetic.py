"""Operators on numbers: an element at a time, sums, orders, and choices of elements."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor

from common.engine.torch.operator_table import Call, Compute, Constants, Make, operator


def _like(result: Tensor, x: Tensor) -> Tensor:
    """MXNet's comparisons give 0 and 1 in the type of what they compare."""
    return result.to(x.dtype)


def _rounded(quotient: Callable[[Any, Any], Tensor]) -> Callable[[Any, Any], Tensor]:
    """Whole numbers are divided as in C."""

    def divide(a: Any, b: Any) -> Tensor:
        whole = isinstance(a, Tensor) and not a.is_floating_point()
        return torch.div(a, b, rounding_mode="trunc") if whole else quotient(a, b)

    return divide


_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": torch.exp,
    "log": torch.log,
    "log1p": torch.log1p,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "square": torch.square,
    "abs": torch.abs,
    "floor": torch.floor,
    "negative": torch.neg,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "arctan": torch.arctan,
    "zeros_like": torch.zeros_like,
    "ones_like": torch.ones_like,
}
_AS_IT_COMES: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "BlockGrad": torch.detach,
    "Flatten": lambda x: x.flatten(1),
}
_BINARY: dict[str, Callable[[Any, Any], Tensor]] = {
    "div": _rounded(torch.div),
    "mod": torch.remainder,
    "power": torch.pow,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "equal": lambda a, b: _like(a == b, a),
    "not_equal": lambda a, b: _like(a != b, a),
    "greater": lambda a, b: _like(a > b, a),
    "greater_equal": lambda a, b: _like(a >= b, a),
    "lesser": lambda a, b: _like(a < b, a),
    "lesser_equal": lambda a, b: _like(a <= b, a),
}
_BINARY_AS_THEY_COME: dict[str, Callable[[Any, Any], Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
}
_SCALAR: dict[str, Callable[[Tensor, float], Tensor]] = {
    "_plus_scalar": lambda x, s: x + s,
    "_minus_scalar": lambda x, s: x - s,
    "_rminus_scalar": lambda x, s: s - x,
    "_mul_scalar": lambda x, s: x * s,
    "_div_scalar": _rounded(lambda x, s: x / s),
}
_SCALAR_IN_FULL: dict[str, Callable[[Tensor, float], Tensor]] = {
    "_rdiv_scalar": lambda x, s: s / x,
    "_power_scalar": lambda x, s: x**s,
    "_mod_scalar": torch.remainder,
    "_maximum_scalar": lambda x, s: x.clamp(min=s),
    "_minimum_scalar": lambda x, s: x.clamp(max=s),
    "_equal_scalar": lambda x, s: _like(x == s, x),
    "_not_equal_scalar": lambda x, s: _like(x != s, x),
    "_greater_scalar": lambda x, s: _like(x > s, x),
    "_greater_equal_scalar": lambda x, s: _like(x >= s, x),
    "_lesser_scalar": lambda x, s: _like(x < s, x),
    "_lesser_equal_scalar": lambda x, s: _like(x <= s, x),
}


def _plain(function: Callable[..., Tensor]) -> Make:
    return lambda call: function


def _with_scalar(function: Callable[[Tensor, float], Tensor]) -> Make:
    def make(call: Call) -> Compute:
        scalar = call.attributes.get("scalar", 1.0)
        call.attributes.only("is_int", True, False, 1, 0)

        def compute(x: Tensor) -> Tensor:
            # Beside whole numbers a scalar is one of them.
            return function(x, float(scalar) if x.is_floating_point() else int(scalar))

        return compute

    return make


for _name, _function in _UNARY.items():
    operator(_name)(_plain(_function))
for _name, _function in _AS_IT_COMES.items():
    operator(_name, precision="any")(_plain(_function))
for _name, _two in _BINARY.items():
    operator(f"_{_name}", f"broadcast_{_name}")(_plain(_two))
operator("elemwise_div")(_plain(_BINARY["div"]))
for _name, _two in _BINARY_AS_THEY_COME.items():
    operator(f"_{_name}", f"elemwise_{_name}", f"broadcast_{_name}", precision="any")(_plain(_two))
for _name, _scaled in _SCALAR.items():
    operator(_name, precision="any")(_with_scalar(_scaled))
for _name, _scaled in _SCALAR_IN_FULL.items():
    operator(_name)(_with_scalar(_scaled))


def _dtype(name: Any) -> torch.dtype:
    known: torch.dtype = getattr(torch, np.dtype(name).name)
    return known


@operator("_arange")
def _arange(call: Call) -> Compute:
    attributes = call.attributes
    attributes.only("infer_range", False)
    attributes.get("ctx", None)
    start, stop, step = (attributes.get(n, d) for n, d in (("start", 0), ("stop", None), ("step", 1)))
    if stop is None:
        start, stop = 0, start
    values = np.arange(start, stop, step).repeat(attributes.whole("repeat", 1))
    constants = Constants(values.astype(attributes.get("dtype", "float32")))
    return lambda device: constants.on(device)[0]


def _filled_shape(value: float | None) -> Make:
    def make(call: Call) -> Compute:
        attributes = call.attributes
        attributes.get("ctx", None)
        filling = attributes.get("value", 0.0) if value is None else value
        shape, dtype = attributes.numbers("shape"), attributes.get("dtype", "float32")
        constants = Constants(np.full(shape, filling, np.dtype(dtype)))
        return lambda device: constants.on(device)[0]

    return make


operator("_zeros")(_filled_shape(0.0))
operator("_ones")(_filled_shape(1.0))
operator("_full")(_filled_shape(None))


@operator("_contrib_arange_like")
def _arange_like(call: Call) -> Compute:
    attributes = call.attributes
    attributes.only("repeat", 1)
    attributes.get("ctx", None)
    start, step = float(attributes.get("start", 0)), float(attributes.get("step", 1))
    axis = attributes.get("axis", None)

    def compute(x: Tensor) -> Tensor:
        length = x.numel() if axis is None else x.shape[axis]
        values = start + step * torch.arange(length, device=x.device, dtype=x.dtype)
        return values.reshape(x.shape) if axis is None else values

    return compute


@operator("Cast", "amp_cast")
def _cast(call: Call) -> Compute:
    dtype = _dtype(call.attributes.get("dtype", "float32"))
    return lambda x: x.to(dtype)


@operator("amp_multicast", precision="any")
def _multicast(call: Call) -> Compute:
    """Types brought into line: the widest of them, or the narrowest."""
    call.attributes.get("num_outputs", None)
    narrow = call.attributes.flag("cast_narrow")

    def compute(*inputs: Tensor) -> list[Tensor]:
        types = sorted({x.dtype for x in inputs}, key=lambda dtype: dtype.itemsize)
        return [x.to(types[0] if narrow else types[-1]) for x in inputs]

    return compute


@operator("clip", precision="any")
def _clip(call: Call) -> Compute:
    low, high = (float(call.attributes.get(name, 0)) for name in ("a_min", "a_max"))
    return lambda x: x.clamp(low, high)


@operator("smooth_l1")
def _smooth_l1(call: Call) -> Compute:
    """With s the scalar: (s x)^2 / 2 where |x| < 1 / s^2, |x| - 1 / (2 s^2) elsewhere."""
    beta = 1.0 / float(call.attributes.get("scalar", 1.0)) ** 2
    call.attributes.only("is_int", True, False, 1, 0)
    return lambda x: nnf.smooth_l1_loss(x, torch.zeros_like(x), reduction="none", beta=beta)


@operator("where")
def _where(call: Call) -> Compute:
    def compute(condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
        if condition.dim() == 1 and a.dim() > 1:  # chooses rows
            condition = condition.reshape(-1, *(1 for _ in a.shape[1:]))
        return torch.where(condition != 0, a, b)

    return compute


@operator("add_n", precision="any")
def _add_n(call: Call) -> Compute:
    call.attributes.get("num_args", None)

    def compute(first: Tensor, *others: Tensor) -> Tensor:
        for other in others:
            first = first + other
        return first

    return compute


def _dot(product: Callable[[Tensor, Tensor], Tensor]) -> Make:
    def make(call: Call) -> Compute:
        call.attributes.only("forward_stype", None)
        first, second = (call.attributes.flag(f"transpose_{which}") for which in "ab")

        def compute(a: Tensor, b: Tensor) -> Tensor:
            return product(a.transpose(-1, -2) if first else a, b.transpose(-1, -2) if second else b)

        return compute

    return make


operator("dot", "batch_dot")(_dot(torch.matmul))


def _reduction(function: Callable[[Tensor, list[int], bool], Tensor]) -> Make:
    def make(call: Call) -> Compute:
        axes = call.attributes.numbers("axis")
        exclude, keep = call.attributes.flag("exclude"), call.attributes.flag("keepdims")

        def compute(x: Tensor) -> Tensor:
            along = [axis % x.dim() for axis in axes] if axes or exclude else list(range(x.dim()))
            if exclude:
                along = [axis for axis in range(x.dim()) if axis not in along]
            result = function(x, along, keep) if along else x
            return result.reshape(1) if not result.dim() else result  # MXNet has no array without axes

        return compute

    return make


def _extreme(largest: bool) -> Callable[[Tensor, list[int], bool], Tensor]:
    """Along one axis its gradient goes to the first of equal ones, in MXNet to all of them: see `amax`."""
    return lambda x, axes, keep: (torch.amax if largest else torch.amin)(x, axes, keep)


operator("sum")(_reduction(lambda x, axes, keep: x.sum(axes, keep)))
operator("mean")(_reduction(lambda x, axes, keep: x.mean(axes, keep)))
operator("max")(_reduction(_extreme(True)))
operator("min")(_reduction(_extreme(False)))


@operator("topk")
def _topk(call: Call) -> Compute:
    attributes = call.attributes
    attributes.only("ret_typ", "indices", "value", "both")
    kind, axis = attributes.get("ret_typ", "indices"), attributes.whole("axis", -1)
    dtype = _dtype(attributes.get("dtype", "float32"))
    count, ascending = attributes.whole("k", 1), attributes.flag("is_ascend")

    def compute(x: Tensor) -> Tensor | list[Tensor]:
        # Of equal ones the first comes first, which topk does not promise.
        values, places = torch.sort(x, dim=axis, descending=not ascending, stable=True)
        length = count if count > 0 else x.shape[axis]
        values, places = values.narrow(axis, 0, length), places.narrow(axis, 0, length).to(dtype)
        return [values, places] if kind == "both" else values if kind == "value" else places

    return compute


def _sorted(places: bool) -> Make:
    def make(call: Call) -> Compute:
        axis, ascending = call.attributes.whole("axis", -1), call.attributes.flag("is_ascend", True)
        dtype = _dtype(call.attributes.get("dtype", "float32")) if places else None

        def compute(x: Tensor) -> Tensor:
            values, order = torch.sort(x, dim=axis, descending=not ascending, stable=True)
            return order.to(dtype) if places else values

        return compute

    return make


operator("sort")(_sorted(False))
operator("argsort")(_sorted(True))


@operator("argmax")
def _argmax(call: Call) -> Compute:
    axis, keep = call.attributes.get("axis", None), call.attributes.flag("keepdims")
    return lambda x: x.argmax(axis, keep).to(x.dtype)


@operator("one_hot")
def _one_hot(call: Call) -> Compute:
    depth = call.attributes.whole("depth", 0)
    on, off = (float(call.attributes.get(n, d)) for n, d in (("on_value", 1.0), ("off_value", 0.0)))
    dtype = _dtype(call.attributes.get("dtype", "float32"))

    def compute(ids: Tensor) -> Tensor:
        hit = ids.unsqueeze(-1).to(torch.int64) == torch.arange(depth, device=ids.device)
        return torch.where(hit, on, off).to(dtype)

    return compute


@operator("pick")
def _pick(call: Call) -> Compute:
    call.attributes.only("mode", "clip")
    axis, keep = call.attributes.whole("axis", -1), call.attributes.flag("keepdims")

    def compute(x: Tensor, index: Tensor) -> Tensor:
        place = index.to(torch.int64).clamp(0, x.shape[axis] - 1)
        place = place if place.dim() == x.dim() else place.unsqueeze(axis)
        picked = x.gather(axis, place)
        return picked if keep else picked.squeeze(axis)

    return compute


@operator("take")
def _take(call: Call) -> Compute:
    call.attributes.only("mode", "clip")
    axis = call.attributes.whole("axis", 0)

    def compute(x: Tensor, index: Tensor) -> Tensor:
        place = index.to(torch.int64).clamp(0, x.shape[axis] - 1)
        taken = x.index_select(axis, place.reshape(-1))
        return taken.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])

    return compute


@operator("gather_nd")
def _gather_nd(call: Call) -> Compute:
    """Rows by one index: what comes twice adds up on the way back in the same order every time."""

    def compute(x: Tensor, indices: Tensor) -> Tensor:
        depth = indices.shape[0]
        place = torch.zeros_like(indices[0], dtype=torch.int64)
        for axis in range(depth):
            place = place * x.shape[axis] + indices[axis].to(torch.int64)
        rows = x.reshape(math.prod(x.shape[:depth]), *x.shape[depth:])
        return rows.index_select(0, place.reshape(-1)).reshape(*indices.shape[1:], *x.shape[depth:])

    return compute
