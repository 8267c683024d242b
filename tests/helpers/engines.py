"""An engine without a state of its own, for engines of tests that compute something."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from common.engine.engine import Engine


class StatelessEngine(Engine):
    """Has nothing to save, and no average."""

    def begin_epoch(self, seed: int) -> None:
        pass

    def skip(self) -> bool:
        return False

    def averaged(self) -> AbstractContextManager[None]:
        return nullcontext()

    def adopt_average(self) -> None:
        pass

    def parameters(self) -> dict[str, np.ndarray]:
        return {}

    def set_parameters(self, values: dict[str, np.ndarray]) -> None:
        pass

    def companions(self) -> dict[str, np.ndarray]:
        return {}

    def set_companions(self, values: dict[str, np.ndarray]) -> None:
        pass

    def multipliers(self) -> dict[str, list[float]]:
        return {}

    def set_multipliers(self, values: dict[str, list[float]]) -> None:
        pass

    def average_state(self) -> dict[str, Any] | None:
        return None

    def restore_average(self, state: dict[str, Any] | None) -> None:
        pass

    def optimizer_state(self) -> dict[str, Any]:
        return {}

    def restore_optimizer(self, state: dict[str, Any]) -> None:
        pass
