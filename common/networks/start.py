"""Parameters to begin with: a checkpoint's, those of a pretrained file, or the random ones of a network just made."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from mxnet import gluon

from common.config.reading import with_model
from common.config.sections import JobConfig
from common.engine.mxnet_internals import named_parameters
from common.engine.parameter_file import check_parameter_file
from common.engine.parameters import read_parameters, set_value
from common.errors import CheckpointError, PretrainedError
from common.networks.pretrained import find_parameters

N = TypeVar("N", bound=gluon.HybridBlock)


@dataclass(frozen=True)
class Pretrained:
    """What of a network begins at a parameter file.

    name: of the file, as `common.networks.pretrained.find_parameters` knows it. parameters: by their names there.
    optional: names that the file may lack; these parameters stay as they are. other_names: what some files call them.
    """

    name: str
    parameters: Mapping[str, gluon.Parameter]
    optional: Collection[str] = ()
    other_names: Mapping[str, str] = field(default_factory=dict)


#: From the model section of a configuration, and a checkpoint if there is one (it says how many outputs the network
#: has), to the network with random parameters, and where better ones come from if there is no checkpoint. Raises
#: ValueError for a network that cannot be.
Build = Callable[[Any, dict[str, Any] | None], tuple[N, Pretrained | None]]


def start(
    config: JobConfig, checkpoint: dict[str, Any] | None, build: Build[N]
) -> tuple[N, Any, frozenset[str]]:
    """A network with parameters to begin with, the model section that it was made by, and the names that a pretrained
    file had values for.

    A checkpoint says which network it is and has its parameters. Raises CheckpointError or PretrainedError.
    """
    if checkpoint is None:
        network, pretrained = build(config.model, None)
        return network, config.model, load(pretrained) if pretrained else frozenset()
    section = with_model(config, checkpoint["model"]).model
    try:
        network, _ = build(section, checkpoint)
    except ValueError as error:
        raise CheckpointError(f"the checkpoint's model: {error}") from None
    restore(network, checkpoint["parameters"])
    return network, section, frozenset()


@contextmanager
def named(key: str) -> Iterator[None]:
    """Errors of a checkpoint that a key of the configuration names begin with the key."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{key}: {error}") from None


def restore(network: gluon.HybridBlock, values: Mapping[str, np.ndarray]) -> None:
    """Give an initialised network a checkpoint's parameters. Raises CheckpointError if they do not fit."""
    named = named_parameters(network)
    if misfit := _misfit(named, values):
        raise CheckpointError(f"the checkpoint's parameters do not fit its network: {misfit}")
    for name, parameter in named.items():
        set_value(parameter, values[name])


def load(pretrained: Pretrained, path: Path | None = None) -> frozenset[str]:
    """Give initialised parameters the values of a file; returns the names that it has.

    path: of the file; found by its name unless given. Raises PretrainedError if it cannot be had, is no parameter file
    or one of another network.
    """
    path = path or find_parameters(pretrained.name)
    check_parameter_file(path)
    values = read_parameters(path)
    for name, other in pretrained.other_names.items():
        if other in values:
            values.setdefault(name, values[other])
    wanted = {
        name: parameter
        for name, parameter in pretrained.parameters.items()
        if name in values or name not in pretrained.optional
    }
    for name, parameter in wanted.items():
        # The last layer of some classifiers is a 1 x 1 convolution where it is a Dense layer here.
        if name in values and len(parameter.shape) == 2 and values[name].shape[2:] == (1, 1):
            values[name] = values[name][:, :, 0, 0]
    if misfit := _misfit(wanted, values):
        raise PretrainedError(f"{path}: parameters of another network: {misfit}")
    for name, parameter in wanted.items():
        set_value(parameter, values[name].astype(parameter.dtype))
    return frozenset(wanted)


def _misfit(wanted: Mapping[str, gluon.Parameter], values: Mapping[str, np.ndarray]) -> str | None:
    """Why values are not those of the parameters."""
    for name, parameter in wanted.items():
        if name not in values:
            return f"{name} {parameter.shape} is not among them"
        if values[name].shape != parameter.shape:
            return f"{name} is {values[name].shape}, not {parameter.shape}"
    return None
