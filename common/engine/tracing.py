"""From MXNet's blocks to what another engine computes."""

from __future__ import annotations

from typing import Any

import mxnet as mx

from common.engine.engine import Blocks
from common.engine.graph import trace
from common.engine.mxnet_internals import named_parameters, value_of
from common.engine.torch.program import Parameter, Program


def program(blocks: Blocks) -> Program:
    """The graphs of blocks, with the values that their parameters have now."""
    names = {parameter: name for name, parameter in named_parameters(blocks.training).items()}
    own: dict[Any, list[str]] = {}
    for name, parameter in named_parameters(blocks.network).items():
        own.setdefault(parameter, []).append(name)
    every = {**dict(blocks.inference.collect_params()), **dict(blocks.training.collect_params())}
    parameters = {
        name: Parameter(
            value_of(parameter),
            names.get(parameter, name),
            own.get(parameter, ()),
            trained=parameter.grad_req != "null",
            begins_at_0=begins_at_0(parameter),
            lr_mult=float(parameter.lr_mult),
            wd_mult=float(parameter.wd_mult),
        )
        for name, parameter in every.items()
    }
    training = trace(blocks.training, blocks.inputs)[0].tojson()
    return Program(training, list(blocks.inputs), trace(blocks.inference, ["images"])[0].tojson(), parameters)


def begins_at_0(parameter: Any) -> bool:
    """Whether a parameter is made to begin at 0."""
    return parameter.init == "zeros" or isinstance(parameter.init, mx.init.Zero)
