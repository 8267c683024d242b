"""A network's parameters by name, out of it and into it."""

from __future__ import annotations

import mxnet as mx
import numpy as np
from mxnet import gluon


def parameters(network: gluon.HybridBlock) -> dict[str, np.ndarray]:
    """Parameters of a network by their structural name ("stages.0.1.weight"), the mean over its devices."""
    return {
        name: parameter._reduce().asnumpy()
        for name, parameter in network._collect_params_with_prefix().items()
    }


def set_parameters(network: gluon.HybridBlock, values: dict[str, np.ndarray]) -> None:
    """Give a network the parameters that `parameters` returned for one of the same structure. Raises KeyError."""
    for name, parameter in network._collect_params_with_prefix().items():
        parameter.set_data(mx.nd.array(values[name], dtype=values[name].dtype))
