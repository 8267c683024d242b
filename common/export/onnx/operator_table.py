"""What each of MXNet's operators is in ONNX: a function an operator, in one table.

Meanings are those of MXNet 1.9.1 (https://mxnet.apache.org/versions/1.9.1/api/python/docs/api/ and its sources under
src/operator) and of ONNX (https://onnx.ai/onnx/operators/). A function gets the graph, its node's inputs and
attributes, and gives the node's outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from common.engine.symbol import Attributes, UnsupportedError
from common.export.onnx.graph import Graph, Tensor


@dataclass(frozen=True)
class Call:
    """A node to be written. classes: of a detector, for what depends on their number."""

    graph: Graph
    name: str
    inputs: Sequence[Tensor]
    attributes: Attributes
    classes: int

    @property
    def x(self) -> Tensor:
        """The first input."""
        return self.inputs[0]


Emit = Callable[[Call], "Tensor | list[Tensor]"]
OPERATORS: dict[str, Emit] = {}


def operator(*names: str) -> Callable[[Emit], Emit]:
    """Enter a function into the table under the names of its operator."""

    def enter(function: Emit) -> Emit:
        OPERATORS.update(dict.fromkeys(names, function))
        return function

    return enter


def same_type(call: Call) -> None:
    """Raises UnsupportedError where the inputs are of several types."""
    if len({tensor.dtype for tensor in call.inputs}) > 1:
        raise UnsupportedError(f"inputs of types {', '.join(str(tensor.dtype) for tensor in call.inputs)}")
