"""YOLOv3's network: GluonCV's layers (so that its published parameters fit), our own graph around them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import mxnet as mx
import numpy as np
from gluoncv.model_zoo.mobilenet import get_mobilenet
from gluoncv.model_zoo.yolo.darknet import darknet53
from gluoncv.model_zoo.yolo.yolo3 import YOLOV3
from mxnet import gluon

from common.engine.initializers import HeNormal, NearZero, begin_nearly_linear
from common.engine.mxnet_internals import value_of
from common.engine.parameters import set_value
from detect.yolov3.targets import ANCHORS, STRIDES

BASE_NETWORKS = ("darknet53", "mobilenet1.0")

# The share of predictions expected to hold an object before anything is learnt; a sigmoid's bias is set to it so that
# the many empty places do not drown the first steps ("Focal Loss for Dense Object Detection", Lin et al. 2017, 4.1).
_PRIOR = 0.01

# The exponential of an untrained output must not become infinite: e**8 is a box 2981 times the anchor.
LARGEST_LOG_SCALE = 8.0

# Non-maximum suppression as in GluonCV's YOLOv3: overlap, candidates before it, detections after it.
NMS_IOU = 0.45
NMS_CANDIDATES = 400
MOST_DETECTIONS = 100


def build_backbone(base_network: str) -> gluon.HybridBlock:
    """The ImageNet classifier whose stages YOLOv3 stands on, without parameters."""
    if base_network == "darknet53":
        return darknet53(pretrained=False)
    if base_network == "mobilenet1.0":
        return get_mobilenet(1.0, pretrained=False)
    raise ValueError(f"unknown base network {base_network!r}; {', '.join(BASE_NETWORKS)} are known")


def build_network(base_network: str, classes: Sequence[str]) -> tuple[YOLOv3Network, gluon.HybridBlock]:
    """YOLOv3 without parameters, and its backbone (for loading ImageNet parameters into it)."""
    backbone = build_backbone(base_network)
    layers = backbone.features
    stages = (
        [layers[:15], layers[15:24], layers[24:]]
        if base_network == "darknet53"
        else [layers[:33], layers[33:69], layers[69:-2]]
    )
    anchors = [[side for anchor in scale for side in anchor] for scale in ANCHORS]
    network = YOLOv3Network(
        stages,
        [512, 256, 128],
        anchors,
        list(STRIDES),
        classes=list(classes),
    )
    return network, backbone


class YOLOv3Network(YOLOV3):
    """Input (B, 3, H, W), normalised; output ids (B, 100, 1), scores (B, 100, 1) and boxes (B, 100, 4) in input pixels.

    Rows without a detection are -1. Of boxes of one class that overlap the one with the highest score stays.
    """

    def predictions(self, F: Any, x: Any) -> Any:
        """Raw predictions (B, N, 5 + classes): x, y, width, height, objectness and classes before their activation.

        The order is coarsest scale first, then row, column and anchor.
        """
        raw = [
            output.prediction(tip) for output, tip in zip(self.yolo_outputs, self._tips(F, x), strict=True)
        ]
        return F.concat(
            *[r.transpose((0, 2, 3, 1)).reshape((0, -1, 5 + len(self.classes))) for r in raw], dim=1
        )

    def hybrid_forward(self, F: Any, x: Any) -> tuple[Any, Any, Any]:
        detections = [
            _Decoder(output, len(self.classes), stride)(output.prediction(tip))
            for output, tip, stride in zip(
                self.yolo_outputs, self._tips(F, x), reversed(STRIDES), strict=True
            )
        ]
        kept = F.contrib.box_nms(
            F.concat(*detections, dim=1),
            overlap_thresh=NMS_IOU,
            valid_thresh=0.01,
            topk=NMS_CANDIDATES,
            id_index=0,
            score_index=1,
            coord_start=2,
        ).slice_axis(axis=1, begin=0, end=MOST_DETECTIONS)
        return (
            kept.slice_axis(axis=2, begin=0, end=1),
            kept.slice_axis(axis=2, begin=1, end=2),
            kept.slice_axis(axis=2, begin=2, end=6),
        )

    def _tips(self, F: Any, x: Any) -> list[Any]:
        """The feature maps that the outputs stand on, coarsest first."""
        routes = []
        for stage in self.stages:
            x = stage(x)
            routes.append(x)
        tips = []
        for i, block in enumerate(self.yolo_blocks):
            x, tip = block(x)
            tips.append(tip)
            if i < len(routes) - 1:
                finer = routes[-2 - i]
                x = F.UpSampling(self.transitions[i](x), scale=2, sample_type="nearest")
                x = F.slice_like(x, finer, axes=(2, 3))
                # In mixed precision the two arrive in different types, which concat does not take.
                x, finer = F.amp_multicast(x, finer, num_outputs=2, cast_narrow=True)
                x = F.concat(x, finer, dim=1)
        return tips


class _Decoder(gluon.HybridBlock):
    """Raw predictions (B, A * (5 + C), H, W) of one scale to rows (B, C * H * W * A, 6): id, score, x1, y1, x2, y2.

    Takes the constants of GluonCV's output layer, whose own decoding overflows where a network is not trained yet.
    """

    def __init__(self, output: Any, classes: int, stride: int) -> None:
        super().__init__(prefix="")
        self.anchors, self.offsets = output.anchors, output.offsets
        self._classes, self._stride = classes, stride

    def hybrid_forward(self, F: Any, raw: Any, anchors: Any, offsets: Any) -> Any:
        cells = F.slice_like(offsets, raw, axes=(2, 3)).reshape((1, -1, 1, 2))
        raw = raw.transpose((0, 2, 3, 1)).reshape((0, -1, len(ANCHORS[0]), 5 + self._classes))
        centre = F.broadcast_add(F.sigmoid(raw.slice_axis(axis=3, begin=0, end=2)), cells) * self._stride
        size = F.clip(raw.slice_axis(axis=3, begin=2, end=4), -LARGEST_LOG_SCALE, LARGEST_LOG_SCALE)
        half = F.broadcast_mul(F.exp(size), anchors) / 2
        box = F.concat(centre - half, centre + half, dim=3)
        score = F.broadcast_mul(
            F.sigmoid(raw.slice_axis(axis=3, begin=5, end=None)),
            F.sigmoid(raw.slice_axis(axis=3, begin=4, end=5)),
        )
        scores = score.transpose((3, 0, 1, 2)).expand_dims(4)
        ids = F.broadcast_add(scores * 0, F.arange(0, self._classes).reshape((-1, 1, 1, 1, 1)))
        rows = F.concat(ids, scores, F.tile(box.expand_dims(0), (self._classes, 1, 1, 1, 1)), dim=4)
        return rows.transpose((1, 0, 2, 3, 4)).reshape((0, -1, 6))


def head_layers(network: YOLOv3Network) -> list[gluon.HybridBlock]:
    """The last layers, one a scale, whose outputs are the predictions."""
    return [output.prediction for output in network.yolo_outputs]


def initialise(network: YOLOv3Network, contexts: Sequence[Any]) -> None:
    """Random parameters; predictions begin near 0, so that what is known of objects before anything is learnt holds
    (see `set_priors`)."""
    for head in head_layers(network):
        head.weight.init = NearZero(0.01)
    begin_nearly_linear(network)
    network.initialize(HeNormal("avg", slope=0.1), ctx=list(contexts))
    for parameter in network.collect_params(".*(anchor|offset)_.*").values():
        parameter.reset_ctx(list(contexts))


def set_priors(network: YOLOv3Network, contexts: Sequence[Any]) -> None:
    """Give the objectness outputs of a new head the prior share of places that hold an object."""
    outputs = 5 + len(network.classes)
    for head in head_layers(network):
        shape = (3 * outputs,)
        bias = np.zeros(shape, np.float32)
        bias[4::outputs] = -math.log((1 - _PRIOR) / _PRIOR)
        head.bias.shape = shape
        set_value(head.bias, bias)


def transfer_classes(network: YOLOv3Network, classes: Sequence[str], contexts: Sequence[Any]) -> list[str]:
    """Give a trained `network` other classes; what it knows of boxes, objects and of the classes both have is kept.

    Returns the names of the classes that were known.
    """
    old_names, new_names = list(network.classes), list(classes)
    known = [name for name in new_names if name in old_names]
    old_parameters = [(value_of(head.weight), value_of(head.bias)) for head in head_layers(network)]
    network.reset_class(new_names)
    for head, old in zip(head_layers(network), old_parameters, strict=True):
        head.initialize(mx.init.Normal(0.01), ctx=list(contexts), force_reinit=True)
        for parameter, values in zip((head.weight, head.bias), old, strict=True):
            fresh = value_of(parameter).reshape((3, 5 + len(new_names), -1))
            kept = values.reshape((3, 5 + len(old_names), -1))
            fresh[:, :5] = kept[:, :5]
            # A class that is new begins as an average class: its logits are as large as those of the others.
            fresh[:, 5:] += kept[:, 5:].mean(1, keepdims=True)
            for name in known:
                fresh[:, 5 + new_names.index(name)] = kept[:, 5 + old_names.index(name)]
            set_value(parameter, fresh.reshape(parameter.shape))
    return known
