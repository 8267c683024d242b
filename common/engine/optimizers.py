"""MXNet's optimizers, those that it lacks, and those that it has and that do not do what every optimizer must here.

That is: follow the learning rate, a rate of 0 included (a warm-up begins there, frozen layers stay there), and take no
more time than they must.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import mxnet as mx
import numpy as np
from mxnet import gluon

from common.engine.arrays import call_groups, on_device, plain
from common.engine.engine import OptimizerSettings
from common.engine.mxnet_internals import optimizer_states, update_counts


class SGD(mx.optimizer.SGD):
    """MXNet's SGD takes several weights in a call, which is fast on GPUs; on the CPU it is so for small ones alone."""

    def update_multi_precision(self, index: Any, weight: Any, grad: Any, state: Any) -> None:
        """One step of one parameter, or of several given as lists."""
        several = isinstance(weight, (list, tuple))
        if (weight[0] if several else weight).context.device_type != "cpu":
            super().update_multi_precision(index, weight, grad, state)
            return
        indices, weights, gradients, states = (
            part if several else [part] for part in (index, weight, grad, state)
        )
        self._update_count(indices)
        rates, decays = self._get_lrs(indices), self._get_wds(indices)
        options = {"rescale_grad": self.rescale_grad}
        if self.momentum:
            options["momentum"] = self.momentum
        for group in call_groups([each.size for each in weights]):
            arrays: list[Any] = [
                array
                for place in group
                for array in (weights[place], gradients[place], states[place])
                if array is not None
            ]
            if len(group) == 1:
                operator = mx.nd.sgd_mom_update if self.momentum else mx.nd.sgd_update
                (place,) = group
                lr, wd = rates[place], decays[place]
                operator(*arrays, out=weights[place], lr=lr, wd=wd, lazy_update=False, **options)
                continue
            operator = mx.nd.multi_sgd_mom_update if self.momentum else mx.nd.multi_sgd_update
            operator(
                *arrays,
                out=[weights[place] for place in group],
                num_weights=len(group),
                lrs=[rates[place] for place in group],
                wds=[decays[place] for place in group],
                **options,
            )


class AdamW(mx.optimizer.Optimizer):
    """Adam with decoupled weight decay.

    "Decoupled Weight Decay Regularization" (Loshchilov & Hutter 2019, algorithm 2); the decay of a step is
    learning rate times wd, as in PyTorch. MXNet has the operator and no optimizer around it.
    """

    def __init__(
        self,
        learning_rate: float = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        **options: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **options)
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon

    def create_state(self, index: int, weight: Any) -> tuple[Any, Any]:
        """Mean and uncentred variance of the gradient."""
        return mx.nd.zeros_like(weight), mx.nd.zeros_like(weight)

    def update(self, index: int, weight: Any, grad: Any, state: tuple[Any, Any]) -> None:
        """One step of one parameter."""
        self._update_count(index)
        count = self._index_update_count[index]
        rate, mean, variance = self._get_lr(index), *state
        mx.nd.contrib.adamw_update(
            weight,
            grad,
            mean,
            variance,
            mx.nd.array([self.rescale_grad], ctx=weight.context),
            lr=rate * math.sqrt(1.0 - self.beta2**count) / (1.0 - self.beta1**count),
            eta=1.0,
            wd=rate * self._get_wd(index),
            beta1=self.beta1,
            beta2=self.beta2,
            epsilon=self.epsilon,
            out=weight,
        )


class AdaDelta(mx.optimizer.AdaDelta):
    """MXNet's AdaDelta ("ADADELTA", Zeiler 2012) knows no learning rate; here it scales the step."""

    def update(self, index: int, weight: Any, grad: Any, state: tuple[Any, Any]) -> None:
        """One step of one parameter."""
        before = weight.copy()
        super().update(index, weight, grad, state)
        weight[:] = before + self._get_lr(index) * (weight - before)


class DCASGD(mx.optimizer.DCASGD):
    """MXNet's delay-compensated SGD (Zheng et al. 2016) fails with a momentum."""

    def update(self, index: int, weight: Any, grad: Any, state: tuple[Any, Any]) -> None:
        """One step of one parameter."""
        self._update_count(index)
        momentum, previous = state
        grad = grad * self.rescale_grad
        compensated = grad + self._get_wd(index) * weight + self.lamda * grad * grad * (weight - previous)
        step = -self._get_lr(index) * compensated
        if momentum is not None:
            momentum *= self.momentum
            momentum += step
            step = momentum
        previous[:] = weight
        weight += step


class FTML(mx.optimizer.FTML):
    """MXNet's FTML divides by the learning rate, even where it is 0."""

    def update(self, index: int, weight: Any, grad: Any, state: Any) -> None:
        """One step of one parameter."""
        if self._get_lr(index) > 0:
            super().update(index, weight, grad, state)


class Ftrl(mx.optimizer.Ftrl):
    """MXNet's FTRL takes every weight to begin at 0, and to grow with the learning rate.

    Its weights are a function of a sum of gradients and of the rate alone ("Ad Click Prediction", McMahan et
    al. 2013). Here that sum is what the weights of the moment say it is.
    """

    def update(self, index: int, weight: Any, grad: Any, state: tuple[Any, Any]) -> None:
        """One step of one parameter."""
        rate = self._get_lr(index)
        if rate <= 0:
            return
        z, n = state
        scale = (self.beta + n.sqrt()) / rate + self._get_wd(index)
        z[:] = mx.nd.where(weight == 0, z, -weight * scale - weight.sign() * self.lamda1)
        super().update(index, weight, grad, state)


class SGLD(mx.optimizer.SGLD):
    """MXNet's Langevin dynamics asks for noise of no width, which is an error, at a learning rate of 0."""

    def update(self, index: int, weight: Any, grad: Any, state: Any) -> None:
        """One step of one parameter."""
        if self._get_lr(index) > 0:
            super().update(index, weight, grad, state)


OWN = {
    "adadelta": AdaDelta,
    "adamw": AdamW,
    "dcasgd": DCASGD,
    "ftml": FTML,
    "ftrl": Ftrl,
    "sgd": SGD,
    "sgld": SGLD,
}
"""By the name that stands in `train.optimizer`; all others are MXNet's own."""

MOMENTUM = ("ccsgd", "dcasgd", "lars", "lbsgd", "nag", "sgd", "signum")
"""Optimizers with a momentum; the others know no such thing, or call something else so."""

_EVERY = 1 << 30

# Whose state is the momentum and nothing else, and which take several weights in a call unless told otherwise.
_PLAIN_MOMENTUM = ("ccsgd", "sgd")


def create(settings: OptimizerSettings, device: str) -> Any:
    """The optimizer that the settings describe; device: "cpu" or "gpu", what it is going to compute on."""
    options: dict[str, Any] = {"learning_rate": settings.learning_rate, "wd": settings.wd}
    name = settings.name
    if name in MOMENTUM:
        options["momentum"] = settings.momentum
    optimizer = OWN[name](**options) if name in OWN else mx.optimizer.create(name, **options)
    if name in _PLAIN_MOMENTUM and device == "cpu":  # see SGD, which is given all of them; others none
        optimizer.aggregate_num = _EVERY if name in OWN else 0
    return optimizer


class Updater:
    """Steps of an optimizer on all devices, over trained parameters by name, and what it keeps of them."""

    def __init__(
        self,
        parameters: Mapping[str, gluon.Parameter],
        settings: OptimizerSettings,
        contexts: Sequence[Any],
    ) -> None:
        self._settings = settings
        self._contexts = contexts
        self._parameters = dict(parameters)
        self._names = list(parameters)
        self._optimizer = create(settings, contexts[0].device_type)
        self._trainer = gluon.Trainer(
            list(parameters.values()),
            self._optimizer,
            kvstore="device" if len(contexts) > 1 else None,
            update_on_kvstore=False,
        )

    def sum_gradients(self) -> None:
        """Give every device the sum of all devices' gradients."""
        if len(self._contexts) > 1:
            self._trainer.allreduce_grads()

    def update(self, learning_rate: float, rows: float) -> None:
        """One step. rows: what the gradients are divided by."""
        self._trainer.set_learning_rate(learning_rate)
        self._trainer.update(rows)

    def forget_momentum(self) -> None:
        """Let a momentum that is a sum of steps begin anew; what other optimizers keep stays."""
        if self._settings.name in _PLAIN_MOMENTUM:
            for device in optimizer_states(self._trainer):
                for momentum in device.states.values():
                    if momentum is not None:
                        momentum[:] = 0.0

    def state(self) -> dict[str, Any]:
        """What `restore` needs, as plain data: counts of updates and arrays by the parameter's name."""
        counts = update_counts(self._optimizer)
        return {
            "num_update": int(self._optimizer.num_update),
            "counts": {self._names[i]: int(n) for i, n in counts.items()},
            "states": {
                self._names[i]: plain(value) for i, value in optimizer_states(self._trainer)[0].states.items()
            },
            "m_schedule": float(getattr(self._optimizer, "m_schedule", 1.0)),  # of Nadam
            "rate_before": float(getattr(self._optimizer, "cur_lr", None) or 0.0),  # of LARS
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` returned.

        Raises KeyError for a parameter that is not here, ValueError for a state that is not one of its optimizer.
        """
        index = {name: i for i, name in enumerate(self._names)}
        counts = {index[name]: n for name, n in state["counts"].items()}
        self._optimizer.num_update = state["num_update"]
        if hasattr(self._optimizer, "m_schedule"):
            self._optimizer.m_schedule = state["m_schedule"]
        if rate := state.get("rate_before", 0.0):  # checkpoints of 1.2.0 have none
            self._optimizer.cur_lr = rate
        for device, context in zip(optimizer_states(self._trainer), self._contexts, strict=True):
            update_counts(self._optimizer, context).update(counts)
            for name, value in state["states"].items():
                weight = self._parameters[name].data(context)
                fresh = self._optimizer.create_state_multi_precision(index[name], weight)
                if _form(plain(fresh)) != _form(value):
                    raise ValueError(f"{name} has a state of another optimizer or shape")
                device.states[index[name]] = on_device(value, context)
                device.states_synced[index[name]] = True


def _form(state: Any) -> Any:
    """Shapes and types of the arrays in a parameter's state."""
    if isinstance(state, list):
        return [_form(part) for part in state]
    return (state.shape, state.dtype.str) if isinstance(state, np.ndarray) else type(state)
