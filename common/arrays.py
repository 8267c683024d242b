"""MXNet's arrays as NumPy's, for what NumPy does faster on the CPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mxnet as mx
import numpy as np


def host_view(array: Any) -> np.ndarray:
    """The numbers of an NDArray in the CPU's memory, without a copy, to be read before MXNet writes to them again."""
    try:
        return np.from_dlpack(_Lent(array))
    except mx.MXNetError:  # an inference has brought them into an order of oneDNN's own
        return np.asarray(array.asnumpy())


@dataclass(frozen=True)
class _Lent:
    """An NDArray as the array API standard has one array given to another library."""

    array: Any

    def __dlpack__(self, stream: None = None) -> Any:
        return self.array.to_dlpack_for_read()

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0  # the CPU
