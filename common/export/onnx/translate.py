"""A symbol of MXNet, node by node, into an ONNX graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from common.engine.symbol import Attributes, Symbol, UnsupportedError
from common.export.onnx.graph import Graph, Tensor
from common.export.onnx.operators import OPERATORS, Call

# Attributes of training alone, that change no number of an inference.
_OF_TRAINING = ("momentum", "use_global_stats")

Entry = tuple[int, int]  # index of a node, and of its output


class Translation:
    """The nodes of a symbol as tensors of a graph, each written when it is first asked for.

    parameters: by name, for all of the symbol's inputs but `data`, which is that tensor. classes: of a detector.
    """

    def __init__(
        self, graph: Graph, symbol: Symbol, parameters: Mapping[str, np.ndarray], data: Tensor, classes: int
    ) -> None:
        self.graph, self.symbol, self.classes = graph, symbol, classes
        self._parameters, self._data = parameters, data
        self._written: dict[int, Sequence[Tensor]] = {}

    def tensors(self, entries: Iterable[Entry]) -> list[Tensor]:
        """Outputs of nodes. Raises UnsupportedError, naming a node that cannot be written and why."""
        entries = list(entries)
        for index in self._needed(entries):
            self._written[index] = self._write(index)
        return [self._written[index][output] for index, output in entries]

    def tensor(self, index: int) -> Tensor:
        """The first output of a node."""
        return self.tensors([(index, 0)])[0]

    def _needed(self, entries: Sequence[Entry]) -> list[int]:
        """Nodes that are not written yet, in the symbol's order, which is one of computation."""
        wanted: set[int] = set()
        left = [index for index, _ in entries]
        while left:
            index = left.pop()
            if index not in wanted and index not in self._written:
                wanted.add(index)
                left.extend(source for source, _ in self.symbol.nodes[index].inputs)
        return sorted(wanted)

    def _write(self, index: int) -> Sequence[Tensor]:
        node = self.symbol.nodes[index]
        if node.op == "null":
            if node.name == self._data.name:
                return [self._data]
            if node.name not in self._parameters:
                raise UnsupportedError(f"{node.name}: an input without a parameter")
            return [self.graph.constant(self._parameters[node.name], name=node.name)]
        if node.op not in OPERATORS:
            raise UnsupportedError(f"{node.name}: the operator {node.op} cannot be exported")
        attributes = Attributes(node.attributes, _OF_TRAINING)
        inputs = [self._written[source][output] for source, output in node.inputs]
        try:
            made = OPERATORS[node.op](Call(self.graph, node.name, inputs, attributes, self.classes))
            attributes.close()
        except UnsupportedError as error:
            raise UnsupportedError(f"{node.name} ({node.op}): {error}") from None
        return [made] if isinstance(made, Tensor) else made
