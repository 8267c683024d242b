"""How rows of batches are made, in whichever process, and the memory that holds them."""

from __future__ import annotations

import contextlib
import itertools
import math
import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from common.data.samples import Sample
from common.errors import DataError
from common.images.decoding import ImageError
from common.loading.sample_table import SampleTable
from common.processes.pool import installed

Layout = dict[str, tuple[tuple[int, ...], str]]
"""Arrays of one sample: name -> (shape, dtype)."""

Shape = tuple[int, int]
"""Width and height of the network's input."""

Made = tuple[list[tuple[int, int]], list[tuple[str, str]]]
"""Rows with another sample than was meant, or -1 for none; files that cannot be read, with reasons."""

_ALIGNMENT = 64  # bytes at whose multiples arrays begin, as vector instructions like it
_RETRIES = 3  # of a sample whose own image is good, while others that it draws to go with it are not


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
        """Fill every array of `out`, which may hold anything. draw: another sample of the set at random. The
        annotations of both are read-only. Raises ImageError."""


class Targets(Protocol):
    """Makes of a row's arrays further ones: what a model's losses compare with. Pickled into the workers as well."""

    def layout(self, shape: Shape, given: Layout) -> Layout:
        """The arrays that it makes. given: those of the transform."""

    def __call__(self, shape: Shape, row: dict[str, np.ndarray]) -> None:
        """Fill them, which may hold anything, from the others of the row."""


@dataclass(frozen=True)
class WithTargets:
    """A transform whose rows have targets too."""

    transform: Transform
    targets: Targets

    def layout(self, shape: Shape) -> Layout:
        """The arrays of both."""
        given = self.transform.layout(shape)
        return {**given, **self.targets.layout(shape, given)}

    def __call__(
        self,
        sample: Sample,
        shape: Shape,
        rng: np.random.Generator,
        draw: Callable[[], Sample],
        out: dict[str, np.ndarray],
    ) -> None:
        """See `Transform`."""
        self.transform(sample, shape, rng, draw, out)
        self.targets(shape, out)


class Memory:
    """Anonymous shared memory, cut into slots of a batch each."""

    def __init__(self, descriptor: int, slot_size: int, slots: int) -> None:
        self.descriptor = descriptor
        self.slot_size = slot_size
        self.slots = slots
        self._map = mmap.mmap(descriptor, slot_size * slots)

    @classmethod
    def make(cls, slot_size: int, slots: int) -> Memory:
        """New memory, which reads as 0; takes no space until it is written to."""
        descriptor = os.memfd_create("batches", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, slot_size * slots)
        return cls(descriptor, slot_size, slots)

    def arrays(self, slot: int, layout: Layout, rows: int) -> dict[str, np.ndarray]:
        """The arrays (rows, ...) of a slot."""
        offset = slot * self.slot_size
        views: dict[str, np.ndarray] = {}
        for name, (shape, dtype) in layout.items():
            views[name] = np.ndarray((rows, *shape), dtype, self._map, offset)
            offset += _aligned(views[name].nbytes)
        return views

    def release(self) -> None:
        """Give back the memory itself: workers may hold the mapping, which then reads as 0, for a while."""
        with contextlib.suppress(OSError):
            self._map.madvise(mmap.MADV_REMOVE)
        os.close(self.descriptor)


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def size_of(layout: Layout, rows: int) -> int:
    """Bytes that a batch takes."""
    sizes = (math.prod(shape) * np.dtype(dtype).itemsize * rows for shape, dtype in layout.values())
    return sum(_aligned(size) for size in sizes)


class Maker:
    """What a process needs to make rows of batches."""

    def __init__(
        self,
        descriptors: Sequence[int],
        slot_size: int,
        slots: int,
        transform: Transform,
        batch_size: int,
        seed: int,
        training: bool,
    ) -> None:
        self.memory = Memory(descriptors[0], slot_size, slots)
        self.samples = SampleTable(descriptors[1])
        for descriptor in descriptors:
            os.close(descriptor)
        self.transform = transform
        self.batch_size = batch_size
        self.seed = seed
        self.training = training
        self._arrays: dict[tuple[int, Shape], dict[str, np.ndarray]] = {}

    def arrays(self, slot: int, shape: Shape) -> dict[str, np.ndarray]:
        """The arrays of a batch."""
        views = self._arrays.get((slot, shape))
        if views is None:
            views = self.memory.arrays(slot, self.transform.layout(shape), self.batch_size)
            self._arrays[slot, shape] = views
        return views

    def make_row(
        self,
        index: int,
        shape: Shape,
        rng: np.random.Generator,
        out: dict[str, np.ndarray],
        bad: dict[str, str],
    ) -> int:
        """Make a row of sample `index`, or in training of another one in its place. Returns the index, -1: of none.

        bad: collects files that cannot be read, with the reasons.
        """

        def draw() -> Sample:
            return self.samples[int(rng.integers(len(self.samples)))]

        def others() -> Iterator[int]:
            yield from rng.permutation(len(self.samples)).tolist()

        attempts = itertools.chain([index] * (1 + _RETRIES), others()) if self.training else iter([index])
        for attempt in attempts:
            sample = self.samples[attempt]
            if sample.image not in bad:
                try:
                    self.transform(sample, shape, rng, draw, out)
                    return attempt
                except ImageError as error:
                    bad[error.path] = error.reason
        if self.training:
            first = next(iter(bad.items()))
            raise DataError(f"no image can be read any more, of {len(self.samples)}: {ImageError(*first)}")
        for array in out.values():
            array[...] = 0
        return -1


def make_rows(
    key: int, place: tuple[int, Shape, int, int], indices: Sequence[int], occurrences: Sequence[int]
) -> Made:
    """Make rows of a batch, one for each of `indices`. place: slot, input size, epoch and first row."""
    maker: Maker = installed(key)
    slot, shape, epoch, first = place
    arrays = maker.arrays(slot, shape)
    changed: list[tuple[int, int]] = []
    unreadable: dict[str, str] = {}
    for row, (index, occurrence) in enumerate(zip(indices, occurrences, strict=True), start=first):
        # An image that comes twice in an epoch shall not come as the same picture.
        entropy = [maker.seed, epoch, index, occurrence] if occurrence else [maker.seed, epoch, index]
        out = {name: array[row, ...] for name, array in arrays.items()}
        # Of this row alone: which rows are made together depends on the number of workers, and a row must not.
        bad: dict[str, str] = {}
        made = maker.make_row(index, shape, np.random.default_rng(entropy), out, bad)
        unreadable.update(bad)
        if made != index:
            changed.append((row, made))
    return changed, list(unreadable.items())
