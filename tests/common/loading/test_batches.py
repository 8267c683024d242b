"""The memory that processes share: batches and samples."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import pytest

from common.data.samples import Sample
from common.loading.batches import Memory
from common.loading.sample_table import SampleTable, share


def test_closing_gives_the_memory_back_to_the_system() -> None:
    memory = Memory.make(1 << 20, 4)
    (array,) = memory.arrays(1, {"a": ((1 << 20,), "uint8")}, 1).values()
    array[...] = 1
    descriptor = os.dup(memory.descriptor)
    assert os.fstat(descriptor).st_blocks * 512 >= 1 << 20
    memory.release()
    assert os.fstat(descriptor).st_blocks == 0
    # Not a bus error: who still holds the view sees zeros.
    assert not array.any()
    os.close(descriptor)


def test_arrays_of_a_batch_do_not_overlap() -> None:
    layout = {"a": ((3,), "uint8"), "b": ((2, 2), "float32"), "c": ((), "float64"), "d": ((0, 5), "float32")}
    memory = Memory.make(4096, 3)
    for slot in range(3):
        for number, array in enumerate(memory.arrays(slot, layout, 7).values()):
            assert array.ctypes.data % 64 == 0
            array[...] = 10 * slot + number
    for slot in range(3):
        for number, array in enumerate(memory.arrays(slot, layout, 7).values()):
            assert (array == 10 * slot + number).all()
    memory.release()


@pytest.mark.parametrize(
    "change", [lambda a: a.astype(np.float64), lambda a: a[None], lambda a: np.zeros((3, 0), np.float32)]
)
def test_annotations_of_another_kind_are_refused(change: Callable[[np.ndarray], np.ndarray]) -> None:
    with pytest.raises(ValueError, match="float32 of one or two dimensions"):
        share([Sample("a.jpg", 1, 1, change(np.zeros((2, 5), np.float32)))])


def test_samples_come_out_of_the_table_as_they_went_in() -> None:
    names = ["a.jpg", "/data/漢 字.png", os.fsdecode(b"/x/\xff\n.jpg"), ""]
    arrays = [np.zeros((0, 5)), np.arange(5), np.arange(6).reshape(3, 2), np.arange(0)]
    samples = [
        Sample(name, 10**9 + i, i, array.astype(np.float32))
        for i, (name, array) in enumerate(zip(names, arrays, strict=True))
    ]
    descriptor = share(samples)
    table = SampleTable(descriptor)
    os.close(descriptor)
    assert len(table) == 4
    for index, sample in enumerate(samples):
        found = table[index]
        assert (found.image, found.width, found.height) == (sample.image, sample.width, sample.height)
        assert found.annotation.shape == sample.annotation.shape
        assert np.array_equal(found.annotation, sample.annotation)
        assert not found.annotation.flags.writeable
