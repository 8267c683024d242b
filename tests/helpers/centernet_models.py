"""CenterNet models of tiny images, and batches for them; for tests."""

from __future__ import annotations

from typing import Any

import mxnet as mx
import numpy as np
from mxnet import autograd

from common.config.reading import configuration
from common.data.samples import Sample
from common.engine.graph import Normalise, inference_graph
from common.engine.mxnet_internals import operator_options
from common.loading.loader import Batch
from detect.center_net.deformable import sampling
from detect.center_net.task import CenterNetModel, CenterNetTask
from detect.config import CenterNetConfig
from tests.helpers.targets import inputs_of

CPU = [mx.cpu()]
SCRATCH = {"base_network": "resnet18_v1b", "use_pretrained": False, "data_shape": [64, 64]}


def task(
    model: dict[str, Any] | None = None, train: dict[str, Any] | None = None, **valid: Any
) -> CenterNetTask:
    """A task from scratch on tiny images, but for what is given."""
    values = {
        "log_dir": "out",
        "gpus": [],
        "model": {**SCRATCH, **(model or {})},
        "train": {"pretrained_base": False, **(train or {})},
        "valid": valid,
    }
    return CenterNetTask(configuration(CenterNetConfig, values))


def build(*args: Any, classes: list[str] | None = None, **valid: Any) -> CenterNetModel:
    mx.random.seed(0)
    np.random.seed(0)
    return task(*args, **valid).build(classes or ["a", "b"], CPU, None)


def settled(*args: Any, **valid: Any) -> CenterNetModel:
    """A model whose outputs differ from place to place as those of a trained one: scores between 0 and 1."""
    made = build(*args, **valid)
    for beta in made.network.collect_params(".*beta").values():
        beta.set_data(mx.nd.zeros(beta.shape))  # as they begin, outputs hardly differ
    images = mx.nd.array(batch().arrays["image"], dtype="uint8")
    settle_statistics(made.network, Normalise()(images))
    features = made.network.base_network(Normalise()(images))
    for head, spread in zip(made.network.heads, (1.0, 3.0, 0.3), strict=True):
        head[-1].weight.set_data(head[-1].weight.data() * (spread / head(features).asnumpy().std()))
    return made


def settle_statistics(block: Any, images: Any) -> None:
    """Give BatchNorm the statistics of `images` at once, as a training would by and by."""

    def momentum(layer: Any, value: float) -> None:
        if isinstance(layer, mx.gluon.nn.BatchNorm):
            operator_options(layer)["momentum"] = value

    block.apply(lambda layer: momentum(layer, 0.0))
    with sampling(), autograd.record():
        total = sum(part.sum() for part in block.maps(mx.nd, images))
    total.backward()  # which is when MXNet takes them
    mx.nd.waitall()
    block.apply(lambda layer: momentum(layer, 0.9))


def batch(rows: int = 2, shape: tuple[int, int] = (64, 64), seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    boxes = np.full((rows, 3, 5), -1, np.float32)
    boxes[:, 0] = [4, 4, 40, 50, 1]
    boxes[0, 1] = [10, 20, 30, 31, 0]
    arrays: dict[str, np.ndarray] = {
        "image": rng.integers(0, 256, (rows, shape[1], shape[0], 3)).astype(np.uint8),
        "boxes": boxes,
        "matrix": np.tile(np.array([[2, 0, 0], [0, 2, 0]], np.float32), (rows, 1, 1)),
    }
    return Batch(arrays, np.arange(rows), rows, shape)


def losses(model: CenterNetModel, content: Batch) -> list[np.ndarray]:
    """The mean of each loss over a batch."""
    block, _ = model.training_block()
    block.hybridize()
    inputs = inputs_of(model, content)
    arrays = [mx.nd.array(array, dtype=array.dtype) for array in inputs.split]
    return [loss.asnumpy().mean() for loss in block(*arrays)]


def outputs(block: Any, images: np.ndarray) -> list[np.ndarray]:
    graph = inference_graph(block)
    return [array.asnumpy() for array in graph(mx.nd.array(images, dtype="uint8"))]


def sample(boxes: list[list[float]], width: int = 100, height: int = 50) -> Sample:
    return Sample("x.jpg", width, height, np.array(boxes, np.float32).reshape(-1, 5))
