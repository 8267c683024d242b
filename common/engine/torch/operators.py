"""What each of MXNet's operators is in PyTorch: a function an operator, in one table.

Meanings are those of MXNet 1.9.1 (https://mxnet.apache.org/versions/1.9.1/api/python/docs/api/ and its sources under
src/operator). A function gets a node's attributes once, and gives what computes the node's outputs from its inputs;
those that behave differently in training get the `Pass` that they are part of before the inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor

from common.engine.symbol import Attributes, UnsupportedError, reshaped
from common.engine.torch.deformable import deformable_convolution
from common.engine.torch.reduction import Whole
from common.engine.torch.suppression import box_nms

Compute = Callable[..., Any]


@dataclass(frozen=True)
class Seen:
    """What a BatchNorm has seen: mean and one over the deviation of every channel.

    variance: name of the running one. momentum: share of the running statistics that stays. epsilon: added to the
    variance.
    """

    mean: Tensor
    inverse: Tensor
    variance: str
    momentum: float
    epsilon: float


@dataclass
class Pass:
    """One run of a graph. training: BatchNorm by the batch's statistics, and dropout drops.

    statistics: of these BatchNorms, by the name of their running mean; of a layer that runs twice, the first. whole: of
    the batch whose rows several ranks have, if they do.
    """

    training: bool
    statistics: dict[str, Seen] = field(default_factory=dict)
    whole: Whole | None = None


@dataclass(frozen=True)
class Call:
    """A node to be translated. inputs: names of the nodes that it has its inputs from."""

    name: str
    attributes: Attributes
    inputs: Sequence[str]


Make = Callable[[Call], Compute]


@dataclass(frozen=True)
class Operator:
    """An entry of the table.

    stateful: its function takes the `Pass` first. precision: in mixed precision it computes in the lower one ("lower"),
    takes its inputs as they come ("any"), or in float32 ("full").
    """

    make: Make
    stateful: bool
    precision: str


OPERATORS: dict[str, Operator] = {}


def operator(*names: str, stateful: bool = False, precision: str = "full") -> Callable[[Make], Make]:
    """Enter a function into the table under the names of its operator."""

    def enter(make: Make) -> Make:
        OPERATORS.update(dict.fromkeys(names, Operator(make, stateful, precision)))
        return make

    return enter


# Numbers.


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
    "_copy": lambda x: x,
    "identity": lambda x: x,
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


# Images.


@operator("_image_to_tensor")
def _to_tensor(call: Call) -> Compute:
    """(…, H, W, C) uint8 to (…, C, H, W) from 0 to 1. The order in memory stays, which convolutions like."""
    return lambda x: x.movedim(-1, -3).to(torch.get_default_dtype()) / 255.0


@operator("_image_normalize")
def _normalize(call: Call) -> Compute:
    mean, std = (
        np.asarray(call.attributes.get(name, default), np.float32).reshape(-1, 1, 1)
        for name, default in (("mean", 0.0), ("std", 1.0))
    )
    constants = _Constants(mean, std)

    def compute(x: Tensor) -> Tensor:
        centre, width = constants.on(x.device)
        return (x - centre) / width

    return compute


class _Constants:
    """Arrays that a node brings with it, on the device where they are asked for."""

    def __init__(self, *arrays: np.ndarray) -> None:
        self._arrays = arrays
        self._on: dict[torch.device, list[Tensor]] = {}

    def on(self, device: torch.device) -> list[Tensor]:
        if device not in self._on:
            self._on[device] = [torch.from_numpy(array.copy()).to(device) for array in self._arrays]
        return self._on[device]


# Layers.


@operator("Convolution", precision="lower")
def _convolution(call: Call) -> Compute:
    attributes = call.attributes
    attributes.only("layout", "NCHW", None)
    for name in ("num_filter", "no_bias"):
        attributes.get(name, None)
    dimensions = len(attributes.numbers("kernel"))
    if dimensions != 2:
        raise UnsupportedError(f"a kernel of {dimensions} dimensions; only 2 are known")
    stride, dilate = (attributes.numbers(name, (1, 1)) or (1, 1) for name in ("stride", "dilate"))
    pad = attributes.numbers("pad", (0, 0)) or (0, 0)
    group = attributes.whole("num_group", 1)
    return lambda x, weight, bias=None: nnf.conv2d(x, weight, bias, stride, pad, dilate, group)


@operator("Deconvolution", precision="lower")
def _deconvolution(call: Call) -> Compute:
    attributes = call.attributes
    attributes.only("layout", "NCHW", None)
    attributes.only("target_shape", (), None)
    for name in ("num_filter", "no_bias"):
        attributes.get(name, None)
    dimensions = len(attributes.numbers("kernel"))
    if dimensions != 2:
        raise UnsupportedError(f"a kernel of {dimensions} dimensions; only 2 are known")
    stride, dilate = (attributes.numbers(name, (1, 1)) or (1, 1) for name in ("stride", "dilate"))
    pad, adjust = (attributes.numbers(name, (0, 0)) or (0, 0) for name in ("pad", "adj"))
    group = attributes.whole("num_group", 1)
    return lambda x, weight, bias=None: nnf.conv_transpose2d(
        x, weight, bias, stride, pad, adjust, group, dilate
    )


@operator("FullyConnected", precision="lower")
def _fully_connected(call: Call) -> Compute:
    for name in ("num_hidden", "no_bias"):
        call.attributes.get(name, None)
    if call.attributes.flag("flatten", True):
        return lambda x, weight, bias=None: nnf.linear(x.flatten(1), weight, bias)
    return nnf.linear


@operator("BatchNorm", "_contrib_SyncBatchNorm", stateful=True, precision="any")
def _batch_norm(call: Call) -> Compute:
    """Its statistics are noted, not averaged: whoever runs the graph does that, with `momentum`."""
    attributes = call.attributes
    attributes.only("axis", 1)
    attributes.only("output_mean_var", False)
    for name in ("ndev", "key"):
        attributes.get(name, None)
    fixed = attributes.flag("fix_gamma", True)
    epsilon = float(attributes.get("eps", 1e-3))
    momentum = float(attributes.get("momentum", 0.9))
    running = attributes.flag("use_global_stats")
    name, of_variance = call.inputs[3:]

    def compute(run: Pass, x: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        if fixed:
            gamma = torch.ones_like(gamma)
        if running or not run.training:
            return torch.batch_norm(x, gamma, beta, mean, variance, False, 0.0, epsilon, x.is_cuda)
        if run.whole is not None and run.whole.normalised:
            output, batch_mean, inverse = run.whole.batch_norm(x, gamma, beta, epsilon)
        else:
            output, batch_mean, inverse = normalised(x, gamma, beta, epsilon)
        seen = Seen(batch_mean.detach(), inverse.detach(), of_variance, momentum, epsilon)
        run.statistics.setdefault(name, seen)
        return output

    return compute


def normalised(x: Tensor, gamma: Tensor, beta: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """What BatchNorm makes of a batch by its own statistics; these: mean, and one over the deviation.

    On the CPU PyTorch adds up a map that lies channels last number by number, in float32: of 18,000 places mean and
    variance come out wrong by 1e-5, of which fifty layers make 1e-2. Here they are right to 1e-7.
    """
    if x.is_cuda:
        return torch.native_batch_norm(x, gamma, beta, None, None, True, 0.0, epsilon)
    with torch.no_grad():
        axes, wide = [0, *range(2, x.dim())], _full(x)
        centre = wide.mean(axes, keepdim=True)
        variance = (wide - centre).square_().mean(axes)
        mean, inverse = centre.flatten(), (variance + epsilon).rsqrt_()
    output: Tensor = _Normalised.apply(x, gamma, beta, mean, inverse, epsilon)
    return output, mean, inverse


class _Normalised(torch.autograd.Function):
    """BatchNorm in training by the statistics that it is given, which follow its input."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, inverse: Tensor, epsilon: float
    ) -> Tensor:
        """What is normalised."""
        ctx.save_for_backward(x, gamma, mean, inverse)
        ctx.epsilon = epsilon
        return torch.batch_norm(x, gamma, beta, mean, inverse**-2 - epsilon, False, 0.0, epsilon, False)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Of the input, gamma and beta."""
        x, gamma, mean, inverse = ctx.saved_tensors
        asked = list(ctx.needs_input_grad[:3])
        found = torch.ops.aten.native_batch_norm_backward(
            gradient, x, gamma, None, None, mean, inverse, True, ctx.epsilon, asked
        )
        return (
            *(each if wanted else None for each, wanted in zip(found, asked, strict=True)),
            None,
            None,
            None,
        )


@operator("_contrib_gradientmultiplier", stateful=True, precision="any")
def _whole_batch(call: Call) -> Compute:
    """See `common.engine.graph.whole_batch`."""
    call.attributes.only("scalar", 1)

    def compute(run: Pass, x: Tensor) -> Tensor:
        return x if run.whole is None else run.whole.rows(x)

    return compute


@operator("L2Normalization")
def _l2_normalization(call: Call) -> Compute:
    call.attributes.only("mode", "instance", "channel")
    epsilon = float(call.attributes.get("eps", 1e-10))
    along = call.attributes.get("mode", "instance") == "channel"

    def compute(x: Tensor) -> Tensor:
        axes = [1] if along else list(range(1, x.dim()))
        return x / (x.square().sum(axes, keepdim=True) + epsilon).sqrt()

    return compute


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    # Softplus as it is defined: PyTorch's is the identity from 20 on, which is the same in float32.
    "softrelu": nnf.softplus,
    "softsign": nnf.softsign,
}


@operator("Activation", precision="any")
def _activation(call: Call) -> Compute:
    call.attributes.only("act_type", "relu", *_ACTIVATIONS)
    kind = call.attributes.get("act_type", "relu")
    if kind == "relu":
        return torch.relu
    function = _ACTIVATIONS[kind]
    return lambda x: function(_full(x))


@operator("LeakyReLU", precision="any")
def _leaky_relu(call: Call) -> Compute:
    call.attributes.only("act_type", "leaky")
    slope = float(call.attributes.get("slope", 0.25))
    return lambda x: nnf.leaky_relu(x, slope)


def _full(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _softmax(function: Callable[[Tensor, int], Tensor]) -> Make:
    def make(call: Call) -> Compute:
        for name, allowed in (
            ("temperature", (None, 1, 1.0)),
            ("use_length", (False,)),
            ("dtype", (None,)),
        ):
            call.attributes.only(name, *allowed)
        axis = call.attributes.whole("axis", -1)
        return lambda x: function(x, axis)

    return make


operator("softmax")(_softmax(torch.softmax))
operator("log_softmax")(_softmax(torch.log_softmax))


@operator("Dropout", stateful=True, precision="any")
def _dropout(call: Call) -> Compute:
    call.attributes.only("mode", "training")
    call.attributes.only("axes", (), None)
    share = float(call.attributes.get("p", 0.5))
    return lambda run, x: nnf.dropout(x, share, run.training)


@operator("Pooling", precision="any")
def _pooling(call: Call) -> Compute:
    attributes = call.attributes
    attributes.only("layout", "NCHW", None)
    attributes.only("pool_type", "max", "avg")
    attributes.only("pooling_convention", "valid", "full")
    largest = attributes.get("pool_type", "max") == "max"
    kernel = attributes.numbers("kernel")
    stride = attributes.numbers("stride") or (1,) * len(kernel)
    pad = attributes.numbers("pad") or (0,) * len(kernel)
    full = attributes.get("pooling_convention", "valid") == "full"
    count = attributes.flag("count_include_pad", True)
    if attributes.flag("global_pool"):
        return (
            (lambda x: x.amax((2, 3), keepdim=True)) if largest else (lambda x: x.mean((2, 3), keepdim=True))
        )

    wide = any(
        2 * p > k for p, k in zip(pad, kernel, strict=True)
    )  # PyTorch allows no such padding of its own

    def beyond(x: Tensor) -> list[int]:
        """Rows and columns that the last window, where sizes are rounded up, has beside the padded map."""
        places = []
        for length, k, s, p in zip(x.shape[2:], kernel, stride, pad, strict=True):
            windows = math.ceil((length + 2 * p - k) / s) + 1
            places.append(max((windows - 1) * s + k - length - 2 * p, 0) if full else 0)
        return places

    def compute_largest(x: Tensor) -> Tensor:
        below, right = beyond(x)
        if below or right or wide:
            lowest = torch.finfo(x.dtype).min
            sides = (pad[1], pad[1] + right, pad[0], pad[0] + below)
            return nnf.max_pool2d(nnf.pad(x, sides, value=lowest), kernel, stride)
        return nnf.max_pool2d(x, kernel, stride, pad)

    def compute_mean(x: Tensor) -> Tensor:
        below, right = beyond(x)
        sides = (pad[1], pad[1] + right, pad[0], pad[0] + below)
        if not (below or right or wide) and (count or not any(pad)):
            return nnf.avg_pool2d(x, kernel, stride, pad, count_include_pad=count)
        sums = nnf.avg_pool2d(nnf.pad(x, sides), kernel, stride)
        # A window is divided by its places on the map, and on its padding where that counts, but by none beyond.
        places = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype, device=x.device)
        around = (pad[1], pad[1], pad[0], pad[0])
        places = nnf.pad(places, around, value=1.0 if count else 0.0)
        share = nnf.avg_pool2d(nnf.pad(places, (0, right, 0, below)), kernel, stride)
        return sums / share

    return compute_largest if largest else compute_mean


@operator("_contrib_AdaptiveAvgPooling2D", precision="any")
def _adaptive_average(call: Call) -> Compute:
    sizes = call.attributes.numbers("output_size", (1,)) or (1,)
    sizes = sizes * 2 if len(sizes) == 1 else sizes
    return lambda x: nnf.adaptive_avg_pool2d(x, sizes)


@operator("UpSampling", precision="any")
def _upsampling(call: Call) -> Compute:
    call.attributes.only("sample_type", "nearest")
    call.attributes.only("num_args", 1)
    call.attributes.get("num_filter", None)
    scale = call.attributes.whole("scale", 1)
    return lambda x: nnf.interpolate(x, scale_factor=float(scale), mode="nearest")


@operator("BilinearSampler")
def _bilinear_sampler(call: Call) -> Compute:
    """Both place -1 and 1 in the middle of the border's pixels, and take what lies outside as 0."""
    return lambda x, grid: nnf.grid_sample(
        x, grid.permute(0, 2, 3, 1), mode="bilinear", padding_mode="zeros", align_corners=True
    )


@operator("_contrib_ModulatedDeformableConvolution")
def _modulated_deformable_convolution(call: Call) -> Compute:
    attributes = call.attributes
    attributes.only("layout", "NCHW", None)
    attributes.only("num_group", 1)
    attributes.only("num_deformable_group", 1)
    for name in ("num_filter", "no_bias", "im2col_step"):
        attributes.get(name, None)
    attributes.numbers("kernel")
    stride, dilate = (attributes.numbers(name, (1, 1)) for name in ("stride", "dilate"))
    pad = attributes.numbers("pad", (0, 0))

    def compute(
        x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        return deformable_convolution(x, offset, mask, weight, bias, stride=stride, pad=pad, dilate=dilate)

    return compute


@operator("_contrib_box_nms")
def _box_nms(call: Call) -> Compute:
    attributes = call.attributes
    for name in ("in_format", "out_format"):
        attributes.only(name, "corner")
    attributes.only("background_id", -1)
    attributes.only("score_index", 1)
    attributes.only("coord_start", 2)
    attributes.only("id_index", 0)
    attributes.only("force_suppress", False)
    overlap, score = (
        float(attributes.get(n, d)) for n, d in (("overlap_thresh", 0.5), ("valid_thresh", 0.0))
    )
    candidates = attributes.whole("topk", -1)
    return lambda x: box_nms(x, overlap=overlap, score=score, candidates=candidates)


# Shapes.


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


# Values.


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
    constants = _Constants(values.astype(attributes.get("dtype", "float32")))
    return lambda device: constants.on(device)[0]


def _filled_shape(value: float | None) -> Make:
    def make(call: Call) -> Compute:
        attributes = call.attributes
        attributes.get("ctx", None)
        filling = attributes.get("value", 0.0) if value is None else value
        shape, dtype = attributes.numbers("shape"), attributes.get("dtype", "float32")
        constants = _Constants(np.full(shape, filling, np.dtype(dtype)))
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
