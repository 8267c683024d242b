"""Members that MXNet and Gluon keep to themselves: whatever uses one of them is in this module."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import mxnet as mx
import numpy as np
from mxnet import gluon
from mxnet.base import _LIB, check_call

# Parameters


def named_parameters(block: gluon.Block) -> dict[str, gluon.Parameter]:
    """Parameters of a block by their structural name ("stages.0.1.weight").

    Gluon's own names count the layers that were made, those that others have replaced since included.
    """
    parameters: dict[str, gluon.Parameter] = block._collect_params_with_prefix()
    return parameters


def value_of(parameter: gluon.Parameter) -> np.ndarray:
    """A parameter's value, the mean over its devices."""
    # An operator that reads a weight may lay it out anew, on a thread of MXNet's; who reads it meanwhile may crash.
    mx.nd.waitall()
    value: np.ndarray = parameter._reduce().asnumpy()
    return value


def finish_initialisation(parameter: gluon.Parameter) -> None:
    """Give a parameter whose shape has become known since it was initialised its values."""
    parameter._finish_deferred_init()


def mark_fresh(parameter: gluon.Parameter, context: Any) -> None:
    """Tell a trainer that the parameter's gradient is a new one, as autograd would."""
    parameter.data(context)._fresh_grad = True


# Layers


def children(block: gluon.Block) -> dict[str, gluon.Block]:
    """The layers of a block by name; what is changed in the dictionary is changed in the block."""
    layers: dict[str, gluon.Block] = block._children
    return layers


def descendants(block: gluon.Block) -> Iterator[gluon.Block]:
    """All layers below a block."""
    for child in children(block).values():
        yield child
        yield from descendants(child)


def operator_options(layer: gluon.Block) -> dict[str, Any]:
    """The attributes of the operator that a layer is (BatchNorm, Convolution); they may be changed."""
    options: dict[str, Any] = layer._kwargs
    return options


def drop_nothing(layer: gluon.nn.Dropout) -> None:
    """Let a dropout pass everything."""
    layer._rate = 0


def forget_graph(block: gluon.HybridBlock) -> None:
    """Let a block trace its graph anew, for it has changed since shapes were inferred."""
    block._clear_cached_op()


# Optimizers


def optimizer_states(trainer: gluon.Trainer) -> list[Any]:
    """What a trainer keeps for its optimizer, by device: `states` and `states_synced` by parameter's index."""
    updaters: list[Any] = trainer._updaters
    return updaters


def update_counts(optimizer: Any, context: Any | None = None) -> dict[int, int]:
    """Updates by parameter's index; of the device that comes next to be updated unless another is named."""
    if context is not None:
        optimizer._set_current_context(context.device_id)
    counts: dict[int, int] = optimizer._index_update_count
    return counts


# Arrays


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
