"""MXNet's rarer optimizers in PyTorch (see `common.engine.torch.optimizers`): a parameter after the other."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from common.engine.torch import lists
from common.engine.torch.optimizers import BETA1, BETA2, Optimizer, State, Step


@dataclass(frozen=True)
class Numbers:
    """A parameter's learning rate, weight decay and number of this update, and the optimizer's momentum."""

    rate: float
    wd: float
    count: int
    momentum: float


class OneByOne(Optimizer):
    """Takes a parameter after the other."""

    parts: int | None = 2

    def update(self, step: Step) -> None:
        parameters = zip(step.weights, step.gradients, step.states, strict=True)
        each = zip(step.rates, step.decays, step.counts, strict=True)
        for (weight, gradient, state), (rate, decay, count) in zip(parameters, each, strict=True):
            self.one(weight, gradient, state, Numbers(rate, decay, count, step.momentum))

    def one(self, w: Tensor, g: Tensor, state: State, at: Numbers) -> None:
        """A step of one parameter."""
        raise NotImplementedError


class AdaGrad(OneByOne):
    parts = None

    def state(self, weight: Tensor, momentum: float) -> State:
        return torch.zeros_like(weight)

    def one(self, w: Tensor, g: Tensor, state: State, at: Numbers) -> None:
        state.addcmul_(g, g)
        w.sub_(at.rate * (g / (state + 1e-7).sqrt() + at.wd * w))


class RMSProp(OneByOne):
    parts = 1

    def one(self, w: Tensor, g: Tensor, state: State, at: Numbers) -> None:
        (n,) = state
        g = g + at.wd * w
        n.mul_(0.9).addcmul_(g, g, value=0.1)
        w.sub_(at.rate * g / (n + 1e-8).sqrt())


class AdaDelta(OneByOne):
    def one(self, w: Tensor, g: Tensor, state: State, at: Numbers) -> None:
        of_gradient, of_delta = state
        of_gradient.mul_(0.9).addcmul_(g, g, value=0.1)
        delta = (of_delta + 1e-5).sqrt() / (of_gradient + 1e-5).sqrt() * g
        of_delta.mul_(0.9).addcmul_(delta, delta, value=0.1)
        w.sub_(at.rate * (delta + at.wd * w))


class DCASGD(OneByOne):
    def state(self, weight: Tensor, momentum: float) -> State:
        return [torch.zeros_like(weight) if momentum else None, weight.detach().clone()]

    def one(self, w: Tensor, g: Tensor, state: State, at: Numbers) -> None:
        moved, previous = state
        step = -at.rate * (g + at.wd * w + 0.04 * g * g * (w - previous))
        if moved is not None:
            step = moved.mul_(at.momentum).add_(step)
        previous.copy_(w)
        w.add_(step)


class FTML(OneByOne):
    parts = 3
    counts_at_0 = False

    def one(self, w: Tensor, g: Tensor, state: State, at: Numbers) -> None:
        if at.rate <= 0:
            return
        d, v, z = state
        g = g + at.wd * w
        v.mul_(BETA2).addcmul_(g, g, value=1.0 - BETA2)
        new = (1.0 - 0.6**at.count) / at.rate * ((v / (1.0 - BETA2**at.count)).sqrt() + 1e-8)
        z.mul_(0.6).add_(0.4 * g - (new - 0.6 * d) * w)
        d.copy_(new)
        w.copy_(-z / new)


class FTRL(OneByOne):
    counts_at_0 = False

    def one(self, w: Tensor, g: Tensor, state: State, at: Numbers) -> None:
        if at.rate <= 0:
            return
        z, n = state
        sparse = 0.01
        scale = (1.0 + n.sqrt()) / at.rate + at.wd
        z.copy_(torch.where(w == 0, z, -w * scale - w.sign() * sparse))
        z.add_(g - ((n + g * g).sqrt() - n.sqrt()) * w / at.rate)
        n.addcmul_(g, g)
        scale = (1.0 + n.sqrt()) / at.rate + at.wd
        w.copy_(torch.where(z.abs() > sparse, (z.sign() * sparse - z) / scale, torch.zeros_like(w)))


class LAMB(OneByOne):
    def one(self, w: Tensor, g: Tensor, state: State, at: Numbers) -> None:
        mean, variance = state
        mean.mul_(BETA1).add_(g, alpha=1.0 - BETA1)
        variance.mul_(BETA2).addcmul_(g, g, value=1.0 - BETA2)
        deviation = (variance / (1.0 - BETA2**at.count)).sqrt() + 1e-6
        step = mean / (1.0 - BETA1**at.count) / deviation + at.wd * w
        size, length = lists.norms([w, step])
        trusted = torch.where((size > 0) & (length > 0), size / length, torch.ones_like(size))
        w.sub_(at.rate * trusted * step)


class Adamax(OneByOne):
    def one(self, w: Tensor, g: Tensor, state: State, at: Numbers) -> None:
        mean, largest = state
        g = g + at.wd * w
        mean.mul_(BETA1).add_(g, alpha=1.0 - BETA1)
        largest.copy_(torch.maximum(BETA2 * largest, g.abs()))
        w.sub_(at.rate / (1.0 - BETA1**at.count) * mean / largest)


class Nadam(OneByOne):
    """Its schedule of momenta goes on with every parameter, as in MXNet."""

    def __init__(self) -> None:
        self.schedule = 1.0

    def one(self, w: Tensor, g: Tensor, state: State, at: Numbers) -> None:
        mean, variance = state
        g = g + at.wd * w
        now, then = (BETA1 * (1.0 - 0.5 * 0.96 ** (number * 0.004)) for number in (at.count, at.count + 1))
        self.schedule *= now
        mean.mul_(BETA1).add_(g, alpha=1.0 - BETA1)
        variance.mul_(BETA2).addcmul_(g, g, value=1.0 - BETA2)
        average = (1.0 - now) * g / (1.0 - self.schedule) + then * mean / (1.0 - self.schedule * then)
        w.sub_(at.rate * average / ((variance / (1.0 - BETA2**at.count)).sqrt() + 1e-8))


class SGLD(OneByOne):
    parts = None
    counts_at_0 = False

    def state(self, weight: Tensor, momentum: float) -> State:
        return None

    def one(self, w: Tensor, g: Tensor, state: State, at: Numbers) -> None:
        if at.rate > 0:
            w.add_(-at.rate / 2 * (g + at.wd * w) + math.sqrt(at.rate) * torch.randn_like(w))
