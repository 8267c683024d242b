"""Every network of every task predicts by its ONNX file what it predicts by MXNet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import mxnet as mx

from common.config.network_names import BASE_NETWORKS, VARIANTS
from common.engine.graph import settle
from common.engine.onnx_inference import suppressed
from common.export.onnx import heads
from common.export.onnx.graph import DEFORM_CONV_OPSET, OPSET, PLAIN_OPSET
from common.networks.base_networks import base_network, initialize
from detect.center_net.network import BASE_NETWORKS as CENTER_NETS
from detect.center_net.task import WithMirror
from detect.ssd.network import last_layers
from detect.yolov3.network import BASE_NETWORKS as YOLO_NETWORKS
from detect.yolov3.network import build_network, initialise
from landmark.network import build_landmark
from reid.network import build_embedding
from tests.helpers.centernet_models import settle_statistics, settled
from tests.helpers.onnx_models import run, source_of
from tests.helpers.operator_cases import unmatched
from tests.helpers.ssd_models import task as ssd_task

# Of a kind of network one stands for the others in the quick suite, and its variants for theirs outside of `make soak`.
_QUICK = {
    "resnet18_v1",
    "resnet18_v2",
    "mobilenet0.25",
    "mobilenetv2_0.25",
    "mobilenetv3_small",
    "densenet121",
}


def networks() -> Iterator[Any]:
    for name in BASE_NETWORKS:
        for variant in (None, *(option for option in VARIANTS if name in VARIANTS[option])):
            minutes = name not in _QUICK and (variant or name in ("vgg13", "vgg16", "vgg19"))
            marks = pytest.mark.soak if minutes else () if name in _QUICK else pytest.mark.slow
            yield pytest.param(name, {variant: True} if variant else {}, marks=marks, id=f"{name}-{variant}")


def images(height: int, width: int, count: int = 2) -> np.ndarray:
    """As normalised images are that show noise."""
    return np.random.default_rng(0).uniform(-2.0, 2.4, (count, 3, height, width)).astype(np.float32)


@pytest.mark.parametrize(("name", "variants"), networks())
def test_a_classifier_gives_the_same_probabilities(name: str, variants: dict[str, bool]) -> None:
    mx.random.seed(0)
    np.random.seed(0)
    network = base_network(name, 5, **variants)
    initialize(network, [mx.cpu()])
    batch = images(64, 96)
    wanted = mx.nd.softmax(network(mx.nd.array(batch))).asnumpy()
    model = heads.classifier(source_of(network, network, 96, 64, 5)).model({}, "test")
    assert [entry.version for entry in model.opset_import] == [PLAIN_OPSET]
    np.testing.assert_allclose(run(model, batch)[0], wanted, atol=1e-5)
    np.testing.assert_allclose(run(model, batch[:1])[0], wanted[:1], atol=1e-5)


def test_an_embedding_and_landmarks_are_those_of_mxnet() -> None:
    embedding = build_embedding("mobilenetv2_0.25", 4, [mx.cpu()])
    landmarks = build_landmark("mobilenetv2_0.25", 5, [mx.cpu()])
    batch = images(64, 96)
    for network, head in ((embedding, heads.embedding), (landmarks, heads.landmarks)):
        wanted = network(mx.nd.array(batch)).asnumpy()
        found = run(head(source_of(network, network, 96, 64, 0)).model({}, "test"), batch)[0]
        assert np.std(wanted) > 0
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def yolov3(base: str, classes: int, batch: np.ndarray) -> Any:
    """A network whose outputs for `batch` are spread as a trained one's: scores differ from place to place."""
    mx.random.seed(0)
    np.random.seed(0)
    network, _ = build_network(base, [f"class{i}" for i in range(classes)])
    initialise(network, [mx.cpu()])
    settle(network)
    found: list[np.ndarray] = []
    hooks = [
        output.prediction.register_forward_hook(lambda block, given, made: found.append(made.asnumpy()))
        for output in network.yolo_outputs
    ]
    network(mx.nd.array(batch))
    for hook, output, made in zip(hooks, network.yolo_outputs, found, strict=True):
        hook.detach()
        weight = output.prediction.weight
        # Saturated scores would be equal, and which of equal ones comes first is nobody's promise.
        weight.set_data(weight.data() * (1.5 / float(made.std())))
    return network


@pytest.mark.parametrize(
    "base", [pytest.param(b, marks=pytest.mark.slow) if "dark" in b else b for b in YOLO_NETWORKS]
)
@pytest.mark.parametrize("classes", [1, 3])
def test_yolov3_gives_the_same_detections(base: str, classes: int) -> None:
    batch = images(96, 128)
    network = yolov3(base, classes, batch)
    wanted = [array.asnumpy() for array in network(mx.nd.array(batch))]
    assert len(np.unique(wanted[1])) > 50
    source = source_of(network, network, 128, 96, classes)
    found = run(heads.yolov3(source).model({}, "test"), batch)
    assert [each.shape for each in found] == [each.shape for each in wanted]
    missing, count = unmatched(wanted, found)
    assert count > 50
    assert missing == 0


def test_yolov3s_raw_boxes_and_scores_are_those_of_every_place() -> None:
    batch = images(64, 96)
    network = yolov3("mobilenet1.0", 3, batch)
    boxes, scores = run(heads.yolov3_raw(source_of(network, network, 96, 64, 3)).model({}, "test"), batch)
    assert boxes.shape == (2, 3 * (6 + 24 + 96), 4)
    assert scores.shape == (2, 3 * (6 + 24 + 96), 3)
    ids, best, kept = (array.asnumpy() for array in network(mx.nd.array(batch)))
    for image in range(2):
        for row in range(20):
            place = np.abs(boxes[image] - kept[image, row]).max(1).argmin()
            np.testing.assert_allclose(boxes[image, place], kept[image, row], atol=1e-2)
            np.testing.assert_allclose(
                scores[image, place, int(ids[image, row, 0])], best[image, row, 0], atol=1e-5
            )


def calmed(network: Any) -> bool:
    """Whether it has bottleneck blocks, of which each is then made to add a tenth to what it is given.

    Random ones make of an input that differs by a millionth, in MXNet itself, other detections.
    """
    blocks: list[Any] = []
    network.apply(lambda block: blocks.append(block) if hasattr(block, "bn3") else None)
    for block in blocks:
        block.bn3.gamma.set_data(block.bn3.gamma.data() * 0.1)
    return bool(blocks)


def center_net(batch: np.ndarray, base: str = "resnet18_v1b", classes: int = 3, **valid: Any) -> Any:
    """A network whose scores, sizes and offsets for `batch` are spread as a trained one's, with samples that move."""
    model = settled({"base_network": base}, classes=[f"class{i}" for i in range(classes)], **valid)
    network = model.network
    rng = np.random.default_rng(0)
    for name, parameter in network.collect_params().items():
        if "offset" in name:
            fan_in = np.prod(parameter.shape[1:])
            parameter.set_data(mx.nd.array(rng.standard_normal(parameter.shape) * 0.1 / fan_in**0.5))
    if calmed(network):
        settle_statistics(network, mx.nd.array(batch))
    maps = network.raw_maps(mx.nd, mx.nd.array(batch))
    for head, found, mean, deviation in zip(network.heads, maps, (-2, 4, 0.5), (1, 1, 0.2), strict=True):
        factor = deviation / float(found.asnumpy().std())
        layer = head[-1]
        shift = float(found.mean().asscalar()) * factor
        layer.weight.set_data(layer.weight.data() * factor)
        layer.bias.set_data(layer.bias.data() * factor + mean - shift)
    return network


@pytest.mark.parametrize(
    "base",
    [pytest.param(b, marks=pytest.mark.slow) if b != "resnet18_v1b" else b for b in CENTER_NETS],
)
def test_center_net_gives_the_same_detections_with_and_without_the_mirrored_image(base: str) -> None:
    deep, deformable = "resnet18" not in base, base.endswith("dcnv2")
    batch = images(80, 100, 1 if deep else 2)  # no multiple of 32
    network = center_net(batch, base)
    for block in (network,) if deep else (network, WithMirror(network, normalised=True)):
        wanted = [array.asnumpy() for array in block(mx.nd.array(batch))]
        source = source_of(block, network, 100, 80, 3)
        for opset in (OPSET, DEFORM_CONV_OPSET) if deformable else (OPSET,):
            found = run(heads.detections(source, opset).model({}, "test"), batch)
            missing, count = unmatched(wanted, found)
            assert count == 100 * len(batch)
            assert missing <= 2  # of those that are nearly equal the last may be others


def test_center_net_suppresses_by_class_as_mxnet_does() -> None:
    batch = images(64, 96)
    network = center_net(batch, nms_thresh=0.3, nms_topk=100)
    wanted = [array.asnumpy() for array in network(mx.nd.array(batch))]
    found = run(heads.detections(source_of(network, network, 96, 64, 3)).model({}, "test"), batch)
    missing, count = unmatched(wanted, found)
    assert 20 < count < 200
    assert missing <= 2


def test_center_nets_raw_boxes_are_those_of_its_peaks() -> None:
    batch = images(80, 100)
    network = center_net(batch, classes=2)
    boxes, scores = run(
        heads.center_net_raw(source_of(network, network, 100, 80, 2)).model({}, "test"), batch
    )
    assert boxes.shape == (2, 24 * 32, 4)
    assert scores.shape == (2, 24 * 32, 2)
    ids, best, kept = (array.asnumpy() for array in network(mx.nd.array(batch)))
    for image in range(2):
        for row in range(20):
            its_class = int(ids[image, row, 0])
            away = np.abs(boxes[image] - kept[image, row]).max(1) + np.abs(
                scores[image, :, its_class] - best[image, row]
            )
            assert away.min() < 1e-2


@pytest.mark.parametrize(
    "base",
    [
        "mobilenetv2_1.0_lite",
        "mobilenet1.0_fpn",
        *(
            pytest.param(b, marks=pytest.mark.slow)
            for b in ("mobilenet1.0", "resnet18_v1", "resnet50_v1", "vgg16_atrous")
        ),
    ],
)
def test_ssd_gives_the_same_detections_and_the_boxes_that_they_are_chosen_from(base: str) -> None:
    mx.random.seed(0)
    np.random.seed(0)
    batch = images(64, 96)
    made = ssd_task({"base_network": base, "data_shape": [96, 64]}).build(["a", "b", "c"], [mx.cpu()], None)
    network = made.network
    outputs = network.predictions(mx.nd, mx.nd.array(batch))
    for parts, values, spread in zip(
        (network.class_heads, network.box_heads), outputs, (1.5, 0.5), strict=True
    ):
        factor = spread / float(values.asnumpy().std())
        for layer in last_layers(parts):
            layer.weight.set_data(layer.weight.data() * factor)
    wanted = [array.asnumpy() for array in network(mx.nd.array(batch))]
    source = source_of(network, network, 96, 64, 3)
    raw = heads.ssd_raw(source)
    assert raw.suppression is not None
    boxes, scores = run(raw.model({}, "test"), batch)
    for found in (
        run(heads.detections(source).model({}, "test"), batch),
        suppressed(boxes, scores, **asdict(raw.suppression)),
    ):
        missing, count = unmatched(wanted, found)
        assert count > 20
        assert missing <= 2  # of those that are nearly equal the last may be others


def test_operators_of_deformable_convolutions_are_elementary_unless_asked_otherwise() -> None:
    model = settled({"base_network": "resnet18_v1b_dcnv2"})
    source = source_of(model.network, model.network, 64, 64, 2)
    elementary, operator = (
        {node.op_type for node in heads.center_net_raw(source, opset).model({}, "test").graph.node}
        for opset in (OPSET, DEFORM_CONV_OPSET)
    )
    assert "DeformConv" in operator
    assert "DeformConv" not in elementary
    assert "Gather" in elementary
