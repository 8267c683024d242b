"""A device that is faster than the host does not stand still where the host could have worked meanwhile."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from common.loading.loader import Batch
from common.training.estimator import Estimator, TrainingState
from detect.center_net.task import CenterNetModel
from detect.config import CenterNetModelConfig
from tests.helpers.engines import StatelessEngine

SECONDS = 0.4  # of a step on the device: several times what the host needs
STEPS = 6


class Sleeping(StatelessEngine):
    """Computes nothing, and takes its time for it, while the host may do what it likes.

    idle: seconds between the end of a step and the beginning of the next one.
    """

    def __init__(self) -> None:
        self.idle: list[float] = []
        self._ready: float | None = None
        self._copies: list[np.ndarray] = []

    def take(self, split: Sequence[np.ndarray], shared: Sequence[np.ndarray] = ()) -> None:
        self._copies = [np.array(array) for array in (*split, *shared)]

    def forward(self) -> None:
        now = time.monotonic()
        if self._ready is not None:
            self.idle.append(max(now - self._ready, 0.0))
        self._ready = now + SECONDS

    def backward(self) -> None:
        pass

    def norms(self) -> np.ndarray:
        assert self._ready is not None
        time.sleep(max(self._ready - time.monotonic(), 0.0))
        return np.ones(1)

    def losses(self) -> np.ndarray:
        return np.ones(4)

    def update(self, learning_rate: float, norms: np.ndarray) -> None:
        pass

    def predict(self, images: np.ndarray) -> list[np.ndarray]:
        return []


class Given:
    """Serves batches of CenterNet's largest usual targets: 84 MB of 80 classes."""

    def __len__(self) -> int:
        return STEPS

    def epoch(self, number: int) -> Any:
        rng = np.random.default_rng(0)
        corners = rng.uniform(0, 400, (16, 20, 2))
        boxes = np.concatenate([corners, corners + 80, rng.integers(0, 80, (16, 20, 1))], -1).astype(
            np.float32
        )
        images = np.zeros((16, 512, 512, 3), np.uint8)
        for _ in range(STEPS):
            yield Batch({"image": images, "boxes": boxes}, np.arange(16), 16, (512, 512))


def test_targets_are_made_and_copied_while_the_device_computes() -> None:
    section = CenterNetModelConfig(base_network="resnet18_v1b")
    classes = [f"class{number}" for number in range(80)]
    model = CenterNetModel(None, section, classes, flip_test=False, on_cpu=True)  # type: ignore[arg-type]
    engine = Sleeping()
    state = TrainingState(epochs=1, steps=STEPS)
    Estimator(model, engine).fit(Given(), lambda step: 0.1, [], state)  # type: ignore[arg-type]
    assert state.step == STEPS
    assert len(engine.idle) == STEPS - 1
    # Others compute on this machine too; where nothing is hidden every step waits for 30 ms and more.
    assert np.quantile(engine.idle, 0.25) < 0.005
