"""MXNet's optimizers, as `common.engine.optimizers` has them, in PyTorch: the same numbers and the same states.

PyTorch's own are not used: with SGD the learning rate of a step is in MXNet's momentum, and in PyTorch's that of the
step that uses it; Adam's epsilon stands beside another root; every parameter has a rate of its own in every step, for
which PyTorch's would need a group each. Formulas: MXNet 1.9.1, python/mxnet/optimizer/optimizer.py and
src/operator/optimizer_op-inl.h.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from common.engine.torch import lists

State = Any  # of a parameter: None, a tensor, or a list of them

BETA1, BETA2 = 0.9, 0.999


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


def decayed(step: Step) -> list[Tensor]:
    """Gradients with weight decay in them."""
    decays = lists.scaled(step.weights, step.decays)
    lists.add(decays, step.gradients)
    return decays


class SGD(Optimizer):
    def update(self, step: Step) -> None:
        moves = decayed(step)
        lists.scale(moves, [-rate for rate in step.rates])
        if step.momentum:
            lists.scale(step.states, step.momentum)
            lists.add(step.states, moves)
            moves = step.states
        lists.add(step.weights, moves)


class NAG(Optimizer):
    """The momentum is that of the weights after the step, as in MXNet, which writes these first."""

    def update(self, step: Step) -> None:
        back = [-rate for rate in step.rates]
        moves = decayed(step)
        lists.scale(moves, back)
        lists.add(step.weights, moves)
        if step.momentum:
            lists.scale(step.states, step.momentum)
            lists.add(moves, step.states)
            lists.add(step.weights, moves, step.momentum)
            moves = decayed(step)
            lists.scale(moves, back)
            lists.add(step.states, moves)


class Signum(Optimizer):
    def update(self, step: Step) -> None:
        directions = step.gradients
        if step.momentum:
            lists.scale(step.states, step.momentum)
            lists.add(step.states, decayed(step), step.momentum - 1.0)
            directions = [-state for state in step.states]
        moves = [direction.sign() for direction in directions]
        lists.scale(moves, [-rate for rate in step.rates])
        lists.add(step.weights, moves)


class LARS(SGD):
    """Where the rate falls the momentum falls with it; in MXNet that of four parameters alone.

    rate_before: of the step before; 0 at the first one.
    """

    eta = 0.001

    def __init__(self) -> None:
        self.rate_before = 0.0

    def update(self, step: Step) -> None:
        rate = max(step.rates, default=0.0)
        share = rate / self.rate_before if self.rate_before else 1.0
        self.rate_before = rate
        sizes, norms = (lists.norms(tensors).tolist() for tensors in (step.weights, step.gradients))
        rates = []
        for number, (size, norm) in enumerate(zip(sizes, norms, strict=True)):
            scale = 1.0
            if size > 0 and norm > 0:
                scale = self.eta * size / (norm + step.decays[number] * size)
            rates.append(step.rates[number] * scale)
        step.rates, step.momentum = rates, step.momentum * share
        super().update(step)


class Adam(Optimizer):
    parts: int | None = 2
    decoupled = False

    def update(self, step: Step) -> None:
        gradients = step.gradients if self.decoupled else decayed(step)
        means, variances = ([state[part] for state in step.states] for part in (0, 1))
        lists.scale(means, BETA1)
        lists.add(means, gradients, 1.0 - BETA1)
        lists.scale(variances, BETA2)
        lists.add_products(variances, gradients, gradients, 1.0 - BETA2)
        rates = [
            -rate * math.sqrt(1.0 - BETA2**count) / (1.0 - BETA1**count)
            for rate, count in zip(step.rates, step.counts, strict=True)
        ]
        roots = lists.roots(variances, 1e-8)
        if self.decoupled:
            shares = [1.0 - rate * decay for rate, decay in zip(step.rates, step.decays, strict=True)]
            lists.scale(step.weights, shares)
        lists.add_quotients(step.weights, means, roots, rates)


class AdamW(Adam):
    decoupled = True
