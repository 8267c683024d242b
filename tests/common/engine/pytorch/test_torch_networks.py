"""Every kind of network of every task predicts, and learns in a step, with PyTorch what it does with MXNet.

The gradient of a network with ReLUs is not continuous: rounding puts a few activations on another side, and each of
them changes it. So both engines are held against float64 with every activation on the side where it is for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed here; make test-torch has it")

import mxnet as mx
from mxnet import gluon

from benchmarks.kinks import apart, by_torch, sides_by_mxnet
from classification.losses import ClassificationTraining
from classification.networks import build_classifier
from common.config.network_names import BASE_NETWORKS, VARIANTS
from common.engine.engine import Blocks, OptimizerSettings
from common.engine.graph import Inference, settle
from common.engine.mxnet_engine import MXNetEngine
from common.engine.mxnet_internals import descendants, drop_nothing, named_parameters
from common.engine.torch.engine import TorchEngine
from common.engine.tracing import program
from common.loading.loader import Batch
from common.networks.base_networks import freeze
from common.task import Inputs
from detect.config import YOLOv3ModelConfig
from detect.yolov3.network import build_network as build_yolov3
from detect.yolov3.network import initialise as initialise_yolov3
from detect.yolov3.network import set_priors
from detect.yolov3.task import YOLOv3Model
from landmark.losses import LOSSES, LandmarkTraining
from landmark.network import build_landmark
from reid.network import EmbeddingInference, ReidTraining, build_embedding
from tests.helpers.centernet_models import batch, settled
from tests.helpers.operator_cases import unmatched
from tests.helpers.ssd_models import task as ssd_task
from tests.helpers.targets import inputs_of

CPU = torch.device("cpu")
CLASSES = ["a", "b", "c"]


@dataclass
class Given:
    """What a network is given."""

    blocks: Blocks
    split: Sequence[np.ndarray]
    shared: Sequence[np.ndarray] = ()

    @property
    def images(self) -> np.ndarray:
        return self.split[list(self.blocks.inputs).index("images")]


def images(rows: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (rows, height, width, 3)).astype(np.uint8)


def detections(rows: int, side: int) -> Batch:
    rng = np.random.default_rng(1)
    boxes = np.full((rows, 6, 5), -1, np.float32)
    corners = rng.uniform(0, side / 2, (rows, 4, 2))
    boxes[:, :4] = np.concatenate(
        [corners, corners + rng.uniform(8, side / 2, (rows, 4, 2)), rng.integers(0, 3, (rows, 4, 1))], -1
    )
    return Batch({"image": images(rows, side, side), "boxes": boxes}, np.arange(rows), rows, (side, side))


def yolov3(base: str) -> Given:
    network, _ = build_yolov3(base, CLASSES)
    initialise_yolov3(network, [mx.cpu()])
    settle(network)
    set_priors(network, [mx.cpu()])
    model = YOLOv3Model(network, YOLOv3ModelConfig(base_network=base), CLASSES)
    inputs = inputs_of(model, detections(2, 96))
    return Given(model.blocks(), inputs.split, inputs.shared)


def center_net(base: str) -> Given:
    model = settled({"base_network": base}, nms_thresh=0.5, flip_test=True)
    rng = np.random.default_rng(3)
    for name, parameter in named_parameters(model.network).items():
        if name.endswith("offset_bias"):  # on a pixel, where it begins, a sampling has a kink
            parameter.set_data(mx.nd.array(rng.uniform(0.2, 0.4, parameter.shape)))
    return Given(model.blocks(), inputs_of(model, batch()).split)


def ssd(base: str, **train: Any) -> Given:
    model = ssd_task({"base_network": base}, **train).build(CLASSES, [mx.cpu()], None)
    inputs = inputs_of(model, detections(8, 64))
    return Given(model.blocks(), inputs.split, inputs.shared)


def classifier(name: str, **variants: bool) -> Given:
    network = build_classifier(name, 4, [mx.cpu()], **variants)
    settle(network, (1, 3, 64, 64))
    for layer in descendants(network):
        if isinstance(layer, gluon.nn.Dropout):  # engines drop different numbers
            drop_nothing(layer)
    training = ClassificationTraining(network, 4, smoothing=0.1, mixup=True)
    blocks = Blocks(network, training, training.inputs, Inference(network))
    labels = np.array([0, 1, 2, 3], np.float32)
    return Given(blocks, [images(4, 64, 64), labels], [np.array([0.7], np.float32)])


def reid() -> Given:
    network = build_embedding("resnet18_v1", 4, [mx.cpu()])
    training = ReidTraining(network, 4, triplet_weight=1.0)
    blocks = Blocks(network, training, training.inputs, EmbeddingInference(network))
    return Given(blocks, [images(8, 32, 32), np.repeat(np.arange(4, dtype=np.float32), 2)])


def landmark(loss: str) -> Given:
    network, teacher = (build_landmark("mobilenetv2_0.25", 5, [mx.cpu()]) for _ in range(2))
    freeze(teacher)
    training = LandmarkTraining(network, LOSSES[loss](), mixup=True, teacher=teacher)
    blocks = Blocks(network, training, training.inputs, Inference(network))
    points = np.random.default_rng(2).uniform(0, 1, (4, 5, 2)).astype(np.float32)
    return Given(
        blocks, [images(4, 64, 64), points, np.ones((4, 5), np.float32)], [np.array([0.7], np.float32)]
    )


# A network of each kind in the quick suite; `make test-torch TORCH_TESTS="-m soak"` has all of them.
QUICK = {
    ("resnet18_v1", "use_se"),
    ("resnet18_v2", None),
    ("mobilenetv2_0.25", None),
    ("mobilenetv3_small", None),
}


def cases() -> list[Any]:
    made = [
        pytest.param(lambda: yolov3("mobilenet1.0"), id="yolov3"),
        pytest.param(lambda: yolov3("darknet53"), id="yolov3-darknet53", marks=pytest.mark.soak),
        pytest.param(lambda: ssd("mobilenetv2_1.0_lite"), id="ssd"),
        pytest.param(lambda: ssd("mobilenet1.0_fpn"), id="ssd-pyramid", marks=pytest.mark.soak),
        pytest.param(
            lambda: ssd("mobilenet1.0", box_loss="ciou", class_loss="focal"),
            id="ssd-focal",
            marks=pytest.mark.soak,
        ),
        pytest.param(lambda: center_net("resnet18_v1b"), id="center_net", marks=pytest.mark.soak),
        pytest.param(lambda: center_net("resnet18_v1b_dcnv2"), id="center_net-deformable"),
        pytest.param(reid, id="reid"),
        *(
            pytest.param(
                lambda loss=loss: landmark(loss),
                id=f"landmark-{loss}",
                marks=() if loss == "smooth_l1" else pytest.mark.soak,
            )
            for loss in LOSSES
        ),
    ]
    for name in BASE_NETWORKS:
        for variant in (None, *(option for option in VARIANTS if name in VARIANTS[option])):
            made.append(
                pytest.param(
                    lambda name=name, variant=variant: classifier(
                        name, **({variant: True} if variant else {})
                    ),
                    id=f"{name}-{variant}",
                    marks=() if (name, variant) in QUICK else pytest.mark.soak,
                )
            )
    return made


def moved(engine: Any, given: Given) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Losses of a step, and each parameter's gradient, by how far it moves."""
    before = engine.parameters()
    engine.take(given.split, given.shared)
    engine.forward()
    engine.backward()
    norms, losses = engine.norms(), engine.losses()
    engine.update(1.0, norms)
    rates = engine.multipliers()
    after = engine.parameters()
    return losses, {name: (before[name] - value) / (rates[name][0] or 1.0) for name, value in after.items()}


@pytest.mark.parametrize("make", cases())
def test_a_network_predicts_and_learns_what_it_does_with_mxnet(make: Callable[[], Given]) -> None:
    mx.random.seed(1)
    np.random.seed(1)
    given = make()
    traced = program(given.blocks)
    inputs = Inputs(given.split, given.shared)
    their_sides, our_sides = sides_by_mxnet(traced, given.blocks, inputs), {}
    by_torch(traced, inputs, our_sides, held=False)
    ours = TorchEngine(traced, CPU, OptimizerSettings("sgd"))
    theirs = MXNetEngine(given.blocks, [mx.cpu()], OptimizerSettings("sgd"))
    wanted, found = (engine.predict(given.images) for engine in (theirs, ours))
    if len(wanted) == 3:
        assert unmatched(wanted, found)[0] <= 0.02 * wanted[0].size  # scores that are equal may change places
    else:
        for mine, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-5 * np.abs(other).max())

    (mine, by_us), (others, by_them) = (moved(engine, given) for engine in (ours, theirs))
    np.testing.assert_allclose(mine, others, rtol=2e-4)
    trained = [p.own[0] for p in traced.parameters.values() if p.trained]
    # Most networks are below 1e-4; SSD's last maps have so few places here that BatchNorm makes 1e-3 of rounding, and
    # MXNet's BatchNorms add up in float32.
    for by, sides, most in ((by_us, our_sides, 2e-3), (by_them, their_sides, 1e-2)):
        truth = [
            gradient / len(given.images)
            for gradient in by_torch(traced, inputs, sides, held=True, dtype="float64")[1]
        ]
        assert apart([by[name] for name in trained], truth, truth) < most
