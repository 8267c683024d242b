"""The teacher of a distillation: an ImageNet classifier, or what an earlier job of the same task trained."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mxnet import gluon

from classification.networks import transfer_classes
from common.config.network_names import BASE_NETWORKS, parameters_name
from common.config.network_sections import NetworkConfig
from common.config.sections import with_model
from common.errors import CheckpointError
from common.networks.base_networks import base_network, freeze, initialize, load_pretrained
from common.networks.pretrained import find_parameters
from common.networks.transfer import restore, variants
from common.training.checkpoint import classes_of, read_checkpoint

log = logging.getLogger("visualtl")

#: Classes of a published ImageNet classifier.
_IMAGENET = 1000

#: Makes a network with random parameters: name, number of outputs, contexts, variants.
Build = Callable[..., gluon.HybridBlock]


def make_teacher(
    config: NetworkConfig, task: str, classes: Sequence[str], contexts: Sequence[Any], build: Build
) -> tuple[gluon.HybridBlock, bool]:
    """The network that `train.teacher` names, as a constant, and whether its outputs are `classes`.

    A checkpoint must be one of `task`, whose networks `build` makes. One that knows all of `classes` answers
    for them, in their order; of another one all answers are learnt from.
    Raises PretrainedError or CheckpointError if there is no such network.
    """
    given = config.train.teacher
    assert given is not None
    if given in BASE_NETWORKS:
        network = base_network(given, _IMAGENET)
        initialize(network, contexts)
        load_pretrained(network, find_parameters(parameters_name(given)), with_output=True)
        same, what = False, f"{given}, trained on ImageNet"
    else:
        network, name, known = _trained(config, task, Path(given), contexts, build)
        same = set(known) >= set(classes)
        if same and known != list(classes):
            transfer_classes(network, known, classes)
        what = f"{name} of {given}, which knows {'all' if same else 'not all'} of the classes"
    freeze(network)
    log.info("Teacher: %s", what)
    return network, same


def _trained(
    config: NetworkConfig, task: str, path: Path, contexts: Sequence[Any], build: Build
) -> tuple[gluon.HybridBlock, str, list[str]]:
    try:
        checkpoint = read_checkpoint(
            path, task, ("classes", "model", "parameters"), arrays_of=("parameters",)
        )
        model = with_model(config, checkpoint["model"]).model
        known = classes_of(checkpoint)
        network = build(model.base_network, len(known), contexts, **variants(model))
        restore(network, checkpoint["parameters"])
    except (CheckpointError, ValueError) as error:  # ValueError: a variant that the network does not have
        raise CheckpointError(f"train.teacher: {error}") from None
    return network, model.base_network, known
