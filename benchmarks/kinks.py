"""Gradients of a network with ReLUs and max pooling, with every activation on a given side of its kink.

Such a gradient is not continuous: where rounding puts an activation on the other side of 0 (or of 6, for a ReLU6), or
makes another one the largest of those that are pooled, it has another value. Here MXNet's engine is asked on which side
each activation is, and which are the largest, and PyTorch's engine computes with that, in float32 or float64.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from common.task import Inputs

RELUS = ("relu", "leaky")
KINKS = ("Activation", "LeakyReLU", "relu", "clip", "Pooling")

Sides = dict[str, Any]
"""By the name of a node with a kink: on which side of it each number is; True: where it goes through unchanged. By that
of a max pooling: the numbers that it has chosen from."""


def sides_by_mxnet(traced: Any, blocks: Any, batch: Inputs) -> Sides:
    """Those of the graph that MXNet's engine trains."""
    import mxnet as mx

    from common.engine.graph import trace
    from common.engine.training_graph import for_training

    def kinks(document: str) -> list[dict[str, Any]]:
        """Nodes with one, in their order; MXNet's own form of a ReLU6 has one more."""
        return [
            node
            for node in json.loads(document)["nodes"]
            if node["op"] in KINKS
            and node["op"] != "clip"
            and node.get("attrs", {}).get("act_type", "relu") in RELUS
            and node.get("attrs", {}).get("pool_type", "max") == "max"
            and not node["name"].endswith("_beyond")
        ]

    # Every trace gives nodes other names; their order is the same.
    symbol = trace(blocks.training, blocks.inputs, "float32", "cpu")[0]
    named = dict(
        zip(
            (node["name"] for node in kinks(traced.training)),
            (node["name"] for node in kinks(symbol.tojson())),
            strict=True,
        )
    )
    nodes = json.loads(traced.training)["nodes"]
    asked: dict[str, tuple[str, dict[str, str]]] = {name: (other, {}) for name, other in named.items()}
    for node in nodes:
        source = nodes[node["inputs"][0][0]]["name"] if node["op"] == "clip" else ""
        if source in named:
            asked[node["name"]] = named[source], node["attrs"]
    theirs = json.loads(symbol.tojson())["nodes"]
    before = {node["name"]: theirs[node["inputs"][0][0]]["name"] for node in theirs if node["inputs"]}
    pools = {node["name"] for node in nodes if node["op"] == "Pooling"}
    asked |= {name: (before[named[name]], {}) for name in named if name in pools}
    # A ReLU may be part of the BatchNorm before it there.
    symbol = for_training(symbol, "cpu").get_internals()
    outputs = set(symbol.list_outputs())
    asked = {
        name: (source if f"{source}_output" in outputs else before[source], attributes)
        for name, (source, attributes) in asked.items()
    }
    group = mx.sym.Group([symbol[f"{source}_output"] for source, _ in asked.values()])
    parameters = blocks.training.collect_params()
    given = {
        name: mx.nd.array(array, dtype=array.dtype)
        for name, array in zip(blocks.inputs, [*batch.split, *batch.shared], strict=True)
    }
    values = {
        name: parameters[name].data().copy()
        for name in (*group.list_arguments(), *group.list_auxiliary_states())
        if name not in given
    }
    auxiliary = {name: values[name] for name in group.list_auxiliary_states()}
    first = next(name for name in group.list_arguments() if name not in given)
    executor = group.bind(
        mx.cpu(),
        {**values, **given},
        # Without any gradient it would take running statistics.
        args_grad={first: mx.nd.zeros_like(values[first])},
        grad_req={name: "write" if name == first else "null" for name in (*values, *given)},
        aux_states=auxiliary,
    )
    found: Sides = {}
    for (name, (_, attributes)), array in zip(asked.items(), executor.forward(is_train=True), strict=True):
        numbers = array.asnumpy()
        low, high = (float(attributes.get(key, default)) for key, default in (("a_min", 0), ("a_max", "inf")))
        found[name] = numbers if name in pools else (numbers > low) & (numbers < high)
    return found


def on_another_side(one: Sides, other: Sides) -> float:
    """The share of activations that have another side."""
    pairs = [(np.asarray(side), np.asarray(other[name])) for name, side in one.items()]
    sides = [(a, b) for a, b in pairs if a.dtype == bool]
    return sum(int((a != b).sum()) for a, b in sides) / sum(a.size for a, _ in sides)


def by_torch(
    traced: Any, batch: Inputs, sides: Sides, *, held: bool, dtype: str = "float32"
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Losses and gradients. held: with every activation on its side of `sides`; else they are noted there."""
    import torch

    from common.engine.symbol import read_symbol
    from common.engine.torch.graph import TorchGraph
    from common.engine.torch.operators import OPERATORS, Pass

    def noting(operator: Any, kind: str) -> Any:
        def make(call: Any) -> Any:
            attributes = call.attributes
            low, high = (float(attributes.get(key, d)) for key, d in (("a_min", 0.0), ("a_max", "inf")))
            slope = float(attributes.get("slope", 0.0)) if kind == "LeakyReLU" else 0.0
            plain = operator.make(call)

            def note(x: Any) -> Any:
                sides[call.name] = x.detach() if kind == "Pooling" else ((x > low) & (x < high)).detach()
                return plain(x)

            def keep(x: Any) -> Any:
                side = torch.as_tensor(sides[call.name])
                if kind == "Pooling":  # its derivative there says which it takes
                    return torch.func.jvp(plain, (side.to(x.dtype),), (x,))[1]
                beyond = slope * x if slope else x.detach().clamp(low, high)
                return torch.where(side, x, beyond)

            if attributes.get("act_type", "relu") not in RELUS or attributes.get("pool_type", "max") != "max":
                return plain
            return (lambda x: keep(x) if call.name in sides else plain(x)) if held else note

        return replace(operator, make=make)

    before = {name: OPERATORS[name] for name in KINKS}
    number = getattr(torch, dtype)
    torch.set_default_dtype(number)
    OPERATORS.update({name: noting(operator, name) for name, operator in before.items()})
    try:
        graph = TorchGraph(read_symbol(traced.training))
        values = {name: torch.from_numpy(p.value.copy()).to(number) for name, p in traced.parameters.items()}
        for name, array in zip(traced.inputs, [*batch.split, *batch.shared], strict=True):
            values[name] = torch.from_numpy(array) if name == "images" else torch.from_numpy(array).to(number)
        asked = [values[name].requires_grad_() for name, p in traced.parameters.items() if p.trained]
        losses = graph(values, Pass(True), torch.device("cpu"))
        found = torch.autograd.grad(losses[0].sum(), asked)
        return np.array([float(loss.detach().mean()) for loss in losses]), [
            gradient.double().numpy() for gradient in found
        ]
    finally:
        OPERATORS.update(before)
        torch.set_default_dtype(torch.float32)


def apart(one: Sequence[np.ndarray], other: Sequence[np.ndarray], of: Sequence[np.ndarray]) -> float:
    """The norm of a difference as a share of a norm."""
    squares = sum(float(np.square(a - b).sum()) for a, b in zip(one, other, strict=True))
    return float((squares / sum(float(np.square(each).sum()) for each in of)) ** 0.5)
