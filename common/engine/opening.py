"""The engine of a job, by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from common.engine.devices import own_gpus
from common.engine.engine import Blocks, Engine, OptimizerSettings
from common.engine.limits import StepLimit
from common.engine.symbol import UnsupportedError
from common.errors import DeviceError
from common.ranks.ranks import ALONE, Ranks


def open_engine(
    name: str,
    blocks: Blocks,
    contexts: Sequence[Any],
    gpus: Sequence[int],
    optimizer: OptimizerSettings,
    *,
    precision: str,
    limit: StepLimit | None,
    compiled: bool,
    ema_decay: float,
    ranks: Ranks = ALONE,
    synchronised: bool = False,
) -> Engine:
    """The engine that computes `blocks`, whose parameters are on MXNet's `contexts`.

    name: "mxnet", on these contexts, or "torch", on `gpus` or, for none, the CPU, and always operator by operator.
    ranks, synchronised: as for `common.engine.torch.engine.TorchEngine`; MXNet's blocks know themselves whether their
    devices' BatchNorms are. Raises DeviceError.
    """
    if name == "mxnet":
        from common.engine.mxnet_engine import MXNetEngine

        return MXNetEngine(
            blocks,
            contexts,
            optimizer,
            precision=precision,
            limit=limit,
            compiled=compiled,
            ema_decay=ema_decay,
        )
    from common.engine.parameters import set_parameters
    from common.engine.torch.devices import torch_device
    from common.engine.torch.engine import TorchEngine
    from common.engine.tracing import program

    try:
        return TorchEngine(
            program(blocks),
            torch_device(own_gpus(gpus, ranks.place)),
            optimizer,
            precision=precision,
            limit=limit,
            ema_decay=ema_decay,
            keep=lambda values: set_parameters(blocks.network, values),
            ranks=ranks,
            synchronised=synchronised,
        )
    except UnsupportedError as error:
        raise _cannot(error) from None


def check_graphs(blocks: Blocks) -> None:
    """Raise DeviceError unless PyTorch's engine knows every operator of `blocks`."""
    from common.engine.symbol import read_symbol
    from common.engine.torch.graph import TorchGraph
    from common.engine.tracing import program

    traced = program(blocks)
    try:
        for text in (traced.training, traced.inference):
            TorchGraph(read_symbol(text))
    except UnsupportedError as error:
        raise _cannot(error) from None


def _cannot(error: UnsupportedError) -> DeviceError:
    return DeviceError(f"engine: PyTorch cannot compute this network: {error}; engine: mxnet can")
