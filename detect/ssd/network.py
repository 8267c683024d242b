"""SSD's networks: backbones of the model zoo, and what is published of whole detectors fits into them.

"SSD: Single Shot MultiBox Detector", Liu et al. 2016, https://arxiv.org/abs/1512.02325; "MobileNetV2", Sandler et al.
2018, https://arxiv.org/abs/1801.04381; "Feature Pyramid Networks", Lin et al. 2017, https://arxiv.org/abs/1612.03144.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import mxnet as mx
import numpy as np
from gluoncv.model_zoo.ssd.vgg_atrous import get_vgg_atrous_extractor
from mxnet import gluon
from mxnet.gluon import nn

from common.engine.graph import infer_shapes
from common.engine.initializers import HeNormal, NearZero
from common.engine.mxnet_internals import (
    children,
    forget_graph,
    named_parameters,
    operator_options,
    value_of,
)
from common.engine.parameters import set_value
from common.networks.base_networks import Network, base_features, exchange
from detect.ssd.anchors import Level, anchor_boxes, map_sizes, padding_for
from detect.ssd.targets import CENTRE_UNIT, SIZE_UNIT

# The exponential of an untrained output must not become infinite: e**8 is a box 2981 times the anchor.
_LARGEST_LOG_SCALE = 8.0

# Detections below this score are none.
_LEAST_SCORE = 0.01

# Channels of the levels behind the backbone: of their convolution, and of the 1 x 1 one before it.
_EXTRAS = ((512, 512), (512, 512), (256, 256), (256, 256))
# SSDLite's (Sandler et al. 2018), whose convolutions see each channel by itself. Behind them, and in the heads, is a
# ReLU where the paper has its backbone's ReLU6: as good (benchmarks/QUALITY.md), and quicker.
_LITE_EXTRAS = ((512, 256), (256, 128), (256, 128), (128, 64))
_PYRAMID_CHANNELS = 256
_HEAD_LAYERS = 4

# Layers of a backbone's `features` that end where a level is taken: its map has 1/16 of the input (for pyramids 1/8
# first), and the last 1/32. For MobileNetV2 see `_stages`.
_STAGE_ENDS = {"mobilenet1.0": (33, 69, 81), "resnet18_v1": (7, 8), "resnet50_v1": (7, 8)}

# Layers of the first stage behind which its map has 1/8 of the input.
_EARLY = {"mobilenetv2_1.0_lite": 9, "mobilenet1.0": 33, "resnet18_v1": 6, "resnet50_v1": 6}


def build_network(
    base_network: str,
    classes: Sequence[str],
    plan: Sequence[Level],
    shape: tuple[int, int],
    *,
    nms_thresh: float = 0.45,
    nms_topk: int = 400,
    post_nms: int = 100,
) -> tuple[SSDNetwork, gluon.HybridBlock]:
    """SSD without parameters, and its backbone (for loading ImageNet parameters into it).

    plan: the levels of `base_network` (`detect.ssd.anchors.levels`). shape: width and height of the input. The NMS's
    three are described at `SSDNetwork`.
    """
    lite, pyramid = base_network.endswith("_lite"), base_network.endswith("_fpn")
    if base_network == "vgg16_atrous":
        features = _vgg_features(plan, shape)
        backbone = gluon.HybridBlock(prefix="")
        backbone.stages = features.stages
    else:
        name = base_network.removesuffix("_lite").removesuffix("_fpn")
        layers = base_features(name)
        backbone = Network(layers, nn.Dense(1))
        stages = _stages(base_network, layers)
        features = _Pyramid(stages) if pyramid else _Features(stages, lite)
    counts = [len(level.anchors) for level in plan]
    class_heads, box_heads = (
        _SharedHead(prefix, counts, values)
        if pyramid
        else _Heads(prefix, counts, values, _channels(features, shape), lite)
        for prefix, values in (("class_", len(classes) + 1), ("box_", 4))
    )
    network = SSDNetwork(
        features,
        class_heads,
        box_heads,
        classes,
        anchor_boxes(plan, shape),
        nms_thresh=nms_thresh,
        nms_topk=nms_topk,
        post_nms=post_nms,
    )
    infer_shapes(network, (1, 3, *shape[::-1]))
    return network, backbone


def _stages(base_network: str, layers: nn.HybridSequential) -> list[nn.HybridSequential]:
    """The layers of a backbone up to each map that is taken from it."""
    if base_network == "mobilenetv2_1.0_lite":
        # The map of 1/16 is the wide one within the block that halves it (Sandler et al. 2018, 6.2), and so is that of
        # 1/8, which they do not have: on maps of 1/16 alone small objects are hardly learnt (benchmarks/QUALITY.md).
        fine, coarse = list(layers[9].out), list(layers[16].out)
        parts = (
            (*layers[:9], *fine[:3]),
            (*fine[3:], *layers[10:16], *coarse[:3]),
            (*coarse[3:], *layers[17:23]),
        )
        stages = []
        for part in parts:
            stage = nn.HybridSequential(prefix="")
            stage.add(*part)
            stages.append(stage)
        return stages
    ends = _STAGE_ENDS[base_network.removesuffix("_fpn")]
    if base_network == "mobilenet1.0":
        ends = ends[1:]
    return [layers[begin:end] for begin, end in zip((0, *ends[:-1]), ends, strict=True)]


def _vgg_features(plan: Sequence[Level], shape: tuple[int, int]) -> gluon.HybridBlock:
    """VGG with its dense layers as convolutions, and the levels of the paper's 300 or 512 pixels behind it."""
    features = get_vgg_atrous_extractor(16, 300 if len(plan) == 6 else 512)
    exchange(features, "norm4", _LengthScale(features.norm4.scale.shape[1]))
    # Where a map has fewer cells than the last convolutions see, they see what is beside it too.
    before = map_sizes(plan, shape)[1:-1]
    for extra, (columns, rows) in zip(features.extras, before, strict=True):
        options = operator_options(extra[-2])
        if options["stride"] == (1, 1):
            (kernel, _), (padding, _) = options["kernel"], options["pad"]
            options["pad"] = tuple(padding_for(cells, kernel, padding) for cells in (rows, columns))
    return features


class _LengthScale(gluon.HybridBlock):
    """Gives the channels of each place of a map together the length 1, and each a scale (Liu et al. 2016, 3.1)."""

    def __init__(self, channels: int) -> None:
        super().__init__(prefix="normalize0_")
        with self.name_scope():
            self.scale = self.params.get("scale", shape=(1, channels, 1, 1), init=mx.init.Constant(20))

    def hybrid_forward(self, F: Any, x: Any, scale: Any) -> Any:
        length = F.sum(F.square(x), axis=1, keepdims=True)
        return F.broadcast_mul(F.broadcast_mul(x, F.rsqrt(length + 1e-5)), scale)


def _add_convolution(
    layers: nn.HybridSequential,
    channels: int,
    kernel: int,
    *,
    strides: int = 1,
    groups: int = 1,
    in_channels: int = 0,
    **norm: Any,
) -> None:
    """A convolution that keeps or halves its map, BatchNorm and ReLU."""
    layers.add(
        nn.Conv2D(
            channels,
            kernel,
            strides,
            kernel // 2,
            groups=groups,
            use_bias=False,
            in_channels=in_channels,
        ),
        nn.BatchNorm(**norm),
        nn.Activation("relu"),
    )


class _Features(gluon.HybridBlock):
    """Normalised images to the maps of all levels: the backbone's stages, then halvings (`extras`)."""

    def __init__(self, stages: Sequence[gluon.HybridBlock], lite: bool) -> None:
        super().__init__(prefix="")
        self.stages = nn.HybridSequential(prefix="")
        self.stages.add(*stages)
        self.extras = nn.HybridSequential(prefix="extra_")
        with self.extras.name_scope():
            for channels, narrow in _LITE_EXTRAS if lite else _EXTRAS:
                extra = nn.HybridSequential(prefix="")
                if lite:
                    _add_convolution(extra, narrow, 1)
                    _add_convolution(extra, narrow, 3, strides=2, groups=narrow)
                    _add_convolution(extra, channels, 1)
                else:  # as published
                    options: dict[str, Any] = {"epsilon": 1e-3, "scale": False}
                    _add_convolution(extra, narrow, 1, **options)
                    _add_convolution(extra, channels, 3, strides=2, **options)
                self.extras.add(extra)

    def hybrid_forward(self, F: Any, x: Any) -> list[Any]:
        maps = []
        for layer in (*self.stages, *self.extras):
            x = layer(x)
            maps.append(x)
        return maps


class _Pyramid(gluon.HybridBlock):
    """Normalised images to maps of 1/8 to 1/128 of their size, with as many channels each, which see coarser ones."""

    def __init__(self, stages: Sequence[gluon.HybridBlock]) -> None:
        super().__init__(prefix="")
        self.stages = nn.HybridSequential(prefix="")
        self.stages.add(*stages)
        self.laterals = nn.HybridSequential(prefix="lateral_")
        self.smoothing = nn.HybridSequential(prefix="smoothing_")
        self.extras = nn.HybridSequential(prefix="extra_")
        for layers, kernel, strides, count in (
            (self.laterals, 1, 1, 3),
            (self.smoothing, 3, 1, 2),
            (self.extras, 3, 2, 2),
        ):
            with layers.name_scope():
                for _ in range(count):
                    layer = nn.HybridSequential(prefix="")
                    _add_convolution(layer, _PYRAMID_CHANNELS, kernel, strides=strides)
                    layers.add(layer)

    def hybrid_forward(self, F: Any, x: Any) -> list[Any]:
        stages = []
        for stage in self.stages:
            x = stage(x)
            stages.append(x)
        x = self.laterals[0](stages[-1])
        maps = [x]
        for finer, lateral, smoothing in zip(stages[-2::-1], self.laterals[1:], self.smoothing, strict=True):
            finer = lateral(finer)
            x = F.slice_like(F.UpSampling(x, scale=2, sample_type="nearest"), finer, axes=(2, 3))
            x, finer = F.amp_multicast(x, finer, num_outputs=2, cast_narrow=True)
            x = x + finer
            maps.insert(0, smoothing(x))
        for extra in self.extras:
            maps.append(extra(maps[-1]))
        return maps


class _Heads(gluon.HybridBlock):
    """Maps to predictions (B, A * values, h, w): a layer for each, of a convolution by channel before if `lite`."""

    def __init__(
        self,
        prefix: str,
        counts: Sequence[int],
        values: int,
        channels: Sequence[int],
        lite: bool,
    ) -> None:
        super().__init__(prefix=prefix)
        self.layers = nn.HybridSequential(prefix=f"{prefix}head_")
        with self.layers.name_scope():
            for count, width in zip(counts, channels, strict=True):
                layer = nn.HybridSequential(prefix="")
                if lite:
                    _add_convolution(layer, width, 3, groups=width, in_channels=width)
                layer.add(_last_layer(count * values, width, 1 if lite else 3))
                self.layers.add(layer)

    def hybrid_forward(self, F: Any, *maps: Any) -> list[Any]:
        return [layer(x) for layer, x in zip(self.layers, maps, strict=True)]


class _SharedHead(gluon.HybridBlock):
    """Maps to predictions (B, A * values, h, w): the same convolutions for all, each with a BatchNorm of its own."""

    def __init__(self, prefix: str, counts: Sequence[int], values: int) -> None:
        super().__init__(prefix=prefix)
        self.convolutions = nn.HybridSequential(prefix=f"{prefix}tower_")
        self.norms = nn.HybridSequential(prefix=f"{prefix}tower_norm_")
        with self.convolutions.name_scope():
            for _ in range(_HEAD_LAYERS):
                self.convolutions.add(
                    nn.Conv2D(_PYRAMID_CHANNELS, 3, padding=1, use_bias=False, in_channels=_PYRAMID_CHANNELS)
                )
        with self.norms.name_scope():
            for _ in counts:
                norms = nn.HybridSequential(prefix="")
                norms.add(*(nn.BatchNorm(in_channels=_PYRAMID_CHANNELS) for _ in range(_HEAD_LAYERS)))
                self.norms.add(norms)
        self.layers = nn.HybridSequential(prefix=f"{prefix}head_")
        with self.layers.name_scope():
            layer = nn.HybridSequential(prefix="")
            layer.add(_last_layer(counts[0] * values, _PYRAMID_CHANNELS, 3))
            self.layers.add(layer)

    def hybrid_forward(self, F: Any, *maps: Any) -> list[Any]:
        outputs = []
        for x, norms in zip(maps, self.norms, strict=True):
            for convolution, norm in zip(self.convolutions, norms, strict=True):
                x = F.Activation(norm(convolution(x)), act_type="relu")
            outputs.append(self.layers[0](x))
        return outputs


def _last_layer(outputs: int, in_channels: int, kernel: int) -> nn.Conv2D:
    # The standard deviation is that of "Focal Loss for Dense Object Detection", Lin et al. 2017, 4.1.
    return nn.Conv2D(
        outputs, kernel, padding=kernel // 2, in_channels=in_channels, weight_initializer=NearZero(0.01)
    )


class SSDNetwork(gluon.HybridBlock):
    """Normalised images (B, 3, H, W) to ids (B, K, 1), scores (B, K, 1) and boxes (B, K, 4) in input pixels.

    Rows are sorted by score; rows without a detection are -1. anchors (N, 4): centre and size in input pixels, by which
    the size of the input is a fixed one. nms_topk: candidates, the best scores of all classes together. nms_thresh:
    boxes of one class that overlap a better one by more than this IoU are left out (0 and 1: off). post_nms: rows, K,
    at most nms_topk.
    """

    def __init__(
        self,
        features: gluon.HybridBlock,
        class_heads: gluon.HybridBlock,
        box_heads: gluon.HybridBlock,
        classes: Sequence[str],
        anchors: np.ndarray,
        *,
        nms_thresh: float,
        nms_topk: int,
        post_nms: int,
    ) -> None:
        super().__init__(prefix="ssd_")
        self.features = features
        self.class_heads, self.box_heads = class_heads, box_heads
        self.classes = list(classes)
        self.nms_thresh, self.nms_topk, self.post_nms = nms_thresh, nms_topk, post_nms
        self.places = len(anchors)
        with self.name_scope():
            self.anchors = self.params.get_constant("anchors", anchors[None])

    @property
    def rows(self) -> int:
        """Rows of an image's output: K."""
        return min(self.post_nms, self._candidates)

    @property
    def _candidates(self) -> int:
        return min(self.nms_topk, self.places * len(self.classes))

    def predictions(self, F: Any, x: Any) -> tuple[Any, Any]:
        """Logits (B, N, classes + 1) of background and classes, and offsets (B, N, 4), in the order of the anchors."""
        maps = self.features(x)
        flat = []
        for heads, values in ((self.class_heads, len(self.classes) + 1), (self.box_heads, 4)):
            outputs = [output.transpose((0, 2, 3, 1)).reshape((0, -1, values)) for output in heads(*maps)]
            flat.append(F.concat(*outputs, dim=1))
        return flat[0], flat[1]

    def hybrid_forward(self, F: Any, x: Any, anchors: Any) -> tuple[Any, Any, Any]:
        logits, offsets = self.predictions(F, x)
        scores = F.softmax(logits, axis=-1).slice_axis(axis=2, begin=1, end=None)
        detections = _best(F, scores, decode(F, offsets, anchors), self._candidates)
        if 0 < self.nms_thresh < 1:
            detections = F.contrib.box_nms(
                detections,
                overlap_thresh=self.nms_thresh,
                valid_thresh=_LEAST_SCORE,
                id_index=0,
                score_index=1,
                coord_start=2,
            )
        detections = detections.slice_axis(axis=1, begin=0, end=self.rows)
        return (
            detections.slice_axis(axis=2, begin=0, end=1),
            detections.slice_axis(axis=2, begin=1, end=2),
            detections.slice_axis(axis=2, begin=2, end=6),
        )


def decode(F: Any, offsets: Any, anchors: Any) -> Any:
    """Offsets (B, N, 4) from anchors (1, N, 4: centre and size) to boxes x1, y1, x2, y2 (B, N, 4)."""
    place, size = (anchors.slice_axis(axis=2, begin=i, end=i + 2) for i in (0, 2))
    shift = offsets.slice_axis(axis=2, begin=0, end=2) * CENTRE_UNIT
    centre = F.broadcast_add(F.broadcast_mul(shift, size), place)
    scale = F.clip(
        offsets.slice_axis(axis=2, begin=2, end=4) * SIZE_UNIT, -_LARGEST_LOG_SCALE, _LARGEST_LOG_SCALE
    )
    half = F.broadcast_mul(F.exp(scale), size) / 2
    return F.concat(centre - half, centre + half, dim=2)


def _best(F: Any, scores: Any, boxes: Any, count: int) -> Any:
    """The `count` best of scores (B, N, C) as rows (B, count, 6): id, score, x1, y1, x2, y2; -1 where there is none."""
    shape = F.shape_array(scores)
    classes = shape.slice_axis(axis=0, begin=2, end=3).reshape((1, 1))
    best, places = F.topk(scores.reshape((0, -1)), k=count, ret_typ="both", dtype="int64")
    places = F.cast(places, "int64")
    ids = F.cast(F.broadcast_mod(places, classes), "float32")
    anchors = F.broadcast_div(places, classes)
    images = F.cast(F.contrib.arange_like(best, axis=0).expand_dims(1), "int64")
    where = F.stack(F.broadcast_like(images, anchors), anchors, axis=0)
    chosen = F.gather_nd(boxes, where)
    rows = F.concat(ids.expand_dims(2), best.expand_dims(2), chosen, dim=2)
    real = F.broadcast_like((best > _LEAST_SCORE).expand_dims(2), rows)
    return F.where(real, rows, F.zeros_like(rows) - 1)


def _channels(features: gluon.HybridBlock, shape: tuple[int, int]) -> list[int]:
    """Channels of each level's map."""
    outputs = mx.sym.Group(list(features(mx.sym.var("data"))))
    _, shapes, _ = outputs.infer_shape(data=(1, 3, *shape[::-1]))
    return [shape[1] for shape in shapes]


def backbone_layers(network: SSDNetwork) -> list[gluon.HybridBlock]:
    """The layers that are trained on ImageNet."""
    norm = getattr(network.features, "norm4", None)
    return [network.features.stages] if norm is None else [network.features.stages, norm]


def early_layers(network: SSDNetwork, base_network: str) -> list[gluon.HybridBlock]:
    """The first layers of the backbone: those down to maps of 1/8 of the input (VGG's before it is halved to that)."""
    stages = network.features.stages
    if base_network == "vgg16_atrous":
        return list(stages)[:3]
    return list(stages[0])[: _EARLY[base_network.removesuffix("_fpn")]]


def last_layers(heads: gluon.HybridBlock) -> list[nn.Conv2D]:
    """The last layers of class heads or box heads, whose outputs are the predictions."""
    return [layer[-1] for layer in heads.layers]


def initialise(network: SSDNetwork, contexts: Sequence[Any], prior: float) -> None:
    """Random parameters; `prior` is the share of anchors expected to be objects of any class before anything is learnt.

    ("Focal Loss for Dense Object Detection", Lin et al. 2017, 4.1.)
    """
    network.initialize(HeNormal("in"), ctx=list(contexts))
    classes = len(network.classes)
    for layer in last_layers(network.class_heads):
        bias = np.zeros((layer.bias.shape[0] // (classes + 1), classes + 1), np.float32)
        bias[:, 0] = math.log(classes * (1 - prior) / prior)
        set_value(layer.bias, bias.ravel())


def transfer_classes(network: SSDNetwork, classes: Sequence[str], contexts: Sequence[Any]) -> list[str]:
    """Give a trained `network` other classes; what it knows of boxes, background and the classes both have is kept.

    Returns the names of the classes that were known.
    """
    old_names, new_names = list(network.classes), list(classes)
    known = [name for name in new_names if name in old_names]
    for head in network.class_heads.layers:
        old = head[-1]
        anchors = old.bias.shape[0] // (len(old_names) + 1)
        with network.name_scope():
            new = _last_layer(
                anchors * (len(new_names) + 1), old.weight.shape[1], operator_options(old)["kernel"][0]
            )
        new.initialize(ctx=list(contexts))
        for before, after in ((old.weight, new.weight), (old.bias, new.bias)):
            kept = value_of(before).reshape((anchors, len(old_names) + 1, -1))
            fresh = value_of(after).reshape((anchors, len(new_names) + 1, -1))
            fresh[:, 0] = kept[:, 0]
            # A class that is new begins as an average class: its logits are as large as those of the others.
            fresh[:, 1:] += kept[:, 1:].mean(1, keepdims=True)
            for name in known:
                fresh[:, 1 + new_names.index(name)] = kept[:, 1 + old_names.index(name)]
            set_value(after, fresh.reshape(after.shape))
        children(head)[str(len(head) - 1)] = new
    network.classes = new_names
    forget_graph(network)
    return known


def published_names(network: SSDNetwork, base_network: str) -> Mapping[str, str]:
    """What the parameters of a network are called in the files of whole detectors that GluonCV publishes."""
    names = {}
    zoo = "mobilenet0" if base_network.startswith("mobilenet") else "resnetv10"
    for name, parameter in named_parameters(network).items():
        part, _, rest = name.partition(".")
        if part in ("class_heads", "box_heads"):
            level, _, value = rest.removeprefix("layers.").partition(".0.")
            names[name] = f"{part.removesuffix('_heads')}_predictors.{level}.predictor.{value}"
        elif base_network != "vgg16_atrous" and rest.startswith("stages."):
            names[name] = f"features.{zoo}_{parameter.name.partition('_')[2]}"
        elif base_network != "vgg16_atrous" and rest.startswith("extras."):
            _, level, place, value = rest.split(".")
            kind = "conv" if value == "weight" else "bn"
            value = value.replace("running", "moving")
            names[name] = f"features.expand_{'trans_' if int(place) < 3 else ''}{kind}{level}_{value}"
    return names
