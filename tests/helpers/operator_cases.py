"""A graph of each operator, made at random with all that it has to do with, and MXNet's word on what it computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mxnet as mx
import numpy as np

Rng = np.random.Generator
# A symbol on `data`, its parameters, and the shape of an image of data.
Case = tuple[Any, dict[str, np.ndarray], tuple[int, ...]]
CASES: dict[str, Callable[[Rng], Case]] = {}
#: Times that a case is made, each time another one.
ROUNDS = 8

data = mx.sym.var("data")


def case(*names: str) -> Callable[[Callable[[Rng], Case]], Callable[[Rng], Case]]:
    def enter(make: Callable[[Rng], Case]) -> Callable[[Rng], Case]:
        CASES.update(dict.fromkeys(names, make))
        return make

    return enter


def sizes(rng: Rng, count: int, low: int = 1, high: int = 6) -> tuple[int, ...]:
    return tuple(rng.integers(low, high + 1, count).tolist())


def normal(rng: Rng, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def of(name: str) -> Any:
    """MXNet's function for an operator."""
    for place, prefix in ((mx.sym, ""), (mx.sym.contrib, "_contrib_"), (mx.sym._internal, "")):
        if name.startswith(prefix) and hasattr(place, name.removeprefix(prefix)):
            return getattr(place, name.removeprefix(prefix))
    raise AssertionError(f"MXNet has no operator {name}")


def one_input(name: str, change: Callable[[Any], Any] = lambda x: x) -> None:
    CASES[name] = lambda rng: (of(name)(change(data)), {}, sizes(rng, 3))


for name in ("exp", "abs", "floor", "negative", "relu", "sigmoid", "tanh", "_copy", "BlockGrad", "square"):
    one_input(name)
for name in ("zeros_like", "ones_like", "Flatten", "shape_array"):
    one_input(name)
for name in ("log", "sqrt", "rsqrt"):
    one_input(name, lambda x: mx.sym.abs(x) + 0.1)


def two_inputs(name: str, whole: bool) -> None:
    """Operators of two inputs; whole: of whole numbers, so that some are equal, and none 0."""

    def make(rng: Rng) -> Case:
        shape = sizes(rng, 3)
        other = shape
        if name.startswith("broadcast"):
            other = tuple(1 if rng.random() < 0.4 else axis for axis in shape)
        values = rng.integers(1, 4, (1, *other)).astype(np.float32) if whole else normal(rng, 1, *other)
        a = mx.sym.floor(data) if whole else data
        if name.startswith("broadcast"):
            return of(name)(a, mx.sym.var("b")), {"b": values}, shape
        # Without broadcasting both have the batch.
        b = mx.sym.broadcast_add(a * 0, mx.sym.var("b"))
        return of(name)(a, b), {"b": values}, shape

    CASES[name] = make


for kind in ("add", "sub", "mul", "div"):
    for name in (f"_{kind}", f"elemwise_{kind}", f"broadcast_{kind}"):
        two_inputs(name, whole=kind == "div")
for kind in ("maximum", "minimum"):
    for name in (f"_{kind}", f"broadcast_{kind}"):
        two_inputs(name, whole=False)
for kind in ("equal", "greater", "lesser"):
    for name in (f"_{kind}", f"broadcast_{kind}"):
        two_inputs(name, whole=True)
    CASES[f"_{kind}_scalar"] = lambda rng, kind=kind: (
        of(f"_{kind}_scalar")(mx.sym.floor(data), scalar=int(rng.integers(-1, 2))),
        {},
        sizes(rng, 3),
    )
two_inputs("broadcast_mod", whole=True)
for name in ("_plus_scalar", "_minus_scalar", "_rminus_scalar", "_mul_scalar", "_div_scalar"):
    CASES[name] = lambda rng, name=name: (of(name)(data, scalar=float(rng.normal())), {}, sizes(rng, 3))
CASES["_rdiv_scalar"] = lambda rng: (
    of("_rdiv_scalar")(mx.sym.abs(data) + 0.1, scalar=float(rng.normal())),
    {},
    sizes(rng, 3),
)
CASES["_power_scalar"] = lambda rng: (data ** int(rng.integers(1, 4)), {}, sizes(rng, 3))


@case("Convolution")
def _convolution(rng: Rng) -> Case:
    group = int(rng.integers(1, 4))
    channels, outputs = group * int(rng.integers(1, 4)), group * int(rng.integers(1, 4))
    kernel, stride, dilate, pad = (
        sizes(rng, 2, 1, 3),
        sizes(rng, 2, 1, 3),
        sizes(rng, 2, 1, 2),
        sizes(rng, 2, 0, 2),
    )
    bias = rng.random() < 0.5
    symbol = mx.sym.Convolution(
        data, kernel=kernel, stride=stride, dilate=dilate, pad=pad, num_filter=outputs, num_group=group,
        no_bias=not bias, name="layer",
    )  # fmt: skip
    values = {
        "layer_weight": normal(rng, outputs, channels // group, *kernel),
        "layer_bias": normal(rng, outputs),
    }
    return symbol, values, (channels, *sizes(rng, 2, 6, 11))


@case("Deconvolution")
def _deconvolution(rng: Rng) -> Case:
    group = int(rng.integers(1, 3))
    channels, outputs = group * int(rng.integers(1, 4)), group * int(rng.integers(1, 4))
    kernel, stride = sizes(rng, 2, 2, 4), sizes(rng, 2, 1, 3)
    pad = tuple(int(rng.integers(0, k)) for k in kernel)
    adj = tuple(int(rng.integers(0, s)) for s in stride)
    symbol = mx.sym.Deconvolution(
        data, kernel=kernel, stride=stride, pad=pad, adj=adj, num_filter=outputs, num_group=group, no_bias=True,
        name="layer",
    )  # fmt: skip
    return (
        symbol,
        {"layer_weight": normal(rng, channels, outputs // group, *kernel)},
        (channels, *sizes(rng, 2, 4, 7)),
    )


@case("FullyConnected")
def _fully_connected(rng: Rng) -> Case:
    shape, flatten, bias = sizes(rng, int(rng.integers(1, 4))), bool(rng.random() < 0.7), rng.random() < 0.5
    outputs, inputs = int(rng.integers(1, 6)), int(np.prod(shape)) if flatten else shape[-1]
    symbol = mx.sym.FullyConnected(data, num_hidden=outputs, flatten=flatten, no_bias=not bias, name="layer")
    return symbol, {"layer_weight": normal(rng, outputs, inputs), "layer_bias": normal(rng, outputs)}, shape


@case("BatchNorm", "_contrib_SyncBatchNorm")
def _batch_norm(rng: Rng) -> Case:
    channels = int(rng.integers(1, 6))
    symbol = mx.sym.BatchNorm(
        data, fix_gamma=bool(rng.random() < 0.5), eps=float(rng.choice([1e-5, 1e-3])), name="layer"
    )
    values = {f"layer_{name}": normal(rng, channels) for name in ("gamma", "beta", "moving_mean")}
    values["layer_moving_var"] = np.abs(normal(rng, channels)) + 0.1
    return symbol, values, (channels, *sizes(rng, 2))


@case("L2Normalization")
def _l2(rng: Rng) -> Case:
    return (
        mx.sym.L2Normalization(data, eps=float(rng.choice([1e-10, 1e-2]))),
        {},
        sizes(rng, int(rng.integers(1, 3))),
    )


@case("Activation")
def _activation(rng: Rng) -> Case:
    kind = str(rng.choice(["relu", "sigmoid", "tanh", "softrelu", "softsign"]))
    return mx.sym.Activation(data, act_type=kind), {}, sizes(rng, 3)


@case("LeakyReLU")
def _leaky(rng: Rng) -> Case:
    return mx.sym.LeakyReLU(data, act_type="leaky", slope=float(rng.random())), {}, sizes(rng, 3)


@case("softmax")
def _softmax(rng: Rng) -> Case:
    return mx.sym.softmax(data), {}, sizes(rng, 1)


@case("Dropout")
def _dropout(rng: Rng) -> Case:
    return mx.sym.Dropout(data, p=float(rng.random())), {}, sizes(rng, 2)


@case("Pooling")
def _pooling(rng: Rng) -> Case:
    kind = str(rng.choice(["max", "avg"]))
    if rng.random() < 0.2:
        return mx.sym.Pooling(data, global_pool=True, pool_type=kind, kernel=(1, 1)), {}, sizes(rng, 3)
    kernel = sizes(rng, 2, 1, 3)
    symbol = mx.sym.Pooling(
        data,
        pool_type=kind,
        kernel=kernel,
        stride=sizes(rng, 2, 1, 3),
        pad=tuple(int(rng.integers(0, k)) for k in kernel),
        pooling_convention=str(rng.choice(["valid", "full"])) if kind == "max" else "valid",
        count_include_pad=bool(rng.random() < 0.5),
    )
    return symbol, {}, (int(rng.integers(1, 4)), *sizes(rng, 2, 5, 9))


@case("_contrib_AdaptiveAvgPooling2D")
def _adaptive(rng: Rng) -> Case:
    size = int(rng.choice([1, 3, 7]))
    return mx.sym.contrib.AdaptiveAvgPooling2D(data, output_size=size), {}, (2, *sizes(rng, 2, 1, 15))


@case("UpSampling")
def _upsampling(rng: Rng) -> Case:
    return mx.sym.UpSampling(data, scale=int(rng.integers(1, 4)), sample_type="nearest"), {}, sizes(rng, 3)


def _deformable(rng: Rng) -> Case:
    channels, outputs = sizes(rng, 2)
    kernel, stride, pad, dilate = (
        sizes(rng, 2, 1, 3),
        sizes(rng, 2, 1, 2),
        sizes(rng, 2, 0, 2),
        sizes(rng, 2, 1, 2),
    )
    settings = {"kernel": kernel, "stride": stride, "pad": pad, "dilate": dilate}
    taps = kernel[0] * kernel[1]
    moved = mx.sym.Convolution(data, num_filter=3 * taps, name="offset", **settings)
    symbol = mx.sym.contrib.ModulatedDeformableConvolution(
        data,
        mx.sym.slice_axis(moved, axis=1, begin=0, end=2 * taps),
        mx.sym.sigmoid(mx.sym.slice_axis(moved, axis=1, begin=2 * taps, end=None)) * 2,
        num_filter=outputs,
        name="layer",
        **settings,
    )
    values = {
        "offset_weight": normal(rng, 3 * taps, channels, *kernel),
        "offset_bias": normal(rng, 3 * taps),
        "layer_weight": normal(rng, outputs, channels, *kernel),
        "layer_bias": normal(rng, outputs),
    }
    return symbol, values, (channels, *sizes(rng, 2, 5, 9))


CASES["_contrib_ModulatedDeformableConvolution"] = _deformable


@case("Reshape")
def _reshape(rng: Rng) -> Case:
    shapes = [
        (0, -1),
        (0, -4, 2, -1, 0, 0),
        (0, -4, -1, 2, -2),
        (0, 0, -3),
        (-1, 1, 2),
        (0, -3, 0),
        (-2, 1),
        (-3, 0, -1),
    ]
    return mx.sym.Reshape(data, shape=shapes[rng.integers(len(shapes))]), {}, (4, *sizes(rng, 2))


CASES["reshape_like"] = lambda rng: (
    mx.sym.reshape_like(mx.sym.Reshape(data, shape=(0, -1)), mx.sym.square(data)),
    {},
    sizes(rng, 3),
)
CASES["transpose"] = lambda rng: (mx.sym.transpose(data, axes=rng.permutation(4).tolist()), {}, sizes(rng, 3))
CASES["expand_dims"] = lambda rng: (
    mx.sym.expand_dims(data, axis=int(rng.integers(-1, 4))),
    {},
    sizes(rng, 3),
)
CASES["squeeze"] = lambda rng: (mx.sym.squeeze(data, axis=2), {}, (3, 1, *sizes(rng, 1)))
CASES["Concat"] = lambda rng: (mx.sym.concat(data, data * 2, dim=int(rng.integers(1, 4))), {}, sizes(rng, 3))
CASES["stack"] = lambda rng: (mx.sym.stack(data, data * 2, axis=int(rng.integers(-1, 4))), {}, sizes(rng, 3))
CASES["SliceChannel"] = lambda rng: (
    mx.sym.split(data, num_outputs=3, axis=2, squeeze_axis=bool(rng.random() < 0.5)),
    {},
    (2, 3, *sizes(rng, 1)),
)
CASES["reverse"] = lambda rng: (mx.sym.reverse(data, axis=int(rng.integers(1, 4))), {}, sizes(rng, 3))
CASES["tile"] = lambda rng: (mx.sym.tile(data, reps=(1, 1, *sizes(rng, 2, 1, 3))), {}, sizes(rng, 3))
CASES["repeat"] = lambda rng: (
    mx.sym.repeat(data, repeats=int(rng.integers(1, 4)), axis=2),
    {},
    sizes(rng, 3),
)
CASES["shape_array"] = lambda rng: (mx.sym.cast(mx.sym.shape_array(data), "float32"), {}, sizes(rng, 3))


@case("slice_axis")
def _slice_axis(rng: Rng) -> Case:
    begin, end = sorted(rng.choice(np.arange(0, 7), 2, replace=False).tolist())
    last = [end, end - 7 if end < 7 else None][int(rng.integers(2))]
    return mx.sym.slice_axis(data, axis=2, begin=begin, end=last), {}, (2, 7, *sizes(rng, 1))


@case("slice_like")
def _slice_like(rng: Rng) -> Case:
    shape = sizes(rng, 3, 3, 6)
    axes = [(2, 3), (3,), ()][int(rng.integers(3))]
    smaller = mx.sym.slice_axis(mx.sym.slice_axis(data, axis=2, begin=1, end=None), axis=3, begin=0, end=2)
    return mx.sym.slice_like(data * 2, smaller, axes=axes), {}, shape


@case("Pad")
def _pad(rng: Rng) -> Case:
    mode = str(rng.choice(["constant", "edge", "reflect"]))
    width = (0, 0, 0, 0, *sizes(rng, 4, 0, 2))
    return (
        mx.sym.Pad(data, mode=mode, pad_width=width, constant_value=float(rng.normal())),
        {},
        (2, *sizes(rng, 2, 3, 6)),
    )


@case("broadcast_axis", "broadcast_axes")
def _broadcast_axis(rng: Rng) -> Case:
    return mx.sym.broadcast_axis(data, axis=(1, 3), size=sizes(rng, 2)), {}, (1, *sizes(rng, 1), 1)


@case("broadcast_like")
def _broadcast_like(rng: Rng) -> Case:
    few = mx.sym.slice_axis(mx.sym.slice_axis(data, axis=1, begin=0, end=1), axis=3, begin=0, end=1)
    return mx.sym.broadcast_like(few, data), {}, sizes(rng, 3)


@case("_arange")
def _arange(rng: Rng) -> Case:
    numbers = mx.sym.arange(2, 2 + int(rng.integers(1, 6)), step=0.5, repeat=int(rng.integers(1, 3)))
    return mx.sym.broadcast_add(data, mx.sym.Reshape(numbers, shape=(1, 1, -1))), {}, (*sizes(rng, 1), 1)


@case("_contrib_arange_like")
def _arange_like(rng: Rng) -> Case:
    axis = int(rng.integers(0, 4))
    numbers = mx.sym.contrib.arange_like(data, axis=axis)
    shape = [-1 if each == axis else 1 for each in range(4)]
    return mx.sym.broadcast_add(data, mx.sym.Reshape(numbers, shape=shape)), {}, sizes(rng, 3)


CASES["Cast"] = lambda rng: (mx.sym.cast(mx.sym.cast(data * 3, "int64"), "float32"), {}, sizes(rng, 3))
CASES["clip"] = lambda rng: (mx.sym.clip(data, -float(rng.random()), float(rng.random())), {}, sizes(rng, 3))
CASES["amp_multicast"] = lambda rng: (
    mx.sym.amp_multicast(data, data * 2, num_outputs=2, cast_narrow=True),
    {},
    sizes(rng, 3),
)
CASES["where"] = lambda rng: (mx.sym.where(data > 0, data * 2, data - 1), {}, sizes(rng, 3))
CASES["add_n"] = lambda rng: (mx.sym.add_n(data, data * 2, data * 3), {}, sizes(rng, 3))
for name in ("mean", "sum", "max", "min"):
    CASES[name] = lambda rng, name=name: (
        of(name)(data, axis=[(2, 3), 1, (1, 2, 3)][int(rng.integers(3))], keepdims=bool(rng.random() < 0.5)),
        {},
        sizes(rng, 3),
    )


@case("batch_dot")
def _batch_dot(rng: Rng) -> Case:
    shape = sizes(rng, 2)
    if rng.random() < 0.5:
        return mx.sym.batch_dot(data, data, transpose_a=True), {}, shape
    return mx.sym.batch_dot(data, data, transpose_b=True), {}, shape


@case("topk")
def _topk(rng: Rng) -> Case:
    shape = (*sizes(rng, 1), 9)
    kind = str(rng.choice(["indices", "value", "both"]))
    return (
        mx.sym.topk(data, k=int(rng.integers(1, 9)), ret_typ=kind, is_ascend=bool(rng.random() < 0.5)),
        {},
        shape,
    )


@case("gather_nd")
def _gather_nd(rng: Rng) -> Case:
    shape = sizes(rng, 2, 2, 5)
    places = mx.sym.cast(
        mx.sym.topk(mx.sym.slice_axis(data, axis=2, begin=0, end=1).reshape((0, -1)), k=2), "int64"
    )
    images = mx.sym.cast(mx.sym.contrib.arange_like(data, axis=0).expand_dims(1), "int64")
    where = mx.sym.stack(mx.sym.broadcast_like(images, places), places, axis=0)
    return mx.sym.gather_nd(data, where), {}, shape


def _box_nms(rng: Rng) -> Case:
    count = int(rng.integers(5, 40))
    columns = mx.sym.split(data, num_outputs=6, axis=2)
    ids, scores = mx.sym.clip(mx.sym.floor(columns[0]), 0, 2), mx.sym.sigmoid(columns[1])
    corners = [columns[2], columns[3], columns[2] + mx.sym.abs(columns[4]), columns[3] + columns[5]]
    symbol = mx.sym.contrib.box_nms(
        mx.sym.concat(ids, scores, *corners, dim=2),
        overlap_thresh=float(rng.uniform(0.1, 0.7)),
        valid_thresh=float(rng.uniform(0, 0.5)),
        topk=int(rng.choice([-1, 10])),
        id_index=0,
        score_index=1,
        coord_start=2,
    )
    return symbol, {}, (count, 6)


CASES["_contrib_box_nms"] = _box_nms


def run_symbol(symbol: Any, parameters: Mapping[str, np.ndarray], data: np.ndarray) -> list[np.ndarray]:
    """The outputs of a symbol, by MXNet."""
    known = {name: parameters[name].shape for name in symbol.list_inputs() if name != "data"}
    bound = symbol.simple_bind(mx.cpu(), grad_req="null", data=data.shape, **known)
    for arrays in (bound.arg_dict, bound.aux_dict):
        for name, array in arrays.items():
            array[:] = data if name == "data" else parameters[name]
    return [output.asnumpy() for output in bound.forward(is_train=False)]


def unmatched(wanted: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> tuple[int, int]:
    """Rows of detections (ids, scores, boxes) that have none of the same class, score and place in the other ones:
    how many of both together, and the number of rows that were wanted."""
    missing = count = 0
    for rows, others in zip(np.concatenate(wanted, -1), np.concatenate(found, -1), strict=True):
        rows, left = rows[rows[:, 0] >= 0], others[others[:, 0] >= 0]
        count += len(rows)
        for row in rows:
            near = np.abs(left - row) < [0.1, 1e-3, 0.05, 0.05, 0.05, 0.05]
            same = near.all(axis=1).nonzero()[0]
            if len(same):
                left = np.delete(left, same[0], axis=0)
            else:
                missing += 1
        missing += len(left)
    return missing, count
