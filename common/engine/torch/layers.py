"""Operators that are layers of networks, and those that images go through first."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor

from common.engine.layer_attributes import Windows, deformable_windows, suppression, windows
from common.engine.symbol import WHOLE_BATCH, UnsupportedError
from common.engine.torch.deformable import deformable_convolution
from common.engine.torch.operator_table import Call, Compute, Constants, Make, Pass, Seen, operator
from common.engine.torch.suppression import box_nms


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
    constants = Constants(mean, std)

    def compute(x: Tensor) -> Tensor:
        centre, width = constants.on(x.device)
        return (x - centre) / width

    return compute


def _in_two_dimensions(windows: Windows) -> Windows:
    """The same. Raises UnsupportedError for those of other maps."""
    if len(windows.kernel) != 2:
        raise UnsupportedError(f"a kernel of {len(windows.kernel)} dimensions; only 2 are known")
    return windows


@operator("Convolution", precision="lower")
def _convolution(call: Call) -> Compute:
    look = _in_two_dimensions(windows(call.attributes))
    return lambda x, weight, bias=None: nnf.conv2d(
        x, weight, bias, look.stride, look.pad, look.dilate, look.groups
    )


@operator("Deconvolution", precision="lower")
def _deconvolution(call: Call) -> Compute:
    look = _in_two_dimensions(windows(call.attributes))
    call.attributes.only("target_shape", (), None)
    adjust = call.attributes.numbers("adj", (0, 0)) or (0, 0)
    return lambda x, weight, bias=None: nnf.conv_transpose2d(
        x, weight, bias, look.stride, look.pad, adjust, look.groups, look.dilate
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


@operator("_copy", "identity", stateful=True, precision="any")
def _copy(call: Call) -> Compute:
    if not call.attributes.marked(WHOLE_BATCH):
        return lambda run, x: x
    return lambda run, x: x if run.whole is None else run.whole.rows(x)


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
    look = deformable_windows(call.attributes)

    def compute(
        x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        return deformable_convolution(
            x, offset, mask, weight, bias, stride=look.stride, pad=look.pad, dilate=look.dilate
        )

    return compute


@operator("_contrib_box_nms")
def _box_nms(call: Call) -> Compute:
    kind = suppression(call.attributes)
    return lambda x: box_nms(x, overlap=kind.overlap, score=kind.score, candidates=kind.candidates)
