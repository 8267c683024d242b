"""Modulated deformable convolution (DCNv2) that trains on the CPU.

"Deformable ConvNets v2: More Deformable, Better Results", Zhu et al. 2019, https://arxiv.org/abs/1811.11168.

MXNet's operator has no backward pass on the CPU. The same numbers come from operators that have one: with W_k the
kernel's weights of tap k, S_k the bilinear sampling at the places of tap k and m_k its mask,

    sum over k of  W_k (m_k S_k x)  =  sum over k of  m_k S_k (W_k x)

because W_k mixes channels and S_k mixes places. The right side samples output channels, of which CenterNet has half
as many as input channels, after one 1 x 1 convolution for all taps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from mxnet.gluon import contrib

# Learning rate of the convolution that gives offsets and mask, as a share of everything else's.
OFFSET_LR_MULT = 0.1

_sampling: ContextVar[bool] = ContextVar("sampling", default=False)


@contextmanager
def sampling(active: bool = True) -> Iterator[None]:
    """Within it, deformable layers compute (or are traced) by sampling instead of by MXNet's operator.

    Needed for training on the CPU only: everywhere else the operator itself does it.
    """
    token = _sampling.set(active)
    try:
        yield
    finally:
        _sampling.reset(token)


class ModulatedDeformableConvolution(contrib.cnn.ModulatedDeformableConvolution):
    """MXNet's layer of this name with the same parameters, which computes by sampling within `sampling()`.

    Input (B, in_channels, H, W), output (B, channels, H', W') as a plain convolution's; positions outside of
    the input are 0. One group, one deformable group, layout NCHW. Raises ValueError for anything else.
    """

    def __init__(self, channels: int, *, in_channels: int, **kwargs: Any) -> None:
        for name, only in (("groups", 1), ("num_deformable_group", 1), ("layout", "NCHW")):
            if kwargs.get(name, only) != only:
                raise ValueError(
                    f"{name} of a deformable convolution is {kwargs[name]!r}; only {only!r} is supported"
                )
        super().__init__(channels, in_channels=in_channels, **kwargs)
        # MXNet leaves the input channels open, and the convolution by sampling cannot infer them.
        kernel = self._kwargs_deformable_conv["kernel"]
        self.deformable_conv_weight.shape = (channels, in_channels, *kernel)
        # As the paper has it (section 3.2); at the full rate training from scratch does not get under way.
        for parameter in (self.offset_weight, self.offset_bias):
            if parameter is not None:
                parameter.lr_mult = OFFSET_LR_MULT

    def hybrid_forward(
        self,
        F: Any,
        x: Any,
        offset_weight: Any,
        deformable_conv_weight: Any,
        offset_bias: Any = None,
        deformable_conv_bias: Any = None,
    ) -> Any:
        if not _sampling.get():
            return super().hybrid_forward(
                F, x, offset_weight, deformable_conv_weight, offset_bias, deformable_conv_bias
            )
        inputs = [x, offset_weight] if offset_bias is None else [x, offset_weight, offset_bias]
        moved = F.Convolution(*inputs, **self._kwargs_offset)
        split = self.offset_split_index
        settings = self._kwargs_deformable_conv
        output = sampled_convolution(
            F,
            x,
            F.slice_axis(moved, axis=1, begin=0, end=split),
            F.sigmoid(F.slice_axis(moved, axis=1, begin=split, end=None)) * 2,
            deformable_conv_weight,
            deformable_conv_bias,
            channels=settings["num_filter"],
            kernel=settings["kernel"],
            stride=settings["stride"],
            pad=settings["pad"],
            dilate=settings["dilate"],
        )
        return self.act(output) if self.act else output


def sampled_convolution(
    F: Any,
    x: Any,
    offset: Any,
    mask: Any,
    weight: Any,
    bias: Any = None,
    *,
    channels: int,
    kernel: Sequence[int],
    stride: Sequence[int] = (1, 1),
    pad: Sequence[int] = (0, 0),
    dilate: Sequence[int] = (1, 1),
) -> Any:
    """What `contrib.ModulatedDeformableConvolution` computes, of operators with a gradient on every device.

    F: `mxnet.nd` or `mxnet.sym`. x (B, C, H, W); offset (B, 2 * taps, H', W'), y and x in pixels for each tap (row
    by row); mask (B, taps, H', W'); weight (channels, C, *kernel); bias (channels,). Returns (B, channels, H', W').
    """
    taps = kernel[0] * kernel[1]
    taps_of_weight = weight.transpose((2, 3, 0, 1)).reshape((-3, 0, 0)).reshape((-3, 0, 1, 1))
    # The border of zeros is what lies outside of the input; it also keeps maps of one pixel apart from a
    # division by 0.
    mixed = F.Convolution(
        x, taps_of_weight, kernel=(1, 1), pad=(1, 1), num_filter=taps * channels, no_bias=True
    ).reshape((0, -4, taps, channels, -2))
    grid = _sampling_grid(F, x, offset, kernel, stride, pad, dilate)
    sampled = F.BilinearSampler(mixed.reshape((-3, -2)), grid.reshape((-3, -2)))

    # The mask goes to all channels by a product with ones: several times faster on the CPU than a broadcast,
    # whose gradient is a slow reduction.
    flat_mask = mask.reshape((-3, -2)).reshape((0, -3)).expand_dims(1)
    ones = F.broadcast_axis(
        F.ones_like(F.slice_axis(flat_mask, axis=2, begin=0, end=1)), axis=1, size=channels
    )
    weighted = sampled * F.reshape_like(F.batch_dot(ones, flat_mask), sampled)
    by_tap = F.split(weighted.reshape((-4, -1, taps, -2)).reshape((0, -3, -2)), axis=1, num_outputs=taps)
    output = F.add_n(*by_tap) if taps > 1 else by_tap
    return output if bias is None else F.broadcast_add(output, bias.reshape((1, -1, 1, 1)))


def _sampling_grid(
    F: Any,
    x: Any,
    offset: Any,
    kernel: Sequence[int],
    stride: Sequence[int],
    pad: Sequence[int],
    dilate: Sequence[int],
) -> Any:
    """Where each tap reads (B, taps, 2, H', W'), x and y from -1 to 1 over `x` and a border of 1 pixel."""
    taps = kernel[0] * kernel[1]
    row = F.arange(0, kernel[0], repeat=kernel[1])
    column = F.arange(0, taps) - row * kernel[1]
    by_tap = offset.reshape((0, -4, taps, 2, -2))
    size = F.cast(F.shape_array(x), "float32")
    normalised = []
    for axis, tap in enumerate((row, column)):
        moved = F.slice_axis(by_tap, axis=2, begin=axis, end=axis + 1).reshape((0, 0, -3, 0))
        place = F.contrib.arange_like(offset, axis=axis + 2) * stride[axis]
        place = place.reshape((1, 1, -1, 1) if axis == 0 else (1, 1, 1, -1))
        tap_place = (tap * dilate[axis] + (1 - pad[axis])).reshape((1, taps, 1, 1))
        position = F.broadcast_add(moved, F.broadcast_add(tap_place, place))
        last = F.slice_axis(size, axis=0, begin=axis + 2, end=axis + 3).reshape((1, 1, 1, 1)) + 1
        normalised.append(F.broadcast_mul(position, 2 / last) - 1)
    return F.stack(normalised[1], normalised[0], axis=2)
