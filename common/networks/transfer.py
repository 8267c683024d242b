"""What tasks on a base network share: optimizer, parameters to begin with, rate multipliers, precision."""

from __future__ import annotations

import logging
from typing import Any, TypeVar

import mxnet as mx
from mxnet import gluon

from common.config.network_sections import NetworkConfig, NetworkModelConfig, NetworkTrainConfig
from common.engine.devices import bfloat16_supported
from common.engine.limits import GradientLimit, RateLimit, StepLimit
from common.engine.optimizers import BY_RATE, PROPORTIONAL, create
from common.engine.parameters import set_parameters
from common.errors import CheckpointError, DeviceError
from common.networks.base_networks import load_pretrained, set_lr_multipliers, set_no_weight_decay
from common.networks.pretrained import find_parameters
from common.task import Task

log = logging.getLogger("visualtl")

N = TypeVar("N", bound=NetworkConfig)


class NetworkTask(Task[N]):
    """A task on a base network, trained as `train` says."""

    @property
    def shape(self) -> tuple[int, int]:
        return self.config.train.input_width, self.config.train.input_height

    def optimizer(self) -> Any:
        return make_optimizer(self.config.train)

    def limit(self) -> StepLimit | None:
        return make_limit(self.config.train)

    def compiled(self) -> bool:
        return self.config.train.mode == "hybrid"

    def precision(self, on_gpu: bool) -> str:
        return precision(self.config.train)


def make_optimizer(train: NetworkTrainConfig) -> Any:
    """The optimizer that `train` names, with its weight decay, and its momentum where it has one."""
    return create(train.optimizer, train.lr, train.momentum, train.wd)


def make_limit(train: NetworkTrainConfig) -> StepLimit | None:
    """The limit on steps that suits the optimizer; None for one that sets the length of its steps by itself."""
    if train.optimizer in PROPORTIONAL:
        return GradientLimit()
    return RateLimit() if train.optimizer in BY_RATE else None


def precision(train: NetworkTrainConfig) -> str:
    """Type of the operators that gain from it. Raises DeviceError where the processor has no bfloat16."""
    if train.dtype == "bfloat16" and not bfloat16_supported():
        raise DeviceError(
            "train.dtype: bfloat16 asked for, but this processor does not multiply it "
            "(it has neither avx512_bf16 nor amx_bf16); take float32"
        )
    return train.dtype


def variants(model: NetworkModelConfig) -> dict[str, bool]:
    """The options of `common.networks.base_networks.base_features`."""
    return {
        "use_gn": model.use_gn,
        "batch_norm": model.batch_norm,
        "use_se": model.use_se,
        "last_gamma": model.last_gamma,
    }


def load_base(network: gluon.HybridBlock, model: NetworkModelConfig) -> frozenset[str]:
    """Load ImageNet parameters into `features` of an initialised network.

    Returns the names of what was loaded. Raises PretrainedError, which names file and folder,
    if there are none that fit.
    """
    path = find_parameters(model.parameters_name)
    return load_pretrained(network, path)


def restore(network: gluon.HybridBlock, parameters: dict[str, Any]) -> None:
    """Give an initialised network a checkpoint's parameters. Raises CheckpointError if they do not fit."""
    try:
        set_parameters(network, parameters)
    except (KeyError, ValueError, AssertionError, AttributeError, mx.MXNetError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(f"the checkpoint's parameters do not fit its network: {reason}") from None


def fill(
    network: gluon.HybridBlock, model: NetworkModelConfig, checkpoint: dict[str, Any] | None
) -> frozenset[str]:
    """Parameters for an initialised network: the checkpoint's, ImageNet's, or those it has.

    model: of the configuration, or with a checkpoint the one in it. Returns the names of the pretrained
    layers, for `set_multipliers`. What descends from pretrained parameters stays pretrained through
    checkpoints: a training taken up again goes on at the rates at which it began.
    """
    if checkpoint:
        restore(network, checkpoint["parameters"])
        names = network._collect_params_with_prefix() if model.use_pretrained else ()
        return frozenset(name for name in names if name.startswith("features."))
    return load_base(network, model) if model.use_pretrained else frozenset()


def set_multipliers(
    network: gluon.HybridBlock, pretrained: frozenset[str], train: NetworkTrainConfig
) -> None:
    """transfer_lr_mult for pretrained layers and output_lr_mult for the others, and no_wd.

    Where nothing is pretrained, the multipliers are 1. Call it when the network has its final layers.
    """
    set_lr_multipliers(network, pretrained, train.transfer_lr_mult, train.output_lr_mult)
    if train.no_wd:
        set_no_weight_decay(network)
