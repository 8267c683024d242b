"""From MXNet's arrays to NumPy's and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mxnet as mx
import numpy as np

from common.engine.mxnet_internals import host_view
from common.engine.norm import norm


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


# An operator for several arrays asks for every number of the largest one which of the others is as long; it may have at
# most 60. For small arrays that takes less time than to call an operator for each.
_SMALL = 4096
_TOGETHER = 50


def call_groups(sizes: Sequence[int]) -> list[list[int]]:
    """The places of arrays of such sizes, in groups that one operator should have: small arrays of about the same size
    together, every large one alone."""
    small = sorted((place for place, size in enumerate(sizes) if size <= _SMALL), key=sizes.__getitem__)
    together = [small[begin : begin + _TOGETHER] for begin in range(0, len(small), _TOGETHER)]
    return together + [[place] for place, size in enumerate(sizes) if size > _SMALL]


def norms(arrays: Sequence[Any]) -> np.ndarray:
    """The norm of each of the NDArrays, which are on one device."""
    if arrays[0].context.device_type == "cpu":  # BLAS takes a fifth of the time
        found = np.empty(len(arrays))
        # Gradients of the last layers are there first: what is done with them meanwhile takes no time of its own.
        for place in reversed(range(len(arrays))):
            found[place] = norm(host_view(arrays[place]))
        return found
    euclidean: np.ndarray = np.sqrt(mx.nd.multi_sum_sq(*arrays, num_arrays=len(arrays)).asnumpy())
    return euclidean
