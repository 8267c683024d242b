"""Modulated deformable convolution ("Deformable ConvNets v2", Zhu et al. 2019, https://arxiv.org/abs/1811.11168)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from common.export.onnx.graph import Graph, Tensor


def deform_conv(
    graph: Graph,
    x: Tensor,
    offset: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    kernel: Sequence[int],
    stride: Sequence[int],
    dilate: Sequence[int],
    pad: Sequence[int],
    name: str,
) -> Tensor:
    """The one operator for it, which ONNX has from version 19 on; arguments as for `sampled_convolution`."""
    return graph.add(
        "DeformConv",
        [x, weight, offset, bias, mask],
        [x.shape[0], weight.shape[0], *mask.shape[2:]],
        name=name,
        kernel_shape=list(kernel),
        strides=list(stride),
        dilations=list(dilate),
        pads=[*pad, *pad],
    )


def sampled_convolution(
    graph: Graph,
    x: Tensor,
    offset: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    kernel: Sequence[int],
    stride: Sequence[int],
    dilate: Sequence[int],
    pad: Sequence[int],
    name: str,
) -> Tensor:
    """The same numbers from operators that every runtime has: four rows are gathered for each tap at each place.

    x (B, C, H, W); offset (B, 2 * taps, H', W'), y and x in pixels for each tap (row by row); mask (B, taps, H', W');
    weight (channels, C, *kernel); bias (channels,). Returns (B, channels, H', W'). What lies outside of x is 0.
    """
    batch, channels, height, width = x.shape
    rows, columns = mask.shape[2:]
    taps, places = math.prod(kernel), rows * columns

    # A border of zeros: places beyond the map are brought to it. Channels of a place side by side, so that one index
    # fetches all of them.
    framed_width, framed = width + 2, (height + 2) * (width + 2)
    padded = graph.pad(x, (0, 0, 1, 1), (0, 0, 1, 1))
    by_place = graph.transpose(graph.reshape(padded, [batch, channels, framed]), [0, 2, 1])
    table = graph.reshape(by_place, [batch * framed, channels])

    by_tap = graph.reshape(offset, [batch, taps, 2, places])
    by_tap = graph.transpose(by_tap, [0, 3, 1, 2])  # (B, places, taps, y and x)
    tap = np.stack(np.meshgrid(*(np.arange(k) for k in kernel), indexing="ij"), -1).reshape(taps, 2)
    place = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), -1).reshape(
        places, 1, 2
    )
    # In the padded map, whose first place is -1 of the map.
    start = place * np.array(stride) - np.array(pad) + tap * np.array(dilate) + 1
    position = graph.binary("Add", by_tap, graph.constant(start, np.float32))
    position = graph.binary("Max", position, 0.0)
    position = graph.binary("Min", position, graph.constant([height + 1, width + 1], np.float32))
    # The last place has no successor: it is reached from the one before it.
    before = graph.add("Floor", [position], position.shape)
    before = graph.binary("Min", before, graph.constant([height, width], np.float32))
    share = graph.binary("Sub", position, before)
    # Whole numbers of places are exact in float32 up to 2^24, which no map comes near.
    index = graph.reduce(
        "ReduceSum", graph.binary("Mul", before, graph.constant([framed_width, 1], np.float32)), [3]
    )
    index = graph.cast(graph.reshape(index, [batch, places, taps]), np.int64)
    images = graph.reshape(graph.binary("Mul", graph.images(x), framed), [batch, 1, 1])
    index = graph.binary("Add", index, images)

    weights = []
    for axis in (0, 1):
        far = graph.reshape(graph.slice(share, 3, axis, axis + 1), [batch, places, taps])
        near = graph.binary("Sub", graph.constant(1.0, np.float32), far)
        weights.append((near, far))
    amount = graph.transpose(graph.reshape(mask, [batch, taps, places]), [0, 2, 1])
    sampled = None
    for down, vertical in enumerate(weights[0]):
        scaled = graph.binary("Mul", amount, vertical)
        for right, horizontal in enumerate(weights[1]):
            corner = graph.binary("Add", index, down * framed_width + right) if down or right else index
            values = graph.add("Gather", [table, corner], [batch, places, taps, channels], axis=0)
            factor = graph.reshape(graph.binary("Mul", scaled, horizontal), [batch, places, taps, 1])
            part = graph.binary("Mul", values, factor)
            sampled = part if sampled is None else graph.binary("Add", sampled, part)
    assert sampled is not None
    flat = graph.reshape(sampled, [batch, places, taps * channels])
    outputs = weight.shape[0]
    matrix = graph.reshape(graph.transpose(weight, [2, 3, 1, 0]), [taps * channels, outputs])
    product = graph.add("MatMul", [flat, matrix], [batch, places, outputs])
    if bias is not None:
        product = graph.binary("Add", product, bias)
    return graph.reshape(graph.transpose(product, [0, 2, 1]), [batch, outputs, rows, columns], name)
