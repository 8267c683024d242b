"""MXNet's optimizers, as `common.engine.optimizers` has them, in PyTorch: the same numbers and the same states.

PyTorch's own are not used: with SGD the learning rate of a step is in MXNet's momentum, and in PyTorch's that of the
step that uses it; Adam's epsilon stands beside another root; every parameter has a rate of its own in every step, for
which PyTorch's would need a group each. Formulas: MXNet 1.9.1, python/mxnet/optimizer/optimizer.py and
src/operator/optimizer_op-inl.h.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.engine.engine import OptimizerSettings
from common.engine.torch import lists
from common.engine.torch.tensors import array

State = Any  # of a parameter: None, a tensor, or a list of them

_BETA1, _BETA2 = 0.9, 0.999


@dataclass
class Step:
    """What an optimizer is given: for every parameter its weight, gradient (of the mean loss), state, learning rate,
    weight decay and number of this update."""

    weights: list[Tensor]
    gradients: list[Tensor]
    states: list[State]
    rates: list[float]
    decays: list[float]
    counts: list[int]
    momentum: float


class Optimizer:
    """Steps of one kind. parts: tensors in a parameter's state, each like the weight; None: one alone, or, without a
    momentum, none."""

    parts: int | None = None
    counts_at_0 = True  # a step at a learning rate of 0 is one

    def state(self, weight: Tensor, momentum: float) -> State:
        """That of a parameter to begin with."""
        if self.parts is None:
            return torch.zeros_like(weight) if momentum else None
        return [torch.zeros_like(weight) for _ in range(self.parts)]

    def update(self, step: Step) -> None:
        """Take a step."""
        raise NotImplementedError


def _decayed(step: Step) -> list[Tensor]:
    """Gradients with weight decay in them."""
    decays = lists.scaled(step.weights, step.decays)
    lists.add(decays, step.gradients)
    return decays


class _SGD(Optimizer):
    def update(self, step: Step) -> None:
        moves = _decayed(step)
        lists.scale(moves, [-rate for rate in step.rates])
        if step.momentum:
            lists.scale(step.states, step.momentum)
            lists.add(step.states, moves)
            moves = step.states
        lists.add(step.weights, moves)


class _NAG(Optimizer):
    """The momentum is that of the weights after the step, as in MXNet, which writes these first."""

    def update(self, step: Step) -> None:
        back = [-rate for rate in step.rates]
        moves = _decayed(step)
        lists.scale(moves, back)
        lists.add(step.weights, moves)
        if step.momentum:
            lists.scale(step.states, step.momentum)
            lists.add(moves, step.states)
            lists.add(step.weights, moves, step.momentum)
            moves = _decayed(step)
            lists.scale(moves, back)
            lists.add(step.states, moves)


class _Signum(Optimizer):
    def update(self, step: Step) -> None:
        directions = step.gradients
        if step.momentum:
            lists.scale(step.states, step.momentum)
            lists.add(step.states, _decayed(step), step.momentum - 1.0)
            directions = [-state for state in step.states]
        moves = [direction.sign() for direction in directions]
        lists.scale(moves, [-rate for rate in step.rates])
        lists.add(step.weights, moves)


class _LARS(_SGD):
    """Where the rate falls the momentum falls with it; in MXNet that of four parameters alone."""

    eta = 0.001

    def __init__(self) -> None:
        self._before: float | None = None

    def update(self, step: Step) -> None:
        rate = max(step.rates, default=0.0)
        share = rate / self._before if self._before else 1.0
        self._before = rate
        sizes, norms = (lists.norms(tensors).tolist() for tensors in (step.weights, step.gradients))
        rates = []
        for number, (size, norm) in enumerate(zip(sizes, norms, strict=True)):
            scale = 1.0
            if size > 0 and norm > 0:
                scale = self.eta * size / (norm + step.decays[number] * size)
            rates.append(step.rates[number] * scale)
        step.rates, step.momentum = rates, step.momentum * share
        super().update(step)


class _Adam(Optimizer):
    parts: int | None = 2
    decoupled = False

    def update(self, step: Step) -> None:
        gradients = step.gradients if self.decoupled else _decayed(step)
        means, variances = ([state[part] for state in step.states] for part in (0, 1))
        lists.scale(means, _BETA1)
        lists.add(means, gradients, 1.0 - _BETA1)
        lists.scale(variances, _BETA2)
        lists.add_products(variances, gradients, gradients, 1.0 - _BETA2)
        rates = [
            -rate * math.sqrt(1.0 - _BETA2**count) / (1.0 - _BETA1**count)
            for rate, count in zip(step.rates, step.counts, strict=True)
        ]
        roots = lists.roots(variances, 1e-8)
        if self.decoupled:
            shares = [1.0 - rate * decay for rate, decay in zip(step.rates, step.decays, strict=True)]
            lists.scale(step.weights, shares)
        lists.add_quotients(step.weights, means, roots, rates)


class _AdamW(_Adam):
    decoupled = True


class _OneByOne(Optimizer):
    """Optimizers that are rare: a parameter after the other."""

    parts: int | None = 2

    def update(self, step: Step) -> None:
        for weight, gradient, state, rate, decay, count in zip(
            step.weights,
            step.gradients,
            step.states,
            step.rates,
            step.decays,
            step.counts,
            strict=True,
        ):
            self.one(weight, gradient, state, rate, decay, count, step.momentum)

    def one(
        self, w: Tensor, g: Tensor, state: State, rate: float, wd: float, count: int, momentum: float
    ) -> None:
        """A step of one parameter."""
        raise NotImplementedError


class _AdaGrad(_OneByOne):
    parts = None

    def state(self, weight: Tensor, momentum: float) -> State:
        return torch.zeros_like(weight)

    def one(
        self, w: Tensor, g: Tensor, state: State, rate: float, wd: float, count: int, momentum: float
    ) -> None:
        state.addcmul_(g, g)
        w.sub_(rate * (g / (state + 1e-7).sqrt() + wd * w))


class _RMSProp(_OneByOne):
    parts = 1

    def one(
        self, w: Tensor, g: Tensor, state: State, rate: float, wd: float, count: int, momentum: float
    ) -> None:
        (n,) = state
        g = g + wd * w
        n.mul_(0.9).addcmul_(g, g, value=0.1)
        w.sub_(rate * g / (n + 1e-8).sqrt())


class _AdaDelta(_OneByOne):
    def one(
        self, w: Tensor, g: Tensor, state: State, rate: float, wd: float, count: int, momentum: float
    ) -> None:
        of_gradient, of_delta = state
        of_gradient.mul_(0.9).addcmul_(g, g, value=0.1)
        delta = (of_delta + 1e-5).sqrt() / (of_gradient + 1e-5).sqrt() * g
        of_delta.mul_(0.9).addcmul_(delta, delta, value=0.1)
        w.sub_(rate * (delta + wd * w))


class _DCASGD(_OneByOne):
    def state(self, weight: Tensor, momentum: float) -> State:
        return [torch.zeros_like(weight) if momentum else None, weight.detach().clone()]

    def one(
        self, w: Tensor, g: Tensor, state: State, rate: float, wd: float, count: int, momentum: float
    ) -> None:
        moved, previous = state
        step = -rate * (g + wd * w + 0.04 * g * g * (w - previous))
        if moved is not None:
            step = moved.mul_(momentum).add_(step)
        previous.copy_(w)
        w.add_(step)


class _FTML(_OneByOne):
    parts = 3
    counts_at_0 = False

    def one(
        self, w: Tensor, g: Tensor, state: State, rate: float, wd: float, count: int, momentum: float
    ) -> None:
        if rate <= 0:
            return
        d, v, z = state
        g = g + wd * w
        v.mul_(_BETA2).addcmul_(g, g, value=1.0 - _BETA2)
        new = (1.0 - 0.6**count) / rate * ((v / (1.0 - _BETA2**count)).sqrt() + 1e-8)
        z.mul_(0.6).add_(0.4 * g - (new - 0.6 * d) * w)
        d.copy_(new)
        w.copy_(-z / new)


class _FTRL(_OneByOne):
    counts_at_0 = False

    def one(
        self, w: Tensor, g: Tensor, state: State, rate: float, wd: float, count: int, momentum: float
    ) -> None:
        if rate <= 0:
            return
        z, n = state
        sparse = 0.01
        scale = (1.0 + n.sqrt()) / rate + wd
        z.copy_(torch.where(w == 0, z, -w * scale - w.sign() * sparse))
        z.add_(g - ((n + g * g).sqrt() - n.sqrt()) * w / rate)
        n.addcmul_(g, g)
        scale = (1.0 + n.sqrt()) / rate + wd
        w.copy_(torch.where(z.abs() > sparse, (z.sign() * sparse - z) / scale, torch.zeros_like(w)))


class _LAMB(_OneByOne):
    def one(
        self, w: Tensor, g: Tensor, state: State, rate: float, wd: float, count: int, momentum: float
    ) -> None:
        mean, variance = state
        mean.mul_(_BETA1).add_(g, alpha=1.0 - _BETA1)
        variance.mul_(_BETA2).addcmul_(g, g, value=1.0 - _BETA2)
        deviation = (variance / (1.0 - _BETA2**count)).sqrt() + 1e-6
        step = mean / (1.0 - _BETA1**count) / deviation + wd * w
        size, length = w.norm(), step.norm()
        trusted = torch.where((size > 0) & (length > 0), size / length, torch.ones_like(size))
        w.sub_(rate * trusted * step)


class _Adamax(_OneByOne):
    def one(
        self, w: Tensor, g: Tensor, state: State, rate: float, wd: float, count: int, momentum: float
    ) -> None:
        mean, largest = state
        g = g + wd * w
        mean.mul_(_BETA1).add_(g, alpha=1.0 - _BETA1)
        largest.copy_(torch.maximum(_BETA2 * largest, g.abs()))
        w.sub_(rate / (1.0 - _BETA1**count) * mean / largest)


class _Nadam(_OneByOne):
    """Its schedule of momenta goes on with every parameter, as in MXNet."""

    def __init__(self) -> None:
        self.schedule = 1.0

    def one(
        self, w: Tensor, g: Tensor, state: State, rate: float, wd: float, count: int, momentum: float
    ) -> None:
        mean, variance = state
        g = g + wd * w
        now, then = (_BETA1 * (1.0 - 0.5 * 0.96 ** (number * 0.004)) for number in (count, count + 1))
        self.schedule *= now
        mean.mul_(_BETA1).add_(g, alpha=1.0 - _BETA1)
        variance.mul_(_BETA2).addcmul_(g, g, value=1.0 - _BETA2)
        average = (1.0 - now) * g / (1.0 - self.schedule) + then * mean / (1.0 - self.schedule * then)
        w.sub_(rate * average / ((variance / (1.0 - _BETA2**count)).sqrt() + 1e-8))


class _SGLD(_OneByOne):
    parts = None
    counts_at_0 = False

    def state(self, weight: Tensor, momentum: float) -> State:
        return None

    def one(
        self, w: Tensor, g: Tensor, state: State, rate: float, wd: float, count: int, momentum: float
    ) -> None:
        if rate > 0:
            w.add_(-rate / 2 * (g + wd * w) + math.sqrt(rate) * torch.randn_like(w))


OPTIMIZERS: dict[str, Callable[[], Optimizer]] = {
    "adadelta": _AdaDelta,
    "adagrad": _AdaGrad,
    "adam": _Adam,
    "adamax": _Adamax,
    "adamw": _AdamW,
    "ccsgd": _SGD,
    "dcasgd": _DCASGD,
    "ftml": _FTML,
    "ftrl": _FTRL,
    "lamb": _LAMB,
    "lars": _LARS,
    # Of the options that make it another one none can be set.
    "lbsgd": _SGD,
    "nadam": _Nadam,
    "nag": _NAG,
    "rmsprop": _RMSProp,
    "sgd": _SGD,
    "sgld": _SGLD,
    "signum": _Signum,
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
        if type(self._optimizer) is _SGD and self._settings.name != "lbsgd":
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
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` returned.

        Raises KeyError for a parameter that is not here, ValueError for a state that is not one of its optimizer.
        """
        place = {name: number for number, name in enumerate(self._names)}
        for name, count in state["counts"].items():
            self._counts[place[name]] = int(count)
        if isinstance(self._optimizer, _Nadam):
            self._optimizer.schedule = float(state["m_schedule"])
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
