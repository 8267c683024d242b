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
from common.networks.base_networks import base_network, freeze, imagenet, initialize
from common.networks.start import load, named, start
from common.networks.transfer import variants
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
        load(imagenet(network, parameters_name(given), with_output=True))
        same, what = False, f"{given}, trained on ImageNet"
    else:
        with named("train.teacher"):
            checkpoint = read_checkpoint(
                Path(given), task, ("classes", "model", "parameters"), arrays_of=("parameters",)
            )
            known = classes_of(checkpoint)
            network, section, _ = start(
                config,
                checkpoint,
                lambda section, _: (
                    build(section.base_network, len(known), contexts, **variants(section)),
                    None,
                ),
            )
        same = set(known) >= set(classes)
        if same and known != list(classes):
            transfer_classes(network, known, classes)
        what = f"{section.base_network} of {given}, which knows {'all' if same else 'not all'} of the classes"
    freeze(network)
    log.info("Teacher: %s", what)
    return network, same
