"""A device that is faster than the host does not stand still where the host could have worked meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from common.data.samples import Sample
from common.loading.loader import Batch
from common.task import Model
from common.training.estimator import Estimator, TrainingState
from detect.center_net.task import CenterNetModel
from detect.config import CenterNetModelConfig, YOLOv3ModelConfig
from detect.yolov3.task import YOLOv3Model
from tests.helpers.engines import StatelessEngine
from tests.helpers.ssd_models import CPU
from tests.helpers.ssd_models import task as ssd_task
from tests.helpers.targets import with_targets

STEPS = 4
CLASSES = [f"class{number}" for number in range(80)]
SIDE = 256


class Noting(StatelessEngine):
    """Computes nothing, and notes what it is asked for, and when."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.taken: list[np.ndarray] = []

    def take(self, split: Sequence[np.ndarray], shared: Sequence[np.ndarray] = ()) -> None:
        self.notes.append("take")
        self.taken = [*split, *shared]

    def forward(self) -> None:
        self.notes.append("forward")

    def backward(self) -> None:
        self.notes.append("backward")

    def norms(self) -> np.ndarray:
        self.notes.append("wait")
        return np.ones(1)

    def losses(self) -> np.ndarray:
        return np.ones(4)

    def update(self, learning_rate: float, norms: np.ndarray) -> None:
        self.notes.append("update")

    def predict(self, images: np.ndarray) -> list[np.ndarray]:
        return []


class Given:
    """Serves one batch again and again."""

    def __init__(self, batch: Batch, engine: Noting) -> None:
        self._batch, self._engine = batch, engine

    def __len__(self) -> int:
        return STEPS

    def epoch(self, number: int) -> Iterator[Batch]:
        for _ in range(STEPS):
            self._engine.notes.append("batch")
            yield self._batch


def center_net() -> Model:
    section = CenterNetModelConfig(base_network="resnet18_v1b")
    network: Any = None
    return CenterNetModel(network, section, CLASSES, flip_test=False, on_cpu=True)


def yolov3() -> Model:
    network: Any = None
    return YOLOv3Model(network, YOLOv3ModelConfig(), CLASSES)


def ssd() -> Model:
    return ssd_task({"data_shape": [SIDE, SIDE]}).build(CLASSES, CPU, None)


def batch(rows: int = 4, most: int = 93, objects: int = 20) -> Batch:
    """Images of a set one of whose images has `most` objects, while these have `objects`."""
    rng = np.random.default_rng(0)
    boxes = np.full((rows, most, 5), -1, np.float32)
    corners = rng.uniform(0, SIDE - 80, (rows, objects, 2))
    ids = rng.integers(0, 80, (rows, objects, 1))
    boxes[:, :objects] = np.concatenate([corners, corners + rng.uniform(8, 80, corners.shape), ids], -1)
    images = np.zeros((rows, SIDE, SIDE, 3), np.uint8)
    return Batch({"image": images, "boxes": boxes}, np.arange(rows), rows, (SIDE, SIDE))


def test_a_batch_is_awaited_and_copied_while_the_device_computes_and_figures_are_read_afterwards() -> None:
    engine, model = Noting(), center_net()
    state = TrainingState(epochs=1, steps=STEPS)
    loader: Any = Given(with_targets(model, batch()), engine)
    Estimator(model, engine).fit(loader, lambda step: 0.1, [], state)
    assert state.step == STEPS
    begin, follow = (
        ["batch", "take", "forward", "backward"],
        ["batch", "take", "wait", "update", "forward", "backward"],
    )
    assert engine.notes == [*begin, *follow * (STEPS - 1), "wait", "update"]


@pytest.mark.parametrize("make", [center_net, yolov3, ssd])
def test_targets_come_out_of_the_workers_and_are_a_fraction_of_the_images(make: Callable[[], Model]) -> None:
    model, content = make(), batch()
    made = with_targets(model, content)
    inputs = model.training_inputs(made)
    theirs = list(made.arrays.values())
    own = sum(a.nbytes for a in inputs.split if not any(np.shares_memory(a, other) for other in theirs))
    # Which map each class has, or the weight of each image: nothing that grows with the input.
    assert own <= len(content.indices) * 4 * len(CLASSES)
    images, *targets = inputs.split
    # CenterNet's maps of all classes would be 6.7 times as much as the images, YOLOv3's classes 1.4 times.
    assert (
        sum(array.nbytes for array in targets) < (2 if model.name.startswith("center") else 1) * images.nbytes
    )


def test_samples_say_how_many_classes_an_image_shows_at_the_most() -> None:
    rows = [[[3, 0, 0, 9, 9], [3, 1, 1, 9, 9], [-1, 0, 0, 5, 5], [7, 2, 2, 8, 8]], [], [[1, 0, 0, 4, 4]]]
    samples = [Sample("x.jpg", 9, 9, np.array(each, np.float32).reshape(-1, 5)) for each in rows]
    for given, maps in ((samples, 3), (samples[1:2], 2)):
        targets = center_net().targets(given)
        assert targets is not None
        layout = targets.layout((64, 64), {"boxes": ((4, 5), "float32")})
        assert layout["heatmap"] == ((maps, 16, 16), "float32")
