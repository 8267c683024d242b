"""Batches of samples, made by worker processes in shared memory.

A batch is a slot of one anonymous memory that all processes see: workers write decoded and augmented rows into it, and
nothing but row numbers travels between processes. The memory has no name, so nothing of it is left behind however the
job ends, and docker's limit on /dev/shm does not concern it.

A row's randomness comes from (seed, epoch, position in the epoch) alone: the same seed gives the same batches with any
number of workers, in whatever order they finish.
"""

from __future__ import annotations

import math
import mmap
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from common.errors import DataError
from common.images import ImageError
from common.samples import Problem, Sample
from common.workers import WorkerPool, installed

Layout = dict[str, tuple[tuple[int, ...], str]]
"""Arrays of one sample: name -> (shape, dtype)."""

Shape = tuple[int, int]
"""Width and height of the network's input."""

# Arrays begin at multiples of this, as vector instructions like it.
_ALIGNMENT = 64
# Rows that a worker does at a time: enough that the message costs nothing beside the work.
_ROWS_A_TASK = 8
# Other samples that are tried in the place of one that cannot be read, before the set is given up.
_SUBSTITUTES = 20


class Transform(Protocol):
    """Turns a sample into arrays. Pickled into the workers, so it imports nothing heavy."""

    def layout(self, shape: Shape) -> Layout:
        """The arrays of a sample for input of `shape`; "image" is ((height, width, 3), "uint8")."""

    def __call__(
        self,
        sample: Sample,
        shape: Shape,
        rng: np.random.Generator,
        draw: Callable[[], Sample],
        out: dict[str, np.ndarray],
    ) -> None:
        """Fill every array of `out`. draw: another random sample of the set. Raises ImageError."""


@dataclass
class Batch:
    """arrays (B, ...) by name, valid until the next batch is taken. indices (B,): into the samples, -1 for rows that
    hold none. count: rows to count as new images (a training batch is filled up with images that come twice).
    shape: width and height of the images."""

    arrays: dict[str, np.ndarray]
    indices: np.ndarray
    count: int
    shape: Shape


class Loader:
    """Serves a set of samples batch by batch.

    shapes: input size by epoch and number of the batch. training: batches are shuffled anew each epoch, always full
    (the last one is filled up from the beginning of the epoch), and an image that can no longer be read is replaced by
    another one; else samples come in order, the rows behind the last one are padding, and an image that cannot be
    read leaves its row out. order: indices of an epoch, instead of a random permutation. problems: what could not be
    read so far.
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
        order: Callable[[np.random.Generator], np.ndarray] | None = None,
    ) -> None:
        self.samples = samples
        self.batch_size = batch_size
        self.problems: list[Problem] = []
        self._transform = transform
        self._pool = pool
        self._shapes = shapes
        self._seed = seed
        self._training = training
        self._order = order
        self._rows = min(max(-(-batch_size // max(pool.count, 1)), 1), _ROWS_A_TASK)
        # Two tasks a worker are under way, and one batch is with the caller.
        self._ahead = max(2, -(-2 * max(pool.count, 1) * self._rows // batch_size))
        self._memory: _Memory | None = None
        self._key: int | None = None

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-self._length() // self.batch_size)

    def _length(self) -> int:
        return len(self._order(self._generator(0))) if self._order else len(self.samples)

    def _generator(self, epoch: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, epoch])

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the memory back."""
        if self._key is not None:
            self._pool.remove(self._key)
            self._key = None
        if self._memory is not None:
            self._memory.close()
            self._memory = None

    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of epoch `number`. Raises DataError if too few images can be read, WorkerError if workers die."""
        indices = self._indices(number)
        batches = len(indices) // self.batch_size
        shapes = [self._shapes(number, batch) for batch in range(batches)]
        self._reserve(max((_size(self._transform.layout(shape), self.batch_size) for shape in set(shapes)), default=0))
        assert self._memory is not None
        waiting: deque[tuple[int, list[int]]] = deque()
        try:
            submitted = 0
            for batch in range(batches):
                # The slot that the caller holds until now becomes free, and not before.
                while submitted < min(batch + self._ahead + 1, batches):
                    waiting.append((submitted, self._submit(number, submitted, indices, shapes[submitted])))
                    submitted += 1
                _, tickets = waiting[0]
                failed = [failure for ticket in tickets for failure in self._pool.result(ticket)]
                waiting.popleft()
                yield self._batch(number, batch, indices, shapes[batch], failed)
        finally:
            self._pool.cancel([ticket for _, tickets in waiting for ticket in tickets])

    def _indices(self, epoch: int) -> np.ndarray:
        """Indices of all rows of an epoch, whole batches, -1 for padding."""
        if not self._training:
            indices = np.arange(len(self.samples))
            return np.concatenate([indices, np.full(-len(indices) % self.batch_size, -1)])
        rng = self._generator(epoch)
        order = self._order(rng) if self._order else rng.permutation(len(self.samples))
        return np.resize(order, -(-len(order) // self.batch_size) * self.batch_size)

    def _reserve(self, size: int) -> None:
        """Have memory for as many batches of `size` bytes as are under way or with the caller."""
        slots = self._ahead + 1
        if self._memory is None or self._memory.slot < size:
            self.close()
            self._memory = _Memory.make(size, slots)
            self._key = self._pool.install(
                _Rows,
                size,
                slots,
                self.samples,
                self._transform,
                self.batch_size,
                self._seed,
                self._training,
                descriptors=[self._memory.descriptor],
            )

    def _submit(self, epoch: int, batch: int, indices: np.ndarray, shape: Shape) -> list[int]:
        first = batch * self.batch_size
        positions = [p for p in range(first, first + self.batch_size) if indices[p] >= 0]
        slot = batch % (self._ahead + 1)
        return [
            self._pool.submit(
                fill, self._key, slot, shape, epoch, first, [(p, int(indices[p])) for p in positions[i : i + self._rows]]
            )
            for i in range(0, len(positions), self._rows)
        ]

    def _batch(
        self, epoch: int, batch: int, indices: np.ndarray, shape: Shape, failed: list[tuple[int, str, str]]
    ) -> Batch:
        assert self._memory is not None
        arrays = self._memory.arrays(batch % (self._ahead + 1), self._transform.layout(shape), self.batch_size)
        first = batch * self.batch_size
        rows = indices[first : first + self.batch_size].copy()
        known = {problem.file for problem in self.problems}
        for position, file, reason in failed:
            if file not in known:
                known.add(file)
                self.problems.append(Problem(file, None, reason))
            if not self._training:
                rows[position - first] = -1
        for array in arrays.values():
            array[rows < 0] = 0
        count = min(self.batch_size, self._length() - first) if self._training else int((rows >= 0).sum())
        return Batch(arrays, rows, count, shape)


class _Memory:
    """Anonymous shared memory, cut into slots."""

    def __init__(self, descriptor: int, slot: int, slots: int) -> None:
        self.descriptor = descriptor
        self.slot = slot
        self._map = mmap.mmap(descriptor, max(slot * slots, 1))

    @classmethod
    def make(cls, slot: int, slots: int) -> _Memory:
        descriptor = os.memfd_create("batches", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, max(slot * slots, 1))
        return cls(descriptor, slot, slots)

    def arrays(self, slot: int, layout: Layout, rows: int) -> dict[str, np.ndarray]:
        """The arrays (rows, ...) of a slot."""
        offset, found = slot * self.slot, {}
        for name, (shape, dtype) in layout.items():
            full = (rows, *shape)
            found[name] = np.ndarray(full, dtype, self._map, offset)
            offset += _aligned(math.prod(full) * np.dtype(dtype).itemsize)
        return found

    def close(self) -> None:
        """Arrays that are still in use keep the memory until they are gone."""
        os.close(self.descriptor)


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _size(layout: Layout, rows: int) -> int:
    return sum(_aligned(math.prod(shape) * np.dtype(dtype).itemsize * rows) for shape, dtype in layout.values())


class _Rows:
    """What a worker needs to make rows of batches."""

    def __init__(
        self,
        descriptors: list[int],
        slot: int,
        slots: int,
        samples: Sequence[Sample],
        transform: Transform,
        batch_size: int,
        seed: int,
        training: bool,
    ) -> None:
        (descriptor,) = descriptors
        self.memory = _Memory(descriptor, slot, slots)
        self.memory.close()
        self.samples = samples
        self.transform = transform
        self.batch_size = batch_size
        self.seed = seed
        self.training = training


def fill(
    key: int, slot: int, shape: Shape, epoch: int, first: int, rows: list[tuple[int, int]]
) -> list[tuple[int, str, str]]:
    """Make rows of the batch in `slot`: pairs of a position in the epoch and an index of a sample; first: position of
    the batch's first row. Returns what could not be read: position, file and reason.
    """
    maker: _Rows = installed(key)
    arrays = maker.memory.arrays(slot, maker.transform.layout(shape), maker.batch_size)
    failed: list[tuple[int, str, str]] = []
    for position, index in rows:
        rng = np.random.default_rng([maker.seed, epoch, position])

        def draw(rng: np.random.Generator = rng) -> Sample:
            return maker.samples[int(rng.integers(len(maker.samples)))]

        out = {name: array[position - first] for name, array in arrays.items()}
        sample = maker.samples[index]
        for _ in range(_SUBSTITUTES if maker.training else 1):
            try:
                maker.transform(sample, shape, rng, draw, out)
                break
            except ImageError as error:
                failed.append((position, error.path, error.reason))
                sample = draw()
        else:
            if maker.training:
                raise DataError(
                    f"{_SUBSTITUTES} images in a row can no longer be read, the last one is {error_of(failed)}: "
                    "was the training folder moved or deleted during the job?"
                )
    return failed


def error_of(failed: list[tuple[int, str, str]]) -> str:
    """File and reason of the last failure."""
    _, file, reason = failed[-1]
    return f"{file}: {reason}"
