"""Samples in anonymous memory that all processes share: a hundred thousand of them are sent as one descriptor."""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence

import numpy as np

from common.data.samples import Sample

# Per sample: width, height, columns of the annotation (-1: it has one dimension), end of its path, end of its
# numbers.
_RECORD = np.dtype(
    [("width", "<i8"), ("height", "<i8"), ("columns", "<i8"), ("path", "<i8"), ("numbers", "<i8")]
)


class SampleTable:
    """Samples by index. Their annotations are views of the shared memory, and read-only."""

    def __init__(self, descriptor: int) -> None:
        """Open what `share` has made; the descriptor may be closed afterwards."""
        size = os.fstat(descriptor).st_size
        memory = mmap.mmap(descriptor, size, prot=mmap.PROT_READ)
        count, numbers = np.frombuffer(memory, "<i8", 2).tolist()
        offset = 16
        records = np.frombuffer(memory, _RECORD, count, offset)
        offset += records.nbytes
        self._numbers = np.frombuffer(memory, np.float32, numbers, offset)
        self._paths = memory
        self._first_path = offset + self._numbers.nbytes
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Sample:
        width, height, columns, path_end, numbers_end = self._records[index].tolist()
        path, numbers = (
            (int(self._records["path"][index - 1]), int(self._records["numbers"][index - 1]))
            if index
            else (0, 0)
        )
        image = os.fsdecode(self._paths[self._first_path + path : self._first_path + path_end])
        annotation = self._numbers[numbers:numbers_end]
        return Sample(image, width, height, annotation if columns < 0 else annotation.reshape(-1, columns))


def share(samples: Sequence[Sample]) -> int:
    """Write samples into anonymous memory; returns its descriptor. Annotations are float32 of one or two
    dimensions."""
    records = np.empty(len(samples), _RECORD)
    paths = [os.fsencode(sample.image) for sample in samples]
    for sample in samples:
        annotation = sample.annotation
        if annotation.dtype != np.float32 or annotation.ndim not in (1, 2) or 0 in annotation.shape[1:]:
            kind = f"{annotation.dtype} of shape {annotation.shape}"
            raise ValueError(f"{sample.image}: an annotation is float32 of one or two dimensions, not {kind}")
    records["width"] = [sample.width for sample in samples]
    records["height"] = [sample.height for sample in samples]
    records["columns"] = [s.annotation.shape[1] if s.annotation.ndim == 2 else -1 for s in samples]
    records["path"] = np.cumsum([len(path) for path in paths])
    records["numbers"] = np.cumsum([sample.annotation.size for sample in samples])
    numbers = np.concatenate([sample.annotation.ravel() for sample in samples])
    descriptor = os.memfd_create("samples", os.MFD_CLOEXEC)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(np.array([len(samples), len(numbers)], "<i8").tobytes())
        file.write(records.tobytes())
        file.write(numbers.tobytes())
        file.write(b"".join(paths))
    return descriptor
