"""What tasks on a base network share: recipe, parameters to begin with, rate multipliers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from mxnet import gluon

from common.config.network_sections import NetworkConfig, NetworkModelConfig, NetworkTrainConfig
from common.engine.devices import check_bfloat16
from common.engine.engine import OptimizerSettings
from common.engine.limits import limit_for
from common.engine.mxnet_internals import named_parameters
from common.networks.base_networks import imagenet, set_lr_multipliers, set_no_weight_decay
from common.networks.start import Build, Pretrained, start
from common.recipe import Recipe
from common.task import Task

C = TypeVar("C", bound=NetworkConfig)
N = TypeVar("N", bound=gluon.HybridBlock)


class NetworkTask(Task[C]):
    """A task on a base network, trained as `train` says."""

    @property
    def shape(self) -> tuple[int, int]:
        return self.config.train.input_width, self.config.train.input_height

    def start(
        self,
        checkpoint: dict[str, Any] | None,
        make: Callable[[NetworkModelConfig, dict[str, Any] | None], N],
    ) -> tuple[N, frozenset[str]]:
        """The network with parameters to begin with, and the names of its pretrained layers, for `set_multipliers`.

        make: the network that a model section describes, with random parameters. Raises CheckpointError or
        PretrainedError. What descends from pretrained parameters stays pretrained through checkpoints: a training taken
        up again goes on at the rates at which it began.
        """
        network, _, pretrained = start(self.config, checkpoint, with_imagenet(make))
        if checkpoint and self.config.model.use_pretrained:
            names = named_parameters(network)
            pretrained = frozenset(name for name in names if name.startswith("features."))
        return network, pretrained

    def recipe(self, on_gpu: bool) -> Recipe:
        train = self.config.train
        if train.dtype == "bfloat16":
            check_bfloat16("train.dtype", "take float32")
        return replace(
            super().recipe(on_gpu),
            optimizer=OptimizerSettings(train.optimizer, train.lr, train.momentum, train.wd),
            limit=limit_for(train.optimizer),
            compiled=train.mode == "hybrid",
            precision=train.dtype,
        )


def with_imagenet(
    make: Callable[[NetworkModelConfig, dict[str, Any] | None], N],
) -> Build[N]:
    """`make`, with ImageNet's parameters for the layers of the base network if the model section asks for them."""

    def build(section: NetworkModelConfig, checkpoint: dict[str, Any] | None) -> tuple[N, Pretrained | None]:
        network = make(section, checkpoint)
        asked = section.use_pretrained and checkpoint is None
        return network, imagenet(network, section.parameters_name) if asked else None

    return build


def variants(model: NetworkModelConfig) -> dict[str, bool]:
    """The options of `common.networks.base_networks.base_features`."""
    return {
        "use_gn": model.use_gn,
        "batch_norm": model.batch_norm,
        "use_se": model.use_se,
        "last_gamma": model.last_gamma,
    }


def set_multipliers(
    network: gluon.HybridBlock, pretrained: frozenset[str], train: NetworkTrainConfig
) -> None:
    """transfer_lr_mult for pretrained layers and output_lr_mult for the others, and no_wd.

    Where nothing is pretrained, the multipliers are 1. Call it when the network has its final layers.
    """
    set_lr_multipliers(network, pretrained, train.transfer_lr_mult, train.output_lr_mult)
    if train.no_wd:
        set_no_weight_decay(network)
