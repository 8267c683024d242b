"""Batches of samples, made by worker processes in shared memory.

A batch is a slot of one anonymous memory that all processes see: workers write decoded and augmented rows
into it, and nothing but row numbers travels between processes. The memory has no name, so nothing of it is
left behind however the job ends, and docker's limit on /dev/shm does not concern it. The rows of a batch are
divided over all workers, so that the first batch is there as soon as it can be.

A sample's randomness comes from (seed, epoch, index) alone: the same seed gives the same batches with any
number of workers, in whatever order they finish.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from common.data.samples import Problem, Sample
from common.errors import DataError
from common.loading.batches import (
    Layout,
    Made,
    Maker,
    Memory,
    Shape,
    Targets,
    Transform,
    WithTargets,
    make_rows,
    size_of,
)
from common.loading.sample_table import share
from common.processes.pool import WorkerPool
from common.ranks.ranks import ALONE, Ranks
from common.ranks.shares import rows_of

__all__ = ["Batch", "Layout", "Loader", "Shape", "Targets", "Transform", "WithTargets"]

_AHEAD_BYTES = 256 << 20  # of batches that are made ahead of the one that is used
_ORDER = 2**32 - 1  # in the place of an occurrence: the random numbers that shuffle an epoch


def itself(values: np.ndarray) -> np.ndarray:
    """What the rows of a batch add up to, where all of them are here."""
    return values


@dataclass
class Batch:
    """Rows of samples; where several ranks train, those of a batch that are this one's.

    arrays: (B, ...) by name, valid until the next batch is taken or the loader is closed. indices: (B,) into
    the samples, -1 for a row that holds none, which is zero in all arrays. count: rows at the beginning of the whole
    batch that are the turn of an image; those behind are padding, or in training images that come a second time. shape:
    width and height. failed: indices of samples whose rows are empty because they could not be read. epoch,
    number: whose batch this is, and which of it. plain: of one of the last epochs, in which images are not mixed.
    total: from an array of numbers that this rank's rows add up to, to that of the whole batch; all ranks must ask
    alike.
    """

    arrays: dict[str, np.ndarray]
    indices: np.ndarray
    count: int
    shape: Shape
    failed: list[int] = field(default_factory=list)
    epoch: int = 0
    number: int = 0
    plain: bool = False
    total: Callable[[np.ndarray], np.ndarray] = itself


class Loader:
    """Serves a set of samples batch by batch.

    shapes: input size by epoch and number of the batch. problems: images that could not be read so far, each once.

    training: an epoch has every sample once in a random order, or comes in the `order` that is given (by
    epoch and generator, as indices); the last batch is filled up from the beginning of the epoch; an image
    that can no longer be read is replaced by another one. Otherwise samples come as they stand, the last
    batch is padded, and an image that cannot be read leaves its row empty.

    plain: whether an epoch is one of the last ones, whose samples pass through `plain_transform` where there is one;
    asked when it begins.

    ranks: among which the set is shared out: in training each makes its rows of every batch (`common.ranks.shares`),
    otherwise whole batches in turn. What a row holds depends on none of that.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        transform: Transform,
        pool: WorkerPool,
        *,
        batch_size: int,
        shapes: Callable[[int, int], Shape],
        seed: int = 0,
        training: bool = False,
        order: Callable[[int, np.random.Generator], np.ndarray] | None = None,
        plain: Callable[[int], bool] = lambda epoch: False,
        plain_transform: Transform | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        if not samples or batch_size < 1:
            raise ValueError(f"{len(samples)} samples in batches of {batch_size}")
        self.samples = samples
        self.batch_size = batch_size
        self.problems: list[Problem] = []
        self._known: set[str] = set()
        self._transform = transform
        self._plain = plain
        self._plain_transform = plain_transform
        self._pool = pool
        self._shapes = shapes
        self._seed = seed
        self._training = training
        self._order = order
        self._length = len(order(0, self._generator(0))) if order else len(samples)
        self.ranks = ranks
        every = np.arange(batch_size)
        self._own = rows_of(batch_size, ranks.rank, ranks.size) if training and ranks.size > 1 else every
        self._rows = -(-len(self._own) // max(pool.count, 1))
        self._memory: Memory | None = None
        self._table: int | None = None
        self._key = 0
        self._current: _Epoch | None = None

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-self._length // self.batch_size)

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the memory back."""
        self._withdraw()
        if self._memory is not None:
            self._pool.remove(self._key)
            self._memory.release()
            self._memory = None
        if self._table is not None:
            os.close(self._table)
            self._table = None

    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of epoch `number`; workers begin at once. An epoch that was begun before ends here.

        A batch's arrays hold until the next but one is asked for.

        Raises:
            DataError: no image can be read any more.
            WorkerError: workers died too often.
        """
        self._withdraw()
        plain = self._plain(number)
        if plain and self._plain_transform:
            self.close()
            self._transform, self._plain_transform = self._plain_transform, None
        epoch = self._plan(number)
        epoch.plain = plain
        layouts = [self._transform.layout(shape) for shape in set(epoch.shapes)]
        self._reserve(max(size_of(layout, len(self._own)) for layout in layouts))
        assert self._memory is not None
        epoch.free.extend(range(self._memory.slots))
        self._current = epoch
        self._submit(epoch)
        return self._batches(epoch)

    def _generator(self, epoch: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, epoch, 0, _ORDER])

    def _plan(self, number: int) -> _Epoch:
        """What the rows of an epoch hold."""
        if not self._training:
            order = np.arange(len(self.samples))
        elif self._order:
            order = np.asarray(self._order(number, self._generator(number)))
        else:
            order = self._generator(number).permutation(len(self.samples))
        batches = -(-len(order) // self.batch_size)
        rows = np.full(batches * self.batch_size, -1)
        rows[: len(order)] = order
        if self._training:
            rows = np.resize(order, len(rows))
        shape = (batches, self.batch_size)
        shapes = [self._shapes(number, batch) for batch in range(batches)]
        indices, occurrences = (
            rows.reshape(shape)[:, self._own],
            _occurrences(rows).reshape(shape)[:, self._own],
        )
        numbers = range(batches) if self._training else range(self.ranks.rank, batches, self.ranks.size)
        return _Epoch(number, len(order), indices, occurrences, shapes, numbers)

    def _reserve(self, size: int) -> None:
        """Have memory for the batches of `size` bytes that are under way, and the two that are with the caller."""
        if self._memory is not None and self._memory.slot_size >= size:
            return
        self.close()
        ahead = max(2, min(2 * self._pool.count, _AHEAD_BYTES // size)) if self._pool.count else 0
        self._memory = Memory.make(size, ahead + 2)
        self._table = share(self.samples)
        self._key = self._pool.install(
            Maker,
            size,
            ahead + 2,
            self._transform,
            len(self._own),
            self._seed,
            self._training,
            descriptors=[self._memory.descriptor, self._table],
        )

    def _submit(self, epoch: _Epoch) -> None:
        """Have batches made as long as there is a slot for them."""
        while epoch.free and epoch.submitted < len(epoch.numbers):
            batch = epoch.numbers[epoch.submitted]
            slot = epoch.free.popleft()
            count = min(self.batch_size, epoch.length - batch * self.batch_size)
            filled = len(self._own) if self._training else count
            indices = epoch.indices[batch, :filled].tolist()
            occurrences = epoch.occurrences[batch, :filled].tolist()
            tickets: list[int] = []
            epoch.pending.append((batch, slot, count, tickets))
            for row in range(0, filled, self._rows):
                part = slice(row, row + self._rows)
                place = (slot, epoch.shapes[batch], epoch.number, row)
                tickets.append(
                    self._pool.submit(make_rows, self._key, place, indices[part], occurrences[part])
                )
            epoch.submitted += 1

    def _withdraw(self) -> None:
        """Make sure that nothing is written into any slot any more."""
        epoch, self._current = self._current, None
        if epoch is not None:
            self._pool.cancel([ticket for _, _, _, tickets in epoch.pending for ticket in tickets])
            epoch.pending.clear()

    def _batches(self, epoch: _Epoch) -> Iterator[Batch]:
        failed, before = 0, None
        try:
            while epoch.pending:
                batch, slot, count, tickets = epoch.pending[0]
                made = [self._pool.result(ticket) for ticket in tickets]
                epoch.pending.popleft()
                finished = self._batch(epoch, batch, slot, count, made)
                failed += len(finished.failed)
                yield finished
                if self._current is not epoch:
                    raise RuntimeError("another epoch of this loader was begun, or it was closed")
                if before is not None:
                    epoch.free.append(before)
                before = slot
                self._submit(epoch)
        finally:
            if self._current is epoch:
                self._withdraw()
        if failed == epoch.length:  # of several ranks none knows that alone
            raise DataError(f"no image can be read any more, of {failed}; the first: {self.problems[0]}")

    def _batch(self, epoch: _Epoch, batch: int, slot: int, count: int, made: Sequence[Made]) -> Batch:
        assert self._memory is not None
        shape = epoch.shapes[batch]
        arrays = self._memory.arrays(slot, self._transform.layout(shape), len(self._own))
        indices = epoch.indices[batch].copy()
        failed = []
        for changed, problems in made:
            for row, index in changed:
                if index < 0:
                    failed.append(int(indices[row]))
                indices[row] = index
            for file, reason in problems:
                if file not in self._known:
                    self._known.add(file)
                    self.problems.append(Problem(file, None, reason))
        if not self._training and count < self.batch_size:
            for array in arrays.values():
                array[count:] = 0
        total = self.ranks.total if self._training else itself
        return Batch(arrays, indices, count, shape, failed, epoch.number, batch, epoch.plain, total)


@dataclass
class _Epoch:
    """An epoch under way. length: rows that are an image's turn. indices, occurrences: (batches, B). numbers: of the
    batches that are made here. pending: number, slot, count and tickets of the batches that are being made. free: slots
    that hold nothing."""

    number: int
    length: int
    indices: np.ndarray
    occurrences: np.ndarray
    shapes: list[Shape]
    numbers: Sequence[int]
    submitted: int = 0
    plain: bool = False
    pending: deque[tuple[int, int, int, list[int]]] = field(default_factory=deque)
    free: deque[int] = field(default_factory=deque)


def _occurrences(rows: np.ndarray) -> np.ndarray:
    """How often the same index stands before each element."""
    order = np.argsort(rows, kind="stable")
    position = np.arange(len(rows))
    first = np.ones(len(rows), bool)
    first[1:] = rows[order][1:] != rows[order][:-1]
    occurrences = np.empty(len(rows), int)
    occurrences[order] = position - np.maximum.accumulate(np.where(first, position, 0))
    return occurrences
