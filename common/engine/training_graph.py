"""Forward and backward of a training step on one device: as one compiled graph, or operator by operator."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from typing import Any

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon

from common.engine.arrays import on_device
from common.engine.devices import return_memory
from common.engine.graph import trace
from common.engine.mxnet_internals import mark_fresh

# Shapes of batches that executors are kept for. Another one takes some 20 ms to make.
_MOST_SHAPES = 32


class TrainingStep(ABC):
    """From a batch to losses, and back to the gradients of a block's parameters, on one device.

    Every device must `take` its part of the batch before any computes: layers that share statistics hold a device up
    until all others have come as far. Gradients of the first output's sum, times the scale that `backward` is given,
    are put where the parameters keep theirs.
    """

    @abstractmethod
    def take(self, arrays: Sequence[Any]) -> None:
        """Make ready to compute with these inputs, NDArrays of the device or NumPy arrays; for these it waits for what
        the device is at."""

    @abstractmethod
    def forward(self) -> Sequence[Any]:
        """Losses (B,) of what was taken, as NDArrays, which hold until the next call. Waits for nothing."""

    @abstractmethod
    def backward(self, scale: float) -> None:
        """Gradients of the last `forward`."""


class TrainingGraph(TrainingStep):
    """A block traced into one operator graph for both ways.

    Memory is planned for both at once: what no later operator needs is used again, and maps that take little time are
    computed a second time (see `for_training`). All shapes of batches share the memory of the largest one. inputs,
    precision, sharing: as for `common.engine.graph.trace`. most_shapes: that are kept ready.
    """

    def __init__(
        self,
        block: gluon.HybridBlock,
        inputs: Sequence[str],
        context: Any,
        precision: str = "float32",
        most_shapes: int = _MOST_SHAPES,
        sharing: int = 1,
    ) -> None:
        self._most_shapes = most_shapes
        self._symbol = for_training(
            trace(block, inputs, precision, context.device_type, sharing)[0], context.device_type
        )
        self._inputs = list(inputs)
        self._parameters = block.collect_params()
        self._trained = [
            name
            for name in self._symbol.list_arguments()
            if name in self._parameters and self._parameters[name].grad_req != "null"
        ]
        self._context = context
        self._executors: dict[tuple[tuple[int, ...], ...], Any] = {}
        self._largest: Any = None
        self._largest_size = 0
        self._current: Any = None

    def take(self, arrays: Sequence[Any]) -> None:
        self._current = self._executor(arrays)
        for name, array in zip(self._inputs, arrays, strict=True):
            self._current.arg_dict[name][:] = array

    def forward(self) -> Sequence[Any]:
        outputs: Sequence[Any] = self._current.forward(is_train=True)
        return outputs

    def backward(self, scale: float) -> None:
        self._current.backward([mx.nd.full(o.shape, scale, ctx=self._context) for o in self._current.outputs])
        for name in self._trained:  # autograd would say so to the trainer
            mark_fresh(self._parameters[name], self._context)

    def _executor(self, arrays: Sequence[Any]) -> Any:
        """The graph bound to memory for arrays of these shapes."""
        shapes = tuple(array.shape for array in arrays)
        if shapes not in self._executors:
            size = sum(math.prod(array.shape) * np.dtype(array.dtype).itemsize for array in arrays)
            if size > self._largest_size:  # the memory of the others is given back before it takes its own
                self._executors.clear()
                self._largest = self._current = None
                mx.nd.waitall()  # what goes with them is deleted by MXNet's threads
                return_memory()
            elif len(self._executors) == self._most_shapes:
                self._executors.popitem()
            self._executors[shapes] = self._bind(arrays)
            if self._largest is None:
                self._largest, self._largest_size = self._executors[shapes], size
        return self._executors[shapes]

    def _bind(self, arrays: Sequence[Any]) -> Any:
        arguments = {
            name: mx.nd.empty(array.shape, ctx=self._context, dtype=array.dtype)
            for name, array in zip(self._inputs, arrays, strict=True)
        }
        values = {
            name: self._parameters[name].data(self._context)
            for name in (*self._symbol.list_arguments(), *self._symbol.list_auxiliary_states())
            if name not in arguments
        }
        return self._symbol.bind(
            self._context,
            {**values, **arguments},
            args_grad={name: self._parameters[name].grad(self._context) for name in self._trained},
            grad_req={name: "write" if name in self._trained else "null" for name in (*values, *arguments)},
            aux_states=values,
            shared_exec=self._largest,
        )


class RecordedStep(TrainingStep):
    """A block that runs operator by operator."""

    def __init__(self, block: gluon.HybridBlock, context: Any) -> None:
        self._block = block
        self._context = context
        self._arrays: Sequence[Any] = ()
        self._outputs: Sequence[Any] = ()

    def take(self, arrays: Sequence[Any]) -> None:
        self._arrays = on_device(list(arrays), self._context)

    def forward(self) -> Sequence[Any]:
        with autograd.record():
            outputs = self._block(*self._arrays)
        self._outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        return self._outputs

    def backward(self, scale: float) -> None:
        total = self._outputs[0]
        autograd.backward(total, mx.nd.full(total.shape, scale, ctx=self._context))


def for_training(symbol: Any, device: str) -> Any:
    """The graph with gradients of its first output alone, and marks on what is computed again on the way back.

    Those are LeakyReLUs and, on the CPU, the BatchNorms before them, which have two maps a layer to keep otherwise;
    that takes 2 % of a step. A ReLU's map takes the place of its BatchNorm's. On GPUs a BatchNorm moves its running
    statistics whenever it computes, and would move them twice a step.

    On the CPU a BatchNorm in float32 and the ReLU behind it are one operator: maps are read and written once instead of
    twice (a ninth of a step of SSD mobilenet1.0). In bfloat16 that takes longer.
    """
    first, *others = symbol
    document = json.loads(mx.sym.Group([first, *map(mx.sym.BlockGrad, others)]).tojson(remove_amp_cast=False))
    nodes = document["nodes"]
    for node in nodes:
        before = nodes[node["inputs"][0][0]] if node["op"] == "LeakyReLU" else None
        if before and before["op"] == "BatchNorm":
            for again in (node, before) if device == "cpu" else (node,):
                again.setdefault("attrs", {})["__force_mirroring__"] = "True"
    if device == "cpu":
        _join_relus(document)
    return mx.sym.load_json(json.dumps(document))


def _join_relus(document: dict[str, Any]) -> None:
    """Make one operator of a BatchNorm behind a float32 convolution and the ReLU that alone sees its map, in JSON.

    Elsewhere the operator may be wrong without a word: between the sums of CenterNet's deformable layers, which lie in
    memory as they come, and a deconvolution, whose gradient lies in blocks, its gradients were off by 97 %.
    """
    nodes = document["nodes"]
    entries = [entry for node in nodes for entry in node["inputs"]] + document["heads"]
    users = Counter(entry[0] for entry in entries)
    joined: dict[int, int] = {}
    for index, node in enumerate(nodes):
        if node["op"] == "Activation" and node["attrs"]["act_type"] == "relu":
            norm = node["inputs"][0][0]
            source = nodes[nodes[norm]["inputs"][0][0]] if nodes[norm]["op"] == "BatchNorm" else node
            behind = source["op"] == "Convolution" and nodes[source["inputs"][1][0]]["op"] != "amp_cast"
            if behind and users[norm] == 1:
                nodes[norm]["op"] = "_contrib_BatchNormWithReLU"
                joined[index] = norm
    for entry in entries:
        entry[0] = joined.get(entry[0], entry[0])
