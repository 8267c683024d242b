"""From MXNet's arrays to NumPy's and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mxnet as mx
import numpy as np


def on_device(value: Any, context: Any) -> Any:
    """A NumPy array as an NDArray of its type; of a list or a tuple a tuple of such; all else as it is."""
    if isinstance(value, (list, tuple)):
        return tuple(on_device(item, context) for item in value)
    return mx.nd.array(value, ctx=context, dtype=value.dtype) if isinstance(value, np.ndarray) else value


def plain(value: Any) -> Any:
    """An NDArray as a NumPy array; of a list or a tuple a list of such; all else as it is."""
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value.asnumpy() if isinstance(value, mx.nd.NDArray) else value


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
