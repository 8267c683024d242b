"""How far back the moving average of a training's parameters reaches; the same for every engine."""

from __future__ import annotations

# After n updates the average reaches back over about n / 9 of them, until `decay` limits it: short trainings and long
# ones alike are averaged over their last tenth.
_RAMP = 10.0


def kept_share(updates: int, decay: float) -> float:
    """The weight of what `updates` updates have averaged in the next one; decay: the largest."""
    return min(decay, (1.0 + updates) / (_RAMP + updates))
