"""The engine that computes with PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.engine.averaging import AGE, AveragingEngine
from common.engine.engine import Engine, OptimizerSettings
from common.engine.limits import StepLimit, Weight
from common.engine.loss_scale import LossScale
from common.engine.symbol import read_symbol
from common.engine.torch import lists
from common.engine.torch.averages import SeenStatistics, TensorAverage
from common.engine.torch.copies import Copies
from common.engine.torch.devices import set_up
from common.engine.torch.graph import TorchGraph
from common.engine.torch.inference import TorchInference
from common.engine.torch.operators import Pass, Seen
from common.engine.torch.program import Program
from common.engine.torch.reduction import Reduction, Whole, same_everywhere
from common.engine.torch.tensors import array, assign, in_order, tensors
from common.engine.torch.updater import Updater
from common.ranks.ranks import ALONE, Ranks

# Between the seeds of ranks: what a layer draws at random for one's rows is not what it draws for another's.
_SEEDS_APART = 1_000_003

_PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


class TorchEngine(AveragingEngine):
    """Trains a program on one device.

    precision, limit, ema_decay, ema_age: as for `common.engine.mxnet_engine.MXNetEngine`. keep: is given the network's
    parameters when they are set from outside, so that whoever exports has them. ranks: that train together, each on its
    rows of a batch: a step is that of the whole batch, and takes all of them to the same parameters. synchronised:
    BatchNorm goes by the whole batch too, else by a rank's rows. overlapped: as for `Reduction`; reduction: that, if
    there are several ranks.
    """

    _average: TensorAverage | None
    _updater: Updater

    def __init__(
        self,
        program: Program,
        device: torch.device,
        optimizer: OptimizerSettings,
        *,
        precision: str = "float32",
        limit: StepLimit | None = None,
        ema_decay: float = 0.0,
        ema_age: float = AGE,
        keep: Callable[[dict[str, np.ndarray]], None] | None = None,
        ranks: Ranks = ALONE,
        synchronised: bool = False,
        overlapped: bool = True,
    ) -> None:
        set_up(device)
        self._device = device
        self._ranks = ranks
        # Ranks would not agree on the parts of a batch that one of them has no memory for.
        self.least_rows = 1 if ranks.size == 1 else Engine.least_rows
        self._precision = _PRECISIONS[precision]
        self._limit = limit
        self._keep = keep
        self._scale = LossScale(precision)
        self._training = TorchGraph(read_symbol(program.training))
        self._inference = TorchGraph(read_symbol(program.inference))
        self._inputs = list(program.inputs)
        self._images_at = self._inputs.index("images")
        begins = tensors({name: parameter.value for name, parameter in program.parameters.items()})
        self._values = {name: in_order(value.to(device)) for name, value in begins.items()}
        if ranks.size > 1:
            same_everywhere(list(self._values.values()), ranks)
        trained = {name: p for name, p in program.parameters.items() if p.trained}
        self._trained = [self._values[name].requires_grad_() for name in trained]
        self.reduction = Reduction(self._trained, ranks, overlapped=overlapped) if ranks.size > 1 else None
        self._whole = Whole(ranks, normalised=synchronised) if ranks.size > 1 else None
        self._averaging: tuple[Tensor, Any] | None = None  # BatchNorm's statistics, on their way
        self._trained_as = list(trained.values())
        self._rates = [p.lr_mult for p in self._trained_as]
        self._decays = [p.wd_mult for p in self._trained_as]
        self._updater = Updater({p.name: self._values[name] for name, p in trained.items()}, optimizer)
        self._own = {own: name for name, p in program.parameters.items() for own in p.own}
        self._multipliers = {
            own: (p.lr_mult, p.wd_mult) for p in program.parameters.values() for own in p.own
        }
        self._companions = {
            p.name: self._values[name] for name, p in program.parameters.items() if p.trained and not p.own
        }
        averaged = {
            p.name: self._values[name]
            for name, p in program.parameters.items()
            if p.own or p.name in self._companions
        }
        self._average = TensorAverage(averaged, ema_decay, ema_age) if ema_decay else None
        self._batch_statistics = SeenStatistics(self._values, self._look, ranks)
        self._copies = Copies(device)
        self._taken: list[Tensor] = []
        self._images = self._next_images = np.empty(0, np.uint8)
        self._losses: list[Tensor] = []
        self._gradients: list[Tensor] = []
        self._figures: Tensor = torch.empty(0)
        self._rows = self._count = 0
        self._sums: Tensor = torch.empty(0)
        # Sums of losses that are on their way between ranks.
        self._pending: tuple[Tensor, Any] | None = None
        # Of earlier parts of a batch: sums of losses, gradients, rows.
        self._held: tuple[Tensor, list[Tensor], int] | None = None
        self._run = Pass(training=True)

    def begin_epoch(self, seed: int) -> None:
        torch.manual_seed(seed + self._ranks.rank * _SEEDS_APART)

    # A step

    def take(self, split: Sequence[np.ndarray], shared: Sequence[np.ndarray] = ()) -> None:
        self._taken = self._copies.to_device([*split, *shared])
        self._next_images = split[self._images_at]

    def forward(self) -> None:
        self._copies.wait()
        self._rows, self._images = len(self._next_images), self._next_images
        self._run = Pass(training=True, whole=self._whole)
        if self._whole:
            self._whole.begin(self._rows)
        values = {**self._values, **dict(zip(self._inputs, self._taken, strict=True))}
        self._taken = []
        self._losses = self._training(values, self._run, self._device, self._precision)
        self._average_statistics()

    def backward(self) -> None:
        total = self._losses[0].float().sum() * self._scale.value
        if self.reduction:
            self.reduction.begin()
        gradients = torch.autograd.grad(total, self._trained, allow_unused=True)
        with torch.no_grad():
            self._count = len(self._losses)
            sums = torch.stack([loss.detach().float().sum() for loss in self._losses])
        self._losses = []
        if not self.reduction:
            self._gradients = [
                torch.zeros_like(weight) if gradient is None else in_order(gradient)
                for weight, gradient in zip(self._trained, gradients, strict=True)
            ]
            self._complete(sums)
            return
        assert self._whole is not None
        self.reduction.end(gradients)
        self._rows = sum(self._whole.counts)
        self._pending = sums, self.reduction.add_up(sums)
        if self._device.type != "cpu":  # there, whatever comes next waits for others, and the host does not
            self._receive()

    def _receive(self) -> None:
        """Let the step go on with the sums of all ranks."""
        if self._pending:
            assert self.reduction is not None
            (sums, work), self._pending = self._pending, None
            self._gradients = self.reduction.gradients()
            self.reduction.wait([work])
            self._complete(sums)

    def _complete(self, sums: Tensor) -> None:
        """Figures of the step, once its gradients are computed. sums: of its losses."""
        with torch.no_grad():
            if self._held:
                before, gradients, rows = self._held
                self._held = None
                sums = sums + before
                # Not in place: autograd may give two parameters the same tensor.
                self._gradients = [one + other for one, other in zip(self._gradients, gradients, strict=True)]
                self._rows += rows
            self._sums = sums
            sizes = [lists.norms(tensors) for tensors in (self._gradients, self._trained)]
            # All that the host has to know of a step comes in one copy.
            self._figures = self._copies.to_host(torch.cat([sums, *(each.float() for each in sizes)]))

    @property
    def waited(self) -> float:  # type: ignore[override]
        return self.reduction.waited if self.reduction else 0.0

    def hold(self) -> None:
        self._held = self._sums, self._gradients, self._rows
        self._copies.wait_for_host()  # what fails for want of memory fails here

    def let_go(self) -> None:
        self._held = None
        self._losses, self._gradients, self._taken = [], [], []
        self._copies.forget()

    def losses(self) -> np.ndarray:
        return self._read(0, self._count) / self._rows

    def norms(self) -> np.ndarray:
        read = self._read(self._count, self._count + len(self._trained))
        return read / (self._rows * self._scale.value)

    def update(self, learning_rate: float, norms: np.ndarray) -> None:
        sizes = self._read(self._count + len(self._trained), None)
        rates, factors = self._within_limit(learning_rate, sizes, norms)
        divisor = self._rows * self._scale.value
        with torch.no_grad():
            # Not in place: autograd may give two parameters the same tensor.
            gradients = lists.scaled(self._gradients, [factor / divisor for factor in factors])
            self._updater.update(gradients, rates, self._decays)
            self._gradients = []
            self._move_statistics()
            if self._average:
                self._average.update()
                self._batch_statistics.remember(self._images)
        self._scale.keep()

    def skip(self) -> bool:
        self._gradients = []
        self._averaged_statistics()
        return self._scale.reduce()

    def _read(self, first: int, last: int | None) -> np.ndarray:
        """Figures of the step, once they are there."""
        self._receive()
        self._copies.wait_for_host()
        return self._figures[first:last].numpy().astype(np.float64)

    def _within_limit(
        self, learning_rate: float, sizes: np.ndarray, norms: np.ndarray
    ) -> tuple[list[float], list[float]]:
        """Learning rates of the parameters, and factors of their gradients, that keep to the limit."""
        rates = [learning_rate * multiplier for multiplier in self._rates]
        factors = [1.0] * len(rates)
        if self._limit is None:
            return rates, factors
        for number, (parameter, multiplier) in enumerate(zip(self._trained_as, self._rates, strict=True)):
            weight = Weight(
                parameter.value.shape,
                float(sizes[number]),
                float(norms[number]),
                multiplier,
                parameter.begins_at_0,
            )
            factor = self._limit.factor(weight, learning_rate)
            (factors if self._limit.of_gradient else rates)[number] *= factor
        return rates, factors

    def _move_statistics(self) -> None:
        """Let running statistics follow what the step has seen."""
        averaged = self._averaged_statistics()
        for name, seen in self._run.statistics.items():
            mean, variance = self._values[name], self._values[seen.variance]
            batch_mean, batch_variance = next(averaged) if averaged else _moments(seen)
            mean.lerp_(batch_mean, 1.0 - seen.momentum)
            variance.lerp_(batch_variance, 1.0 - seen.momentum)

    def _average_statistics(self) -> None:
        """Begin to average what the ranks' BatchNorms have seen, each of its own rows."""
        if not self.reduction or not self._whole or self._whole.normalised or not self._run.statistics:
            return
        with torch.no_grad():
            share = self._rows / sum(self._whole.counts)
            moments = [part for seen in self._run.statistics.values() for part in _moments(seen)]
            flat = torch.cat(moments) * share
        self._averaging = flat, self.reduction.add_up(flat)

    def _averaged_statistics(self) -> Iterator[tuple[Tensor, Tensor]] | None:
        """Mean and variance of each BatchNorm, averaged over the ranks; None where the own ones count."""
        if not self._averaging:
            return None
        assert self.reduction is not None
        (flat, work), self._averaging = self._averaging, None
        self.reduction.wait([work])
        sizes = [len(seen.mean) for seen in self._run.statistics.values() for _ in range(2)]
        parts = iter(flat.split(sizes))
        return zip(parts, parts, strict=True)

    # Parameters

    def parameters(self) -> dict[str, np.ndarray]:
        return {own: array(self._values[name]) for own, name in self._own.items()}

    def set_parameters(self, values: dict[str, np.ndarray]) -> None:
        for own, name in self._own.items():
            assign(self._values[name], values[own])
        if self._keep:
            self._keep(values)

    def companions(self) -> dict[str, np.ndarray]:
        return {name: array(tensor) for name, tensor in self._companions.items()}

    def set_companions(self, values: dict[str, np.ndarray]) -> None:
        for name, tensor in self._companions.items():
            assign(tensor, values[name])

    def multipliers(self) -> dict[str, list[float]]:
        return {own: [*pair] for own, pair in self._multipliers.items()}

    def set_multipliers(self, values: dict[str, list[float]]) -> None:
        for own, (rate, decay) in values.items():
            if own not in self._multipliers:
                raise KeyError(own)
            self._multipliers[own] = (rate, decay)
        for number, parameter in enumerate(self._trained_as):
            for own in parameter.own:
                self._rates[number], self._decays[number] = self._multipliers[own]

    def optimizer_state(self) -> dict[str, Any]:
        return {**self._updater.state(), "loss_scale": self._scale.state()}

    def restore_optimizer(self, state: dict[str, Any]) -> None:
        self._updater.restore(state)
        self._scale.restore(state["loss_scale"])

    # Predictions

    def predict(self, images: np.ndarray) -> list[np.ndarray]:
        return TorchInference(self._inference, self._values, self._device)(images)

    def _look(self, images: np.ndarray) -> dict[str, Seen]:
        """What BatchNorms see of uint8 images (B, H, W, 3) in training."""
        run = Pass(training=True)
        with torch.no_grad():
            given = torch.from_numpy(np.ascontiguousarray(images)).to(self._device)
            self._inference({**self._values, "images": given}, run, self._device, self._precision)
        return run.statistics


def _moments(seen: Seen) -> tuple[Tensor, Tensor]:
    """Mean and variance of what a BatchNorm has seen."""
    return seen.mean.float(), (seen.inverse.float() ** -2 - seen.epsilon).clamp_(min=0.0)
