"""The scale of the loss: float16 has no small numbers, and gradients that are below the smallest are lost."""

from __future__ import annotations

from typing import Any

# Steps without an overflow after which the scale is doubled, and how far ("Mixed Precision Training", Micikevicius et
# al. 2018, 3.2; the figures are those of MXNet's and PyTorch's amp).
GROWTH_INTERVAL = 2000
_LARGEST = 2.0**24


class LossScale:
    """What the loss is multiplied by before its gradients are computed: 1, and stays 1, unless `precision` is float16.

    It is halved where gradients overflow and doubled after many steps in which none did.
    """

    def __init__(self, precision: str) -> None:
        self._varies = precision == "float16"
        self.value = 2.0**15 if self._varies else 1.0
        self._steps = 0

    def keep(self) -> None:
        """A step was taken at this scale."""
        self._steps += 1
        if self._varies and self._steps == GROWTH_INTERVAL:
            self.value, self._steps = min(2 * self.value, _LARGEST), 0

    def reduce(self) -> bool:
        """A step overflowed at this scale. Returns whether it could be made smaller."""
        self._steps = 0
        if self.value <= 1.0:
            return False
        self.value /= 2
        return True

    def state(self) -> dict[str, Any]:
        """What `restore` needs, as plain data."""
        return {"value": self.value, "steps": self._steps}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what `state` returned."""
        self.value, self._steps = state["value"], state["steps"]
