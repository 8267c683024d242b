"""The loop trains with any engine: here with one of NumPy, and without MXNet."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from common.engine.schedule import Schedule
from common.loading.loader import Batch
from common.task import Inputs
from common.training.estimator import Estimator, TrainingState
from common.training.hooks import FromAverage
from tests.helpers.engines import StatelessEngine

ROOT = Path(__file__).resolve().parents[3]


class LineEngine(StatelessEngine):
    """Fits a line to points (x, y) by gradient descent; its average is half way back to where it began."""

    def __init__(self) -> None:
        self.line = np.zeros(2)
        self.seeds: list[int] = []
        self.calls: list[str] = []

    def begin_epoch(self, seed: int) -> None:
        self.seeds.append(seed)

    def take(self, split: Sequence[np.ndarray], shared: Sequence[np.ndarray] = ()) -> None:
        self.x, self.y = split

    def forward(self) -> None:
        self.error = self.line[0] * self.x + self.line[1] - self.y

    def backward(self) -> None:
        self.gradient = np.array([(self.error * self.x).mean(), self.error.mean()])

    def losses(self) -> np.ndarray:
        return np.array([(self.error**2).mean()])

    def norms(self) -> np.ndarray:
        return np.abs(self.gradient)

    def update(self, learning_rate: float, norms: np.ndarray) -> None:
        self.calls.append("update")
        self.line = self.line - learning_rate * self.gradient

    def skip(self) -> bool:
        self.calls.append("skip")
        return False

    def adopt_average(self) -> None:
        self.calls.append("adopt")
        self.line = self.line / 2

    def parameters(self) -> dict[str, np.ndarray]:
        return {"line": self.line}

    def set_parameters(self, values: dict[str, np.ndarray]) -> None:
        self.line = values["line"]

    def predict(self, images: np.ndarray) -> list[np.ndarray]:
        return [self.line[0] * images + self.line[1]]


class Line:
    """As much of a model as the loop knows."""

    losses = ("square",)

    def training_inputs(self, batch: Batch) -> Inputs:
        return Inputs([batch.arrays["x"], batch.arrays["y"]])


class Points:
    """Points on the line 2 x + 1; the second batch of every epoch holds one that is no number."""

    def __len__(self) -> int:
        return 5

    def epoch(self, number: int) -> Iterator[Batch]:
        rng = np.random.default_rng(number)
        for step in range(5):
            x = rng.uniform(-1, 1, 8)
            y = 2 * x + 1
            if step == 1:
                y[3] = np.nan
            yield Batch({"x": x, "y": y}, np.arange(8), 8, (1, 1))


def test_a_line_is_fitted_by_an_engine_of_numpy() -> None:
    engine = LineEngine()
    state = TrainingState(epochs=40, steps=5)
    schedule = Schedule(0.5, "step", 40, 5, decay_epochs=(38,))
    made = Estimator(Line(), engine)  # type: ignore[arg-type]
    made.fit(Points(), schedule, [FromAverage(engine, schedule.steps_down_at)], state, seed=7)  # type: ignore[arg-type]
    assert engine.seeds == list(range(7, 47))
    assert engine.calls[:5] == ["update", "skip", "update", "update", "update"]
    assert engine.calls.index("adopt") == 38 * 5
    assert state.skipped == 40
    assert engine.calls.count("adopt") == 1
    schedule = Schedule(0.5, "step", 20, 5)
    made.fit(Points(), schedule, [], TrainingState(epochs=20, steps=5))  # type: ignore[arg-type]
    np.testing.assert_allclose(engine.parameters()["line"], [2, 1], atol=0.01)


def test_the_loop_needs_no_framework() -> None:
    code = (
        "import sys, tests.common.training.test_seam; print('mxnet' in sys.modules, 'gluoncv' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
