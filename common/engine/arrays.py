"""From MXNet's arrays to NumPy's and back."""

from __future__ import annotations

import ctypes
from typing import Any

import mxnet as mx
import numpy as np
from mxnet.base import _LIB, check_call


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
    """The numbers of an NDArray in the CPU's memory, without a copy, to be read before MXNet writes to them again.

    The view does not keep the array alive. Where an inference has brought the numbers into an order of oneDNN's own,
    they are brought back. DLPack, which is the standard for this, has MXNet call back into Python when the view ends:
    an exception that a signal raises there is lost.
    """
    array.wait_to_read()
    address = ctypes.c_void_p()
    check_call(_LIB.MXNDArrayGetData(array.handle, ctypes.byref(address)))
    dtype = np.dtype(array.dtype)
    memory = (ctypes.c_char * (array.size * dtype.itemsize)).from_address(address.value)
    numbers: np.ndarray = np.ndarray(array.shape, dtype, memory)
    numbers.flags.writeable = False
    return numbers
