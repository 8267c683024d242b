"""The engine of a job, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from common.engine.averaging import AGE
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
    ema_age: float = AGE,
    ranks: Ranks = ALONE,
    synchronised: bool = False,
) -> Engine:
    """The engine that computes `blocks`, whose parameters are on MXNet's `contexts`.

    name: "mxnet", on these contexts, or "torch", on `gpus` or, for none, the CPU, and always operator by operator.
    synchronised: BatchNorm goes by the whole batch, else by the rows of a context, or rank. ranks: as for
    `common.engine.torch.engine.TorchEngine`. Raises DeviceError.
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
            ema_age=ema_age,
            synchronised=synchronised,
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
            ema_age=ema_age,
            keep=lambda values: set_parameters(blocks.network, values),
            ranks=ranks,
            synchronised=synchronised,
        )
    except UnsupportedError as error:
        raise _cannot(error) from None


def open_inference(
    name: str, block: Any, contexts: Sequence[Any], gpus: Sequence[int], ranks: Ranks = ALONE
) -> Callable[[np.ndarray], Sequence[np.ndarray]]:
    """From uint8 images (B, H, W, 3) to the outputs of `block`, in float32, with the parameters that it has now: for
    what is looked at before there is an engine. name, contexts, gpus, ranks: as for `open_engine`. Raises DeviceError.
    """
    from common.engine.graph import trace
    from common.engine.inference import DeviceInference
    from common.engine.mxnet_internals import value_of

    if name == "mxnet":
        return DeviceInference(block, contexts)
    from common.engine.symbol import read_symbol
    from common.engine.torch.devices import set_up, torch_device
    from common.engine.torch.graph import TorchGraph
    from common.engine.torch.inference import TorchInference
    from common.engine.torch.tensors import tensors

    device = torch_device(own_gpus(gpus, ranks.place))
    set_up(device)
    try:
        graph = TorchGraph(read_symbol(trace(block, ["images"])[0].tojson()))
    except UnsupportedError as error:
        raise _cannot(error) from None
    parameters = block.collect_params()
    values = tensors({name: value_of(parameters[name]) for name in parameters})
    return TorchInference(graph, {name: value.to(device) for name, value in values.items()}, device)


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
