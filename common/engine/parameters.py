"""A network's parameters by name, out of it and into it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import mxnet as mx
import numpy as np
from mxnet import gluon

from common.engine.mxnet_internals import named_parameters, value_of


def parameters(network: gluon.HybridBlock) -> dict[str, np.ndarray]:
    """Parameters of a network by their structural name ("stages.0.1.weight"), the mean over its devices."""
    return {name: value_of(parameter) for name, parameter in named_parameters(network).items()}


def set_parameters(network: gluon.HybridBlock, values: Mapping[str, np.ndarray]) -> None:
    """Give a network the parameters that `parameters` returned for one of the same structure. Raises KeyError."""
    for name, parameter in named_parameters(network).items():
        set_value(parameter, values[name])


def read_parameters(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a parameter file by name, as `check_parameter_file` has let it pass; without "arg:" and "aux:"."""
    arrays = mx.nd.load(str(path))
    return {key.removeprefix("arg:").removeprefix("aux:"): value.asnumpy() for key, value in arrays.items()}


def set_value(parameter: gluon.Parameter, value: np.ndarray) -> None:
    """Give a parameter a value, on all of its devices."""
    parameter.set_data(mx.nd.array(value, dtype=value.dtype))
