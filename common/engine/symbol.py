"""MXNet's symbols as text: their nodes, attributes that must all be looked at, and what shapes of reshape say."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: What tells a device how to compute; it changes no number.
WITHOUT_EFFECT = frozenset(
    {
        "cudnn_algo_verbose",
        "cudnn_off",
        "cudnn_tune",
        "workspace",
    }
)

#: Marks a node that stands for the rows of the whole batch, of which its input may be a rank's: see
#: `common.engine.graph.whole_batch`.
WHOLE_BATCH = "__whole_batch__"


class UnsupportedError(Exception):
    """A graph that cannot be translated: which operator or attribute, of which node."""


class Attributes:
    """The attributes of a node. `close` refuses those that nobody has asked for: none is ignored by mistake."""

    def __init__(self, values: Mapping[str, str], without_effect: Iterable[str] = ()) -> None:
        """without_effect: names that may be ignored beside WITHOUT_EFFECT."""
        # Marks (__dtype__, __lr_mult__ …) are no operator's.
        self._marks = frozenset(key for key in values if key.startswith("__"))
        self._values = {key: value for key, value in values.items() if key not in self._marks}
        self._left = set(self._values) - WITHOUT_EFFECT - set(without_effect)

    def marked(self, name: str) -> bool:
        """Whether the node has this mark."""
        return name in self._marks

    def get(self, name: str, default: Any) -> Any:
        """The value of an attribute: number, text, tuple, True, False or None."""
        self._left.discard(name)
        if name not in self._values:
            return default
        text = self._values[name]
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return text

    def whole(self, name: str, default: int) -> int:
        """A whole number."""
        return int(self.get(name, default))

    def flag(self, name: str, default: bool = False) -> bool:
        """True or False."""
        return self.get(name, default) in (True, 1)

    def numbers(self, name: str, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        """Whole numbers; one alone is a tuple of it, None is `default`."""
        value = self.get(name, default)
        if value is None:
            return default
        return tuple(int(each) for each in value) if isinstance(value, (tuple, list)) else (int(value),)

    def only(self, name: str, *allowed: Any) -> None:
        """Raise UnsupportedError unless an attribute is absent or has one of the values."""
        value = self.get(name, allowed[0])
        if value not in allowed:
            raise UnsupportedError(f"{name}={value}; only {' and '.join(map(str, allowed))} is known")

    def close(self) -> None:
        """Raise UnsupportedError if an attribute has not been looked at."""
        if self._left:
            name = min(self._left)
            raise UnsupportedError(f"the attribute {name}={self._values[name]} is not known")


@dataclass(frozen=True)
class Node:
    """A node of a symbol. inputs: index of a node and of its output. op: "null" for inputs and parameters."""

    op: str
    name: str
    inputs: tuple[tuple[int, int], ...]
    attributes: Mapping[str, str]


@dataclass(frozen=True)
class Symbol:
    """A graph of MXNet. heads: its outputs, as index of a node and of its output."""

    nodes: tuple[Node, ...]
    heads: tuple[tuple[int, int], ...]

    def first_input(self, index: int, *ops: str) -> int:
        """Index of the node that lies behind the first inputs of nodes with these operators, from node `index` on.

        Raises UnsupportedError where another operator stands."""
        for op in ops:
            if self.nodes[index].op != op:
                node = self.nodes[index]
                raise UnsupportedError(f"{node.name} is {node.op} where {op} is expected")
            index = self.nodes[index].inputs[0][0]
        return index


def read_symbol(text: str) -> Symbol:
    """The symbol of a JSON document. Raises ValueError if it is none."""
    try:
        document = json.loads(text)
        nodes = tuple(
            Node(
                node["op"],
                node["name"],
                tuple((entry[0], entry[1]) for entry in node["inputs"]),
                node.get("attrs", node.get("attr", node.get("param", {}))),
            )
            for node in document["nodes"]
        )
        return Symbol(nodes, tuple((head[0], head[1]) for head in document["heads"]))
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"not a symbol of MXNet: {error!r}") from None


def reshaped(shape: Sequence[int], codes: Sequence[int]) -> tuple[int, ...]:
    """MXNet's shape in words: 0 copies an axis, -1 is what is left, -2 copies all others, -3 multiplies two axes, -4
    splits one into the two that follow."""
    left, result, codes = list(shape), [], list(codes)
    while codes:
        code = codes.pop(0)
        if code == 0:
            result.append(left.pop(0))
        elif code == -2:
            result, left = result + left, []
        elif code == -3:
            result.append(left.pop(0) * left.pop(0))
        elif code == -4:
            axis, (first, second), codes = left.pop(0), codes[:2], codes[2:]
            result += [axis // second if first == -1 else first, axis // first if second == -1 else second]
        else:
            result.append(code)
            if left:
                left.pop(0)
    if -1 in result:
        place = result.index(-1)
        result[place] = math.prod(shape) // math.prod(result[:place] + result[place + 1 :])
    return tuple(result)
