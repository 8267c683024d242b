"""What the ranks' shares of a batch have in common: gradients, losses and BatchNorm's statistics, brought together.

Gradients are added up while the backward pass goes on, in buckets of many of them, as PyTorch's DistributedDataParallel
does ("PyTorch Distributed", Li et al. 2020). That class itself is for modules, and gathers its buckets anew after the
first step: a training that is resumed would add up in another order than one that was not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from common.ranks.ranks import Ranks

#: Bytes of a bucket: enough that connections are busy rather than woken up, few enough that the first bucket leaves
#: early in the backward pass.
BUCKET = 4 << 20


class Reduction:
    """Adds up over all ranks.

    trained: the parameters, in the order of the forward pass. bucket: bytes of one. overlapped: gradients leave as soon
    as a bucket is full, else all at the end; to see what the former is worth. waited: seconds in which the host has
    waited for other ranks so far. size: bytes of the gradients.
    """

    def __init__(
        self, trained: Sequence[Tensor], ranks: Ranks, *, bucket: int = BUCKET, overlapped: bool = True
    ) -> None:
        self._ranks = ranks
        self._overlapped = overlapped
        self.waited = 0.0
        self._views: list[Tensor] = []
        self._buckets: list[Tensor] = []
        self._bucket_of: list[int] = []
        self._arrange(trained, bucket)
        self.size = sum(bucket.numel() * bucket.element_size() for bucket in self._buckets)
        self._missing: list[int] = []
        self._ready: list[bool] = []
        self._next = 0
        self._works: list[Any] = []
        self._active = False
        for number, weight in enumerate(trained):
            weight.register_hook(self._hook(number))

    def _arrange(self, trained: Sequence[Tensor], size: int) -> None:
        """Lay gradients into buckets, the last ones, which are ready first, into the first."""
        views: list[Tensor | None] = [None] * len(trained)
        self._bucket_of = [0] * len(trained)
        members: list[list[int]] = []
        filled = size
        for number in reversed(range(len(trained))):
            bytes_ = trained[number].numel() * trained[number].element_size()
            if filled + bytes_ > size:
                members.append([])
                filled = 0
            members[-1].append(number)
            filled += bytes_
        for place, numbers in enumerate(members):
            flat = torch.zeros(
                sum(trained[n].numel() for n in numbers),
                dtype=trained[numbers[0]].dtype,
                device=trained[numbers[0]].device,
            )
            self._buckets.append(flat)
            offset = 0
            for number in numbers:
                weight = trained[number]
                views[number] = flat.as_strided(weight.shape, weight.stride(), offset)
                offset += weight.numel()
                self._bucket_of[number] = place
        self._views = [view for view in views if view is not None]
        self._members = [len(numbers) for numbers in members]

    def _hook(self, number: int) -> Callable[[Tensor], None]:
        def arrived(gradient: Tensor) -> None:
            if self._active and not self._ready[number]:
                self._put(number, gradient)

        return arrived

    def begin(self) -> None:
        """A backward pass is about to begin."""
        self._missing = list(self._members)
        self._ready = [False] * len(self._views)
        self._next = 0
        self._works = []
        self._active = True

    def end(self, gradients: Sequence[Tensor | None]) -> None:
        """It is done. gradients: what it has given; None: nothing depends on that parameter."""
        self._active = False
        for number, gradient in enumerate(gradients):
            if not self._ready[number]:
                if gradient is None:
                    self._views[number].zero_()
                    self._arrived(number)
                else:
                    self._put(number, gradient)
        self._leave(True)

    def gradients(self) -> list[Tensor]:
        """The sums of all ranks' gradients, once they are there; they hold until the next `begin`."""
        self.wait(self._works)
        self._works = []
        return self._views

    def add_up(self, values: Tensor) -> Any:
        """Begin to add up `values` in place; `wait` for what is returned."""
        with self._ranks.talking():
            return dist.all_reduce(values, async_op=True)

    def wait(self, works: Sequence[Any]) -> None:
        """Return when these sums are there: on a GPU, when whatever is computed from here on has them."""
        began = time.monotonic()
        with self._ranks.talking():
            for work in works:
                work.wait()
        self.waited += time.monotonic() - began

    def _put(self, number: int, gradient: Tensor) -> None:
        self._views[number].copy_(gradient)
        self._arrived(number)

    def _arrived(self, number: int) -> None:
        self._ready[number] = True
        self._missing[self._bucket_of[number]] -= 1
        self._leave(self._overlapped)

    def _leave(self, now: bool) -> None:
        """Send the buckets that are full, in their order: in that all ranks agree."""
        while now and self._next < len(self._buckets) and not self._missing[self._next]:
            bucket = self._buckets[self._next]
            self._works.append(self.add_up(bucket))
            self._next += 1


def same_everywhere(values: Sequence[Tensor], ranks: Ranks) -> None:
    """Give all ranks the values that the first one has."""
    with ranks.talking(), torch.no_grad():
        for value in values:
            there = value.contiguous()
            dist.broadcast(there, 0)
            if there is not value:
                value.copy_(there)


class _Gather(torch.autograd.Function):
    """The rows of all ranks, one rank's after the other's, of which only the own ones are variables here: the gradient
    of each rank's rows is what all ranks' losses say of them."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, counts: Sequence[int], ranks: Ranks) -> Tensor:
        ctx.counts, ctx.ranks = counts, ranks
        most = max(counts)
        padded = own.new_zeros((most, *own.shape[1:]))
        padded[: len(own)] = own
        parts = [torch.empty_like(padded) for _ in counts]
        with ranks.talking():
            dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        summed = gradients[0].contiguous().clone()
        with ctx.ranks.talking():
            dist.all_reduce(summed)
        before = sum(ctx.counts[: ctx.ranks.rank])
        return summed[before : before + ctx.counts[ctx.ranks.rank]], None, None


class Whole:
    """Brings the rows of a batch together that the ranks have of it. counts: rows of each rank."""

    def __init__(self, ranks: Ranks, *, normalised: bool) -> None:
        self._ranks = ranks
        self._own = 0
        self.counts: list[int] = []
        #: Whether BatchNorm goes by all of the batch.
        self.normalised = normalised

    def begin(self, own: int) -> None:
        """A batch is about to be computed of which this rank has `own` rows."""
        if own != self._own:  # as for the other ranks: batches of a training are alike
            self._own, self.counts = own, self._ranks.all(own)

    def rows(self, own: Tensor) -> Tensor:
        """The rows of the whole batch, for the rows (B, ...) of this rank."""
        gathered: Tensor = _Gather.apply(own, self.counts, self._ranks)
        return gathered

    def batch_norm(
        self, x: Tensor, gamma: Tensor, beta: Tensor, epsilon: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """BatchNorm by the mean and variance of the whole batch; returns these too, the latter as one over the
        deviation."""
        output, mean, inverse = _BatchNorm.apply(x, gamma, beta, epsilon, self._ranks)
        return output, mean, inverse


class _BatchNorm(torch.autograd.Function):
    """BatchNorm over the ranks, with the gradients of `torch.nn.SyncBatchNorm`, which computes on GPUs alone.

    x (B, C, ...). Its mean and the deviations from it are combined from those of the ranks ("Updating Formulae and a
    Pairwise Algorithm for Computing Sample Variances", Chan et al. 1979).
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, epsilon: float, ranks: Ranks
    ) -> tuple[Tensor, Tensor, Tensor]:
        axes = [axis for axis in range(x.dim()) if axis != 1]
        full = x if x.dtype == torch.float64 else x.float()
        # As BatchNorm of one rank: on the CPU float32 is not enough to add up a map.
        wide = full if x.is_cuda else x.double()
        count = x.numel() // x.shape[1]
        mean = wide.mean(axes)
        square = (wide - _along(mean, x)).square().sum(axes)
        own = torch.cat([mean, square, mean.new_tensor([float(count)])])
        parts = [torch.empty_like(own) for _ in range(ranks.size)]
        with ranks.talking():
            dist.all_gather(parts, own)
        ctx.ranks = ranks
        every = torch.stack(parts)
        channels = x.shape[1]
        counts = every[:, -1:]
        total = counts.sum()
        means, squares = every[:, :channels], every[:, channels : 2 * channels]
        mean = (counts * means).sum(0) / total
        variance = (squares + counts * (means - mean).square()).sum(0) / total
        inverse = (variance + epsilon).rsqrt().to(full.dtype)
        mean, total = mean.to(full.dtype), total.to(full.dtype)
        ctx.save_for_backward(x, gamma, mean, inverse, total)
        ctx.mark_non_differentiable(mean, inverse)
        normal = (full - _along(mean, x)) * _along(inverse, x)
        return (normal * _along(gamma, x) + _along(beta, x)).to(x.dtype), mean, inverse

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, gamma, mean, inverse, total = ctx.saved_tensors
        axes = [axis for axis in range(x.dim()) if axis != 1]
        given = gradients[0].to(mean.dtype)
        normal = (x.to(mean.dtype) - _along(mean, x)) * _along(inverse, x)
        of_beta, of_gamma = given.sum(axes), (given * normal).sum(axes)
        sums = torch.cat([of_beta, of_gamma])
        with ctx.ranks.talking():
            dist.all_reduce(sums)
        first, second = sums[: len(mean)] / total, sums[len(mean) :] / total
        of_x = _along(gamma.to(mean.dtype) * inverse, x) * (
            given - _along(first, x) - normal * _along(second, x)
        )
        return of_x.to(x.dtype), of_gamma.to(gamma.dtype), of_beta.to(gamma.dtype), None, None


def _along(values: Tensor, x: Tensor) -> Tensor:
    """Values of channels (C,), to be computed with x (B, C, ...)."""
    return values.reshape([1, -1] + [1] * (x.dim() - 2))
