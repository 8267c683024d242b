"""Optimizers by name, and steps of one of them over the parameters of a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.engine.engine import OptimizerSettings
from common.engine.torch import optimizers, rare_optimizers
from common.engine.torch.optimizers import Optimizer, State, Step
from common.engine.torch.tensors import array

OPTIMIZERS: dict[str, Callable[[], Optimizer]] = {
    "adadelta": rare_optimizers.AdaDelta,
    "adagrad": rare_optimizers.AdaGrad,
    "adam": optimizers.Adam,
    "adamax": rare_optimizers.Adamax,
    "adamw": optimizers.AdamW,
    "ccsgd": optimizers.SGD,
    "dcasgd": rare_optimizers.DCASGD,
    "ftml": rare_optimizers.FTML,
    "ftrl": rare_optimizers.FTRL,
    "lamb": rare_optimizers.LAMB,
    "lars": optimizers.LARS,
    # Of the options that make it another one none can be set.
    "lbsgd": optimizers.SGD,
    "nadam": rare_optimizers.Nadam,
    "nag": optimizers.NAG,
    "rmsprop": rare_optimizers.RMSProp,
    "sgd": optimizers.SGD,
    "sgld": rare_optimizers.SGLD,
    "signum": optimizers.Signum,
}
"""By the name that stands in `train.optimizer`."""


class Updater:
    """Steps of an optimizer over trained parameters by name, and what it keeps of them."""

    def __init__(self, weights: Mapping[str, Tensor], settings: OptimizerSettings) -> None:
        self._settings = settings
        self._optimizer = OPTIMIZERS[settings.name]()
        self._names = list(weights)
        self._weights = list(weights.values())
        self._counts = [0] * len(self._weights)
        self._states: list[State] | None = None

    def update(
        self, gradients: Sequence[Tensor], rates: Sequence[float], decay_mults: Sequence[float]
    ) -> None:
        """One step. gradients: of the mean loss. rates: of each parameter."""
        with torch.no_grad():
            states = self._made()
            counted = [rate > 0 or self._optimizer.counts_at_0 for rate in rates]
            self._counts = [count + one for count, one in zip(self._counts, counted, strict=True)]
            decays = [self._settings.wd * mult for mult in decay_mults]
            self._optimizer.update(
                Step(
                    self._weights,
                    list(gradients),
                    states,
                    list(rates),
                    decays,
                    self._counts,
                    self._settings.momentum,
                )
            )

    def forget_momentum(self) -> None:
        """Let a momentum that is a sum of steps begin anew; what other optimizers keep stays."""
        if type(self._optimizer) is optimizers.SGD and self._settings.name != "lbsgd":
            for state in self._states or ():
                if state is not None:
                    state.zero_()

    def state(self) -> dict[str, Any]:
        """What `restore` needs, as plain data, in the form of MXNet's engine."""
        states = (
            {} if self._states is None else dict(zip(self._names, map(_plain, self._states), strict=True))
        )
        return {
            "num_update": max(self._counts, default=0),
            "counts": {name: count for name, count in zip(self._names, self._counts, strict=True) if count},
            "states": states,
            "m_schedule": float(getattr(self._optimizer, "schedule", 1.0)),
            "rate_before": float(getattr(self._optimizer, "rate_before", 0.0)),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` returned.

        Raises KeyError for a parameter that is not here, ValueError for a state that is not one of its optimizer.
        """
        place = {name: number for number, name in enumerate(self._names)}
        for name, count in state["counts"].items():
            self._counts[place[name]] = int(count)
        if isinstance(self._optimizer, rare_optimizers.Nadam):
            self._optimizer.schedule = float(state["m_schedule"])
        if isinstance(self._optimizer, optimizers.LARS):
            self._optimizer.rate_before = float(state.get("rate_before", 0.0))
        states = self._made() if state["states"] else []
        for name, value in state["states"].items():
            fresh = states[place[name]]
            if _form(_plain(fresh)) != _form(value):
                raise ValueError(f"{name} has a state of another optimizer or shape")
            _fill(fresh, value)

    def _made(self) -> list[State]:
        if self._states is None:
            momentum = self._settings.momentum
            self._states = [self._optimizer.state(weight.detach(), momentum) for weight in self._weights]
        return self._states


def _plain(state: State) -> Any:
    if isinstance(state, list):
        return [_plain(part) for part in state]
    return None if state is None else array(state)


def _form(state: Any) -> Any:
    if isinstance(state, (list, tuple)):
        return [_form(part) for part in state]
    return (state.shape, state.dtype.str) if isinstance(state, np.ndarray) else type(state)


def _fill(state: State, value: Any) -> None:
    if isinstance(state, list):
        for part, given in zip(state, value, strict=True):
            _fill(part, given)
    elif state is not None:
        state.copy_(torch.from_numpy(np.array(value)))
