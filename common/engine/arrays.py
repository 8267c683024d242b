"""From MXNet's arrays to NumPy's and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mxnet as mx
import numpy as np

from common.engine.mxnet_internals import host_view


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


def norms(arrays: Sequence[Any]) -> np.ndarray:
    """The norm of each of the NDArrays, which are on one device."""
    if arrays[0].context.device_type == "cpu":  # BLAS takes a fifth of the time
        flat = [host_view(array).ravel() for array in arrays]
        return np.sqrt([np.dot(numbers, numbers) for numbers in flat])
    euclidean: np.ndarray = np.sqrt(mx.nd.multi_sum_sq(*arrays, num_arrays=len(arrays)).asnumpy())
    return euclidean
