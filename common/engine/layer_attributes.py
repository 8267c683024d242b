"""Attributes of operators that more than one translation of graphs reads: windows of a convolution, suppression."""

from __future__ import annotations

from dataclasses import dataclass

from common.engine.symbol import Attributes


@dataclass(frozen=True)
class Windows:
    """Where a convolution looks: kernel, stride, dilation and padding, each with a number for every axis of the map.

    groups: of channels, each of which is convolved by itself.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilate: tuple[int, ...]
    pad: tuple[int, ...]
    groups: int


def windows(attributes: Attributes) -> Windows:
    """Those of Convolution and Deconvolution. Raises UnsupportedError."""
    attributes.only("layout", "NCHW", None)
    for name in ("num_filter", "no_bias"):  # the weights show them
        attributes.get(name, None)
    kernel = attributes.numbers("kernel")
    ones, zeros = (1,) * len(kernel), (0,) * len(kernel)
    return Windows(
        kernel,
        stride=attributes.numbers("stride") or ones,
        dilate=attributes.numbers("dilate") or ones,
        pad=attributes.numbers("pad") or zeros,
        groups=attributes.whole("num_group", 1),
    )


def deformable_windows(attributes: Attributes) -> Windows:
    """Those of ModulatedDeformableConvolution, of a single group. Raises UnsupportedError."""
    attributes.only("num_group", 1)
    attributes.only("num_deformable_group", 1)
    attributes.get("im2col_step", None)  # images that are computed at a time
    return windows(attributes)


@dataclass(frozen=True)
class Suppression:
    """What a box_nms suppresses.

    overlap: IoU above which the worse of two boxes of a class goes. score: rows must exceed it. candidates: so many of
    the best rows take part; below 1 all.
    """

    overlap: float
    score: float
    candidates: int


def suppression(attributes: Attributes) -> Suppression:
    """Of rows with id, score and corners. Raises UnsupportedError."""
    for name in ("in_format", "out_format"):
        attributes.only(name, "corner")
    attributes.only("background_id", -1)
    attributes.only("id_index", 0)
    attributes.only("score_index", 1)
    attributes.only("coord_start", 2)
    attributes.only("force_suppress", False)
    return Suppression(
        overlap=float(attributes.get("overlap_thresh", 0.5)),
        score=float(attributes.get("valid_thresh", 0.0)),
        candidates=attributes.whole("topk", -1),
    )
