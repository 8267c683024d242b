"""CenterNet's network: GluonCV's structure (so that its published parameters fit), our own graph around it.

"Objects as Points", Zhou, Wang, Krähenbühl 2019, https://arxiv.org/abs/1904.07850.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import mxnet as mx
import numpy as np
from gluoncv.model_zoo import get_model
from gluoncv.model_zoo.center_net import CenterNet
from gluoncv.model_zoo.center_net.deconv_resnet import BilinearUpSample
from mxnet import gluon
from mxnet.gluon import nn

from common.engine.graph import infer_shapes
from common.engine.initializers import HeNormal, begin_nearly_linear
from common.engine.mxnet_internals import value_of
from common.engine.parameters import set_value
from detect.center_net.deformable import ModulatedDeformableConvolution
from detect.center_net.targets import check_scale

_BACKBONE_CHANNELS = {"resnet18_v1b": 512, "resnet50_v1b": 2048, "resnet101_v1b": 2048}
BASE_NETWORKS = tuple(name + kind for name in _BACKBONE_CHANNELS for kind in ("", "_dcnv2"))

# Each doubles the map of the backbone, which is 1/32 of the image. GluonCV's networks have the first three
# (scale 4).
_DECONVOLUTION_CHANNELS = (256, 128, 64, 64)
_HEAD_CHANNELS = 64
# Convolution, deconvolution, and BatchNorm and activation behind each.
_LAYERS_OF_A_DOUBLING = 6

# The share of places expected to be a centre before anything is learnt: the heatmap's bias is set to it so
# that the many empty places do not drown the first steps (Lin et al. 2017, "Focal Loss for Dense Object
# Detection", 4.1).
_PRIOR = 0.01


def build_network(
    base_network: str,
    classes: Sequence[str],
    *,
    scale: float = 4.0,
    topk: int = 100,
    flip_test: bool = False,
    nms_thresh: float = 0.0,
    nms_topk: int = 400,
    post_nms: int = 100,
    norm_layer: Any = nn.BatchNorm,
    norm_kwargs: dict[str, Any] | None = None,
) -> tuple[CenterNetNetwork, gluon.HybridBlock]:
    """CenterNet without parameters, and its backbone (a classifier, for loading ImageNet parameters into it).

    base_network: one of BASE_NETWORKS. scale: input size / map size, one of 2, 4, 8, 16, 32; parameters are
    published for 4. The rest is described at `CenterNetNetwork`. Raises ValueError for anything else.
    """
    if base_network not in BASE_NETWORKS:
        raise ValueError(f"unknown base network {base_network!r}; {', '.join(BASE_NETWORKS)} are known")
    doublings = 5 - int(np.log2(check_scale(scale)))
    name = base_network.removesuffix("_dcnv2")
    norm = {"norm_layer": norm_layer, "norm_kwargs": norm_kwargs or {}}
    backbone = get_model(name, pretrained=False, **norm)
    features = _Features(
        backbone,
        _BACKBONE_CHANNELS[name],
        _DECONVOLUTION_CHANNELS[:doublings],
        deformable=base_network != name,
        **norm,
    )
    network = CenterNetNetwork(
        features,
        list(classes),
        scale=int(scale),
        topk=topk,
        flip_test=flip_test,
        nms_thresh=nms_thresh,
        nms_topk=nms_topk,
        post_nms=post_nms,
    )
    # All shapes are known from here on: parameters can be set and compared before the first image.
    infer_shapes(network)
    return network, backbone


class _Features(gluon.HybridBlock):
    """Backbone and deconvolutions; parameters by structure as in GluonCV's `DeconvResnet`.

    Beside what GluonCV has, each doubled map is added to the backbone's own map of that size (`laterals`). Without
    them all that is known of places has to go through the last map, 1/32 of the image, which takes far more steps to
    learn ("Feature Pyramid Networks for Object Detection", Lin et al. 2017).
    """

    def __init__(
        self,
        backbone: gluon.HybridBlock,
        in_channels: int,
        deconvolution_channels: Sequence[int],
        *,
        deformable: bool,
        norm_layer: Any,
        norm_kwargs: dict[str, Any],
    ) -> None:
        super().__init__(prefix="")
        stages = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
        self.base_network = nn.HybridSequential(prefix="")
        self.base_network.add(*[getattr(backbone, stage) for stage in stages])
        self.deconv = nn.HybridSequential(prefix="deconv_")
        self.laterals = nn.HybridSequential(prefix="lateral_")
        # Channels of the backbone's maps of 1/16, 1/8 and 1/4 of the image; there are none above.
        lateral_channels = [in_channels // 2, in_channels // 4, in_channels // 8]
        for number, channels in enumerate(deconvolution_channels):
            settings = {"kernel_size": 3, "strides": 1, "padding": 1, "in_channels": in_channels}
            layer = ModulatedDeformableConvolution if deformable else nn.Conv2D
            with self.deconv.name_scope():
                self.deconv.add(
                    layer(channels, **settings),
                    norm_layer(in_channels=channels, **norm_kwargs),
                    nn.Activation("relu"),
                    nn.Conv2DTranspose(
                        channels,
                        kernel_size=4,
                        strides=2,
                        padding=1,
                        use_bias=False,
                        in_channels=channels,
                        weight_initializer=BilinearUpSample(),
                    ),
                    norm_layer(in_channels=channels, **norm_kwargs),
                    nn.Activation("relu"),
                )
            if number < len(lateral_channels):
                with self.laterals.name_scope():
                    lateral = nn.HybridSequential(prefix="")
                    lateral.add(
                        nn.Conv2D(
                            channels,
                            kernel_size=1,
                            use_bias=False,
                            in_channels=lateral_channels[number],
                            weight_initializer=_rectified(),
                        ),
                        # Beside published parameters it adds nothing until training finds a use for it.
                        norm_layer(in_channels=channels, gamma_initializer="zeros", **norm_kwargs),
                    )
                    self.laterals.add(lateral)
            in_channels = channels

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        maps = []
        for layer in self.base_network:
            x = layer(x)
            maps.append(x)
        finer = maps[-2:-5:-1]
        for number, first in enumerate(range(0, len(self.deconv), _LAYERS_OF_A_DOUBLING)):
            *layers, activation = self.deconv[first : first + _LAYERS_OF_A_DOUBLING]
            for layer in layers:
                x = layer(x)
            if number < len(self.laterals):
                x = _add_map(F, x, self.laterals[number](finer[number]), 2 ** (number + 1) - 1)
            x = activation(x)
        return x


def _add_map(F: Any, x: Any, finer: Any, missing: int) -> Any:
    """`x` (B, C, h, w) and `finer`, which has up to `missing` rows and columns less where the image's size is no
    multiple of 32."""
    finer = F.pad(finer, mode="constant", constant_value=0, pad_width=(0, 0, 0, 0, 0, missing, 0, missing))
    finer = F.slice_like(finer, x, axes=(2, 3))
    x, finer = F.amp_multicast(x, finer, num_outputs=2, cast_narrow=True)
    return x + finer


class CenterNetNetwork(CenterNet):
    """Normalised images (B, 3, H, W) to ids (B, K, 1), scores (B, K, 1) and boxes (B, K, 4) in input pixels.

    K is topk, or with NMS the smaller of topk and post_nms. Rows are sorted by score; rows without a detection are
    -1. Any size will do: the map has ceil(H / 32) * 32 / scale rows, and what it shows beyond the image is empty.

    topk: detections kept. flip_test: the mirrored image is looked at too. nms_thresh: boxes of one class that
    overlap a better one by more than this IoU are left out (0 and 1 and beyond: off); nms_topk: candidates that take
    part (<= 0: topk); post_nms: detections after it (<= 0: topk). All may be changed until a graph is traced.
    """

    def __init__(
        self,
        features: gluon.HybridBlock,
        classes: Sequence[str],
        *,
        scale: int,
        topk: int,
        flip_test: bool,
        nms_thresh: float,
        nms_topk: int,
        post_nms: int,
    ) -> None:
        if topk < 1:
            raise ValueError(f"topk is {topk}; it must be 1 or more")
        heads = OrderedDict(
            heatmap={"num_output": len(classes)},
            wh={"num_output": 2},
            reg={"num_output": 2},
        )
        super().__init__(
            features,
            heads,
            list(classes),
            head_conv_channel=_HEAD_CHANNELS,
            scale=scale,
            topk=topk,
            flip_test=flip_test,
        )
        self.nms_thresh, self.nms_topk, self.post_nms = nms_thresh, nms_topk, post_nms

    @property
    def rows(self) -> int:
        """Rows of an image's output: K."""
        if not self._uses_nms:
            return self.topk
        return min(self.topk, self._candidates, self.post_nms if self.post_nms > 0 else self.topk)

    @property
    def _uses_nms(self) -> bool:
        return 0 < self.nms_thresh < 1

    @property
    def _candidates(self) -> int:
        return self.nms_topk if self._uses_nms and self.nms_topk > 0 else self.topk

    def maps(self, F: Any, x: Any) -> tuple[Any, Any, Any]:
        """Heatmap (B, C, h, w) of scores from 0 to 1, sizes (width, height) and offsets (x, y) (B, 2, h, w).

        An object's centre is its cell's column and row plus the offset x and y; all in cells of `scale` input
        pixels.
        """
        heatmap, sizes, offsets = self.raw_maps(F, x)
        return F.sigmoid(heatmap), sizes, offsets

    def raw_maps(self, F: Any, x: Any) -> tuple[Any, Any, Any]:
        """As `maps`, the heatmap before its sigmoid."""
        features = self.base_network(x)
        heatmap, sizes, offsets = (head(features) for head in self.heads)
        return heatmap, sizes, offsets

    def hybrid_forward(self, F: Any, x: Any) -> tuple[Any, Any, Any]:
        return self.detections(F, x, self.flip_test)

    def detections(self, F: Any, x: Any, flip_test: bool) -> tuple[Any, Any, Any]:
        """The outputs that the class describes, with or without a look at the mirrored image."""
        heatmap, sizes, offsets = self.maps(F, x)
        if flip_test:
            mirrored = self._mirrored_maps(F, x, heatmap)
            heatmap, sizes, offsets = (
                (a + b) / 2 for a, b in zip((heatmap, sizes, offsets), mirrored, strict=True)
            )
        candidates = self._candidates
        # A peak is a cell that no neighbour exceeds: the paper's replacement of NMS.
        peaks = heatmap * F.broadcast_equal(self.heatmap_nms(heatmap), heatmap)
        detections = decode(F, peaks, sizes, offsets, candidates, self.scale)
        if self._uses_nms:
            detections = F.contrib.box_nms(
                detections, overlap_thresh=self.nms_thresh, coord_start=2, score_index=1, id_index=0
            )
            detections = F.slice_axis(detections, axis=1, begin=0, end=self.rows)
        return (
            F.slice_axis(detections, axis=2, begin=0, end=1),
            F.slice_axis(detections, axis=2, begin=1, end=2),
            F.slice_axis(detections, axis=2, begin=2, end=6),
        )

    def _mirrored_maps(self, F: Any, x: Any, heatmap: Any) -> tuple[Any, Any, Any]:
        """The maps of the mirrored image, mirrored back onto those of the image.

        A centre at column c + o of a map of w columns is at w - c - o in the mirror, which is cell w - 1 - c
        and offset 1 - o: so the offset in x turns round. (The paper's code and GluonCV leave the mirror's
        offsets unused; with them the mirrored image gives exactly the mirrored boxes.)
        """
        # The map reaches up to the next multiple of 32 pixels. It can only be mirrored onto itself if the
        # image does too.
        width = F.repeat(F.slice_axis(heatmap, axis=1, begin=0, end=1), repeats=self.scale, axis=3)
        padded = F.pad(x, mode="constant", constant_value=0, pad_width=(0, 0, 0, 0, 0, 0, 0, 31))
        mirrored = F.reverse(F.slice_like(padded, width, axes=(3,)), axis=3)
        heatmap, sizes, offsets = (F.reverse(each, axis=3) for each in self.maps(F, mirrored))
        offset_x = 1 - F.slice_axis(offsets, axis=1, begin=0, end=1)
        return heatmap, sizes, F.concat(offset_x, F.slice_axis(offsets, axis=1, begin=1, end=2), dim=1)


def decode(F: Any, peaks: Any, sizes: Any, offsets: Any, topk: int, scale: int) -> Any:
    """The `topk` highest of `peaks` (B, C, h, w) as rows (B, topk, 6): id, score, x1, y1, x2, y2 in pixels.

    Rows beyond the peaks (score 0) are -1.
    """
    shape = F.shape_array(peaks)
    rows, columns = (F.slice_axis(shape, axis=0, begin=i, end=i + 1).reshape((1, 1)) for i in (2, 3))
    flat = peaks.reshape((0, -1))
    # A small map has fewer places than detections are asked for: the rest are empty ones.
    empty = F.broadcast_axis(F.slice_axis(flat, axis=1, begin=0, end=1) * 0 - 1, axis=1, size=topk)
    scores, places = F.topk(F.concat(flat, empty, dim=1), k=topk, ret_typ="both", dtype="int64")
    places = F.cast(places, "int64")
    ids = F.cast(F.broadcast_div(places, rows * columns), "float32")
    cells = F.broadcast_mod(places, rows * columns)
    images = F.cast(F.contrib.arange_like(scores, axis=0).expand_dims(1), "int64")
    where = F.stack(F.broadcast_like(images, cells), cells, axis=0)
    values = F.concat(sizes, offsets, dim=1).reshape((0, 0, -1)).transpose((0, 2, 1))
    width, height, offset_x, offset_y = F.split(
        F.gather_nd(values, where), num_outputs=4, axis=2, squeeze_axis=True
    )
    x = F.cast(F.broadcast_mod(cells, columns), "float32") + offset_x
    y = F.cast(F.broadcast_div(cells, columns), "float32") + offset_y
    corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    detections = F.stack(ids, scores, *(corner * scale for corner in corners), axis=2)
    real = F.broadcast_like((scores > 0).expand_dims(2), detections)
    return F.where(real, detections, F.zeros_like(detections) - 1)


def backbone_parameters(network: CenterNetNetwork) -> list[Any]:
    """Parameters of the backbone: what is trained on ImageNet."""
    return list(network.base_network.base_network.collect_params().values())


def head_parameters(network: CenterNetNetwork) -> list[Any]:
    """Parameters of the heads: heatmap, sizes and offsets."""
    return list(network.heads.collect_params().values())


def initialise(
    network: CenterNetNetwork, contexts: Sequence[Any], mean_size: tuple[float, float] | None = None
) -> None:
    """Random parameters; the heads begin at what is known of objects before anything is learnt.

    mean_size: mean width and height of the objects in input pixels. From the paper's start (weights of 0.001
    in both layers of a head, sizes of 0) sizes take hundreds of steps to move at all.
    """
    for head in network.heads:
        head[0].weight.init, head[-1].weight.init = _rectified(), mx.init.Normal(0.01)
    begin_nearly_linear(network)
    network.initialize(HeNormal("avg"), ctx=list(contexts))
    for _, normalisation in network.base_network.laterals:
        set_value(normalisation.gamma, np.ones(normalisation.gamma.shape, np.float32))
    priors = (np.full(len(network.classes), -np.log((1 - _PRIOR) / _PRIOR)), np.zeros(2), np.full(2, 0.5))
    for head, prior in zip(network.heads, priors, strict=True):
        set_value(head[-1].bias, prior.astype(np.float32))
    if mean_size:
        expect_size(network, mean_size)


def lateral_parameters(network: CenterNetNetwork) -> list[Any]:
    """Parameters that published files do not have."""
    return list(network.base_network.laterals.collect_params().values())


def _rectified() -> mx.init.Initializer:
    """For layers in front of a ReLU (He et al. 2015)."""
    return HeNormal("in")


def expect_size(network: CenterNetNetwork, mean_size: Sequence[float]) -> None:
    """Let a new network's sizes begin at `mean_size`: width and height in input pixels."""
    set_value(network.heads[1][-1].bias, np.divide(mean_size, network.scale).astype(np.float32))


def transfer_classes(network: CenterNetNetwork, classes: Sequence[str], contexts: Sequence[Any]) -> list[str]:
    """Give a trained `network` other classes; what it knows of boxes and of the classes both have is kept.

    Returns the names of the classes that were known.
    """
    old_names, new_names = list(network.classes), list(classes)
    known = [name for name in new_names if name in old_names]
    old_head = network.heads[0]
    old_layer = old_head[-1]
    with network.name_scope():
        layer = nn.Conv2D(len(new_names), kernel_size=1, in_channels=_HEAD_CHANNELS)
    layer.initialize(mx.init.Normal(0.01), ctx=list(contexts))
    for old, new in ((old_layer.weight, layer.weight), (old_layer.bias, layer.bias)):
        kept, values = value_of(old), value_of(new)
        # A class that is new begins as an average class: as rare, and at places that look like objects.
        values += kept.mean(axis=0)
        for name in known:
            values[new_names.index(name)] = kept[old_names.index(name)]
        set_value(new, values)
    head = nn.HybridSequential(prefix="")
    head.add(*list(old_head)[:-1], layer)
    heads = nn.HybridSequential(prefix="")
    heads.add(head, *list(network.heads)[1:])
    network.heads = heads
    network.classes = new_names
    return known
