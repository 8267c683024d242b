"""A symbol of MXNet as what PyTorch computes, operator by operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from common.engine.symbol import Attributes, Symbol, UnsupportedError
from common.engine.torch.operators import OPERATORS, Call, Operator, Pass

_LOW = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class _Step:
    """A node: what it computes, from which places to which, and which places nobody needs afterwards.

    full: its inputs are brought to float32. source: it has no inputs, and is told the device instead.
    """

    name: str
    compute: Callable[..., Any]
    stateful: bool
    full: bool
    source: bool
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    done: tuple[int, ...]


class TorchGraph:
    """Computes a symbol. names: of its inputs and parameters. Raises UnsupportedError, naming what it does not know."""

    def __init__(self, symbol: Symbol) -> None:
        nodes, needed = symbol.nodes, _needed(symbol)
        unknown = sorted({nodes[i].op for i in needed if nodes[i].op not in (*OPERATORS, "null")})
        if unknown:
            first = next(nodes[i].name for i in needed if nodes[i].op == unknown[0])
            raise UnsupportedError(
                f"operators that PyTorch's engine does not know: {', '.join(unknown)} ({first})"
            )
        place: dict[tuple[int, int], int] = {}
        for index in needed:
            for output in range(_outputs(symbol, index)):
                place[index, output] = len(place)
        self.names = [nodes[index].name for index in needed if nodes[index].op == "null"]
        self._given = [(nodes[i].name, place[i, 0]) for i in needed if nodes[i].op == "null"]
        self._heads = [place[head] for head in symbol.heads]
        self._places = len(place)
        last = {place[entry]: index for index in needed for entry in nodes[index].inputs}
        kept = set(self._heads)
        self._steps = []
        for index in needed:
            node = nodes[index]
            if node.op == "null":
                continue
            entry, compute = OPERATORS[node.op], _make(symbol, index)
            inputs = tuple(place[source] for source in node.inputs)
            outputs = tuple(place[index, output] for output in range(_outputs(symbol, index)))
            unused = {number for number in outputs if number not in last}
            done = {number for number in inputs if last[number] == index} | unused
            self._steps.append(
                _Step(
                    node.name,
                    compute,
                    entry.stateful,
                    entry.precision == "full",
                    not inputs,
                    inputs,
                    outputs,
                    tuple(done - kept),
                )
            )

    def __call__(
        self,
        values: Mapping[str, Tensor],
        run: Pass,
        device: torch.device,
        precision: torch.dtype | None = None,
    ) -> list[Tensor]:
        """Outputs of the symbol for inputs and parameters by name. precision: of what gains from a lower one; None:
        everything in float32."""
        with torch.autocast(device.type, precision, enabled=precision is not None):
            return self._run(values, run, device, precision is not None)

    def _run(
        self, values: Mapping[str, Tensor], run: Pass, device: torch.device, mixed: bool
    ) -> list[Tensor]:
        places: list[Any] = [None] * self._places
        for name, number in self._given:
            places[number] = values[name]
        for step in self._steps:
            given = [places[number] for number in step.inputs]
            if mixed and step.full:
                given = [x.float() if x.dtype in _LOW else x for x in given]
            if step.source:
                given.append(device)
            made = step.compute(run, *given) if step.stateful else step.compute(*given)
            if isinstance(made, list):
                for number, value in zip(step.outputs, made, strict=False):
                    places[number] = value
            else:
                places[step.outputs[0]] = made
            for number in step.done:
                places[number] = None
        return [places[number] for number in self._heads]


def _needed(symbol: Symbol) -> list[int]:
    """Nodes that the outputs depend on, in an order of computation."""
    wanted: set[int] = set()
    left = [index for index, _ in symbol.heads]
    while left:
        index = left.pop()
        if index not in wanted:
            wanted.add(index)
            left.extend(source for source, _ in symbol.nodes[index].inputs)
    return sorted(wanted)


def _outputs(symbol: Symbol, index: int) -> int:
    """Outputs of a node that anybody asks for."""
    asked = [output for node in symbol.nodes for source, output in node.inputs if source == index]
    asked += [output for source, output in symbol.heads if source == index]
    return max(asked, default=0) + 1


def _make(symbol: Symbol, index: int) -> Callable[..., Any]:
    """What computes a node."""
    node = symbol.nodes[index]
    attributes = Attributes(node.attributes)
    entry: Operator = OPERATORS[node.op]
    try:
        compute = entry.make(
            Call(node.name, attributes, [symbol.nodes[source].name for source, _ in node.inputs])
        )
        attributes.close()
    except UnsupportedError as error:
        raise UnsupportedError(f"{node.name} ({node.op}): {error}") from None
    return compute
