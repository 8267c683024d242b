"""Modulated deformable convolution ("Deformable ConvNets v2", Zhu et al. 2019, https://arxiv.org/abs/1811.11168)."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor


@functools.cache
def _operator() -> Callable[..., Any] | None:
    """torchvision's, where it is installed and was built for this PyTorch."""
    if importlib.util.find_spec("torchvision") is None:
        return None
    try:
        from torchvision.ops import deform_conv2d

        torch.ops.torchvision.deform_conv2d  # noqa: B018
    except (ImportError, RuntimeError, AttributeError, OSError):
        return None
    function: Callable[..., Any] = deform_conv2d
    return function


def deformable_convolution(
    x: Tensor,
    offset: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    stride: Sequence[int],
    pad: Sequence[int],
    dilate: Sequence[int],
) -> Tensor:
    """x (B, C, H, W); offset (B, 2 * taps, H', W'), y and x in pixels for each tap (row by row); mask (B, taps, H',
    W'); weight (channels, C, *kernel); bias (channels,). Returns (B, channels, H', W'). What lies outside of x is 0."""
    operator = _operator()
    if operator is not None:
        return torch.as_tensor(
            operator(x, offset, weight, bias, tuple(stride), tuple(pad), tuple(dilate), mask)
        )
    return sampled_convolution(x, offset, mask, weight, bias, stride=stride, pad=pad, dilate=dilate)


def sampled_convolution(
    x: Tensor,
    offset: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    stride: Sequence[int],
    pad: Sequence[int],
    dilate: Sequence[int],
) -> Tensor:
    """The same by sampling each tap's map, after a 1 x 1 convolution for all taps (see
    `detect.center_net.deformable`)."""
    channels, _, *kernel = weight.shape
    taps = kernel[0] * kernel[1]
    batch, _, height, width = x.shape
    rows, columns = mask.shape[2:]
    by_tap = weight.permute(2, 3, 0, 1).reshape(taps * channels, -1, 1, 1)
    mixed = nnf.conv2d(x, by_tap).reshape(batch * taps, channels, height, width)
    tap = torch.arange(taps, device=x.device)
    sizes = (height, width)
    places = []
    moved = offset.reshape(batch, taps, 2, rows, columns)
    for axis, (number, length) in enumerate(((tap // kernel[1], rows), (tap % kernel[1], columns))):
        place = torch.arange(length, device=x.device) * stride[axis] - pad[axis]
        place = place.reshape(-1, 1) if axis == 0 else place.reshape(1, -1)
        position = moved[:, :, axis] + (number * dilate[axis]).reshape(1, taps, 1, 1) + place
        # Pixels' borders, not middles, are at -1 and 1: that holds for maps of one pixel too.
        places.append((2 * position + 1) / sizes[axis] - 1)
    grid = torch.stack((places[1], places[0]), -1).reshape(batch * taps, rows, columns, 2)
    sampled = nnf.grid_sample(mixed, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    weighted = sampled.reshape(batch, taps, channels, rows, columns) * mask.unsqueeze(2)
    output = weighted.sum(1)
    return output if bias is None else output + bias.reshape(1, -1, 1, 1)
