"""An ONNX graph that is being written: tensors whose shapes are known but for the batch, and nodes between them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from common.engine.symbol import UnsupportedError

#: The oldest version of ONNX's operators that has what detections need (Range, GatherND, ScatterND, Equal of numbers).
OPSET = 11
#: The oldest that has what the other files need (Slice by inputs, Resize).
PLAIN_OPSET = 10
#: The version with DeformConv.
DEFORM_CONV_OPSET = 19

# In shapes it stands for the number of images, so that plain arithmetic of shapes holds for any of it: a prime that is
# longer than any axis. What is a multiple of it grows with the batch.
BATCH = 1_000_003

_SINCE_11 = ("Equal", "GatherND", "Range", "ScatterND", "TopK")
# Numbers that a constant may become by broadcasting.
_SPREAD = 1 << 17
# Numbers of a parameter that is large.
_LARGE = 4096


@dataclass(frozen=True)
class Tensor:
    """A value of the graph. shape: axes that grow with the batch are multiples of BATCH. value: of a constant."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    value: np.ndarray | None = None


class Graph:
    """Nodes in the order in which they compute. What is constant is computed at once and leaves no node."""

    def __init__(self, opset: int = OPSET, outputs: Iterable[str] = ()) -> None:
        """outputs: names that no tensor takes, because outputs will have them."""
        self.opset = opset
        self._nodes: list[onnx.NodeProto] = []
        self._values: dict[str, np.ndarray] = {}
        self._names = set(outputs)
        self._inputs: list[Tensor] = []

    def input(self, name: str, shape: Sequence[int], dtype: Any = np.float32) -> Tensor:
        """An input of the graph."""
        tensor = Tensor(self._unused(name), tuple(shape), np.dtype(dtype))
        self._inputs.append(tensor)
        return tensor

    def constant(self, value: Any, dtype: Any = None, name: str = "constant") -> Tensor:
        """A constant; it is written only if a node that stays has it as an input."""
        array = np.asarray(value, dtype)
        tensor = Tensor(self._unused(name), array.shape, array.dtype, array)
        self._values[tensor.name] = array
        return tensor

    def add(
        self,
        op: str,
        inputs: Sequence[Tensor | None],
        shape: Sequence[int],
        dtype: Any = None,
        *,
        name: str = "",
        **attributes: Any,
    ) -> Tensor:
        """A node with one output of `shape`; dtype: that of the first input unless given. An input may be left out."""
        return self.add_all(op, inputs, [(shape, dtype)], name=name, **attributes)[0]

    def add_all(
        self,
        op: str,
        inputs: Sequence[Tensor | None],
        outputs: Sequence[tuple[Sequence[int], Any]],
        *,
        name: str = "",
        **attributes: Any,
    ) -> list[Tensor]:
        """A node with an output for each of `outputs`: shape, dtype."""
        if self.opset < 11 and op in _SINCE_11:
            raise UnsupportedError(f"{op} needs version 11 of ONNX's operators")
        name = self._unused(name or op)
        names = [name if number == 0 else self._unused(f"{name}_{number}") for number in range(len(outputs))]
        first = next((tensor.dtype for tensor in inputs if tensor is not None), np.dtype(np.float32))
        node = helper.make_node(
            op, [tensor.name if tensor else "" for tensor in inputs], names, name=name, **attributes
        )
        given = [tensor for tensor in inputs if tensor is not None]
        if given and all(tensor.value is not None for tensor in given):
            return [
                self.constant(value, name=each)
                for value, each in zip(self._computed(node, given), names, strict=True)
            ]
        self._nodes.append(node)
        return [
            Tensor(each, tuple(shape), np.dtype(first if dtype is None else dtype))
            for each, (shape, dtype) in zip(names, outputs, strict=True)
        ]

    # Operators that the translation needs in many places.

    def reshape(self, x: Tensor, shape: Sequence[int], name: str = "") -> Tensor:
        """x in another shape, of which one axis at most may grow with the batch."""
        shape = tuple(shape)
        if shape == x.shape:
            return x
        if math.prod(shape) != math.prod(x.shape):
            raise UnsupportedError(f"{x.name}: {shown(x.shape)} cannot be reshaped to {shown(shape)}")
        target = self.constant([-1 if grows(axis) else axis for axis in shape], np.int64)
        return self.add("Reshape", [x, target], shape, name=name)

    def transpose(self, x: Tensor, order: Sequence[int], name: str = "") -> Tensor:
        """x with its axes in another order."""
        return self.add("Transpose", [x], [x.shape[axis] for axis in order], perm=list(order), name=name)

    def slice(self, x: Tensor, axis: int, begin: int, end: int | None, name: str = "") -> Tensor:
        """Part of an axis, as Python slices it."""
        axis %= len(x.shape)
        length = x.shape[axis]
        start, stop, _ = slice(begin, end).indices(length)
        if (start, stop) == (0, length):
            return x
        if grows(length):
            raise UnsupportedError(f"{name or x.name}: the batch is cut")
        shape = (*x.shape[:axis], max(stop - start, 0), *x.shape[axis + 1 :])
        bounds = [self.constant([bound], np.int64) for bound in (start, stop, axis)]
        return self.add("Slice", [x, *bounds], shape, name=name)

    def reverse(self, x: Tensor, axis: int, name: str = "") -> Tensor:
        """x with an axis turned round, which is not the batch's. (OpenCV 4 has no Slice that goes backwards.)"""
        length = x.shape[axis]
        if grows(length):
            raise UnsupportedError(f"{name or x.name}: the batch is turned round")
        places = self.constant(np.arange(length)[::-1], np.int64)
        return self.add("Gather", [x, places], x.shape, axis=axis, name=name)

    def pad(
        self,
        x: Tensor,
        begin: Sequence[int],
        end: Sequence[int],
        value: float = 0.0,
        mode: str = "constant",
        name: str = "",
    ) -> Tensor:
        """x with so many places more at the beginning and the end of its axes."""
        shape = [axis + b + e for axis, b, e in zip(x.shape, begin, end, strict=True)]
        pads = [*begin, *end]
        if self.opset < 11:
            return self.add("Pad", [x], shape, name=name, mode=mode, pads=pads, value=value)
        inputs = [x, self.constant(pads, np.int64), self.constant(value, x.dtype)]
        return self.add("Pad", inputs[: 3 if mode == "constant" else 2], shape, name=name, mode=mode)

    def concat(self, tensors: Sequence[Tensor], axis: int, name: str = "") -> Tensor:
        """Tensors one after the other along an axis."""
        if len(tensors) == 1:
            return tensors[0]
        axis %= len(tensors[0].shape)
        shape = list(tensors[0].shape)
        shape[axis] = sum(tensor.shape[axis] for tensor in tensors)
        return self.add("Concat", tensors, shape, axis=axis, name=name)

    def cast(self, x: Tensor, dtype: Any, name: str = "") -> Tensor:
        """x in another type."""
        if x.dtype == np.dtype(dtype):
            return x
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self.add("Cast", [x], x.shape, dtype, to=kind, name=name)

    def binary(self, op: str, a: Tensor, b: Any, dtype: Any = None, name: str = "") -> Tensor:
        """A node of two inputs that broadcast; b may be a number."""
        if not isinstance(b, Tensor):
            b = self.constant(b, a.dtype)
        shape = broadcast(a.shape, b.shape)
        a, b = (self._spread(tensor, shape) for tensor in (a, b))
        return self.add(op, [a, b], shape, dtype, name=name)

    def _spread(self, tensor: Tensor, shape: Sequence[int]) -> Tensor:
        """A constant along all axes but the batch, unless it is one number or has one a channel: OpenCV 4.6 broadcasts
        no others."""
        if tensor.value is None or tensor.value.size == 1 or not any(grows(axis) for axis in shape):
            return tensor
        if tensor.shape[-1:] != tuple(shape[-1:]):
            return tensor
        whole = tuple(1 if grows(axis) else axis for axis in shape)
        if tensor.shape == whole or math.prod(whole) > _SPREAD:
            return tensor
        return self.constant(np.broadcast_to(tensor.value, whole), name=tensor.name)

    def reduce(
        self, op: str, x: Tensor, axes: Sequence[int], keepdims: bool = True, name: str = ""
    ) -> Tensor:
        """ReduceSum, ReduceMean, ReduceMax … over axes, which newer versions of ONNX take as an input."""
        axes = sorted(axis % len(x.shape) for axis in axes)
        shape = [1 if i in axes else axis for i, axis in enumerate(x.shape) if keepdims or i not in axes]
        if self.opset >= 18 or (op == "ReduceSum" and self.opset >= 13):
            return self.add(op, [x, self.constant(axes, np.int64)], shape, keepdims=int(keepdims), name=name)
        return self.add(op, [x], shape, axes=axes, keepdims=int(keepdims), name=name)

    def shape_of(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """`shape` as a tensor; like: one whose first axis is the batch."""
        if not any(grows(axis) for axis in shape):
            return self.constant(list(shape), np.int64)
        if like.shape[0] != BATCH:
            raise UnsupportedError(f"{like.name}: its first axis is not the batch")
        whole = self.add("Shape", [like], [len(like.shape)], np.int64)
        batch = self.slice(whole, 0, 0, 1)
        parts = [
            self.binary("Mul", batch, axis // BATCH) if grows(axis) else self.constant([axis], np.int64)
            for axis in shape
        ]
        return self.concat(parts, 0)

    def expand(self, x: Tensor, shape: Sequence[int], like: Tensor | None = None, name: str = "") -> Tensor:
        """x broadcast to `shape`; like: a tensor with the batch first, needed where x has no batch and shape does."""
        shape = tuple(shape)
        if shape == x.shape:
            return x
        here = (1,) * (len(shape) - len(x.shape)) + x.shape
        if all(a == b for a, b in zip(here, shape, strict=True) if grows(b)):
            target = self.constant([1 if grows(axis) else axis for axis in shape], np.int64)
        else:
            target = self.shape_of(shape, like or x)
        return self.add("Expand", [x, target], shape, name=name)

    def images(self, like: Tensor) -> Tensor:
        """0, 1, … (B,) int64, for the images of a batch; like: a tensor with the batch first."""
        batch = self.reshape(self.shape_of([BATCH], like), [])
        bounds = [self.constant(0, np.int64), batch, self.constant(1, np.int64)]
        return self.add("Range", bounds, [BATCH])

    def model(
        self, outputs: Mapping[str, Tensor], metadata: Mapping[str, str], producer_version: str
    ) -> onnx.ModelProto:
        """The finished model: outputs by name, with nothing that they do not need. Raises if it is not valid ONNX."""
        nodes = [
            *self._nodes,
            *(
                helper.make_node("Identity", [tensor.name], [name], name=f"output_{name}")
                for name, tensor in outputs.items()
            ),
        ]
        nodes = _needed(nodes, outputs)
        used = {name for node in nodes for name in node.input}
        values = {name: value for name, value in self._values.items() if name in used}
        large = {name: value for name, value in values.items() if value.size > _LARGE}
        opset = helper.make_opsetid("", self.opset)

        def made(
            inputs: Iterable[onnx.ValueInfoProto], initializers: Mapping[str, np.ndarray]
        ) -> onnx.ModelProto:
            # In place: helper.make_graph and helper.make_model would each copy all parameters.
            model = onnx.ModelProto(
                ir_version=helper.find_min_ir_version_for([opset]),
                opset_import=[opset],
                producer_name="VisualTL",
                producer_version=producer_version,
            )
            model.graph.name = "model"
            model.graph.node.extend(nodes)
            model.graph.input.extend(inputs)
            model.graph.output.extend(_info(name, tensor) for name, tensor in outputs.items())
            for name, value in initializers.items():
                tensor = model.graph.initializer.add()
                tensor.name, tensor.raw_data = name, value.tobytes()
                tensor.data_type = helper.np_dtype_to_tensor_dtype(value.dtype)
                tensor.dims.extend(value.shape)
            return model

        inputs = [_info(tensor.name, tensor) for tensor in self._inputs]
        # The checks write the model several times, and know as much without the numbers of large parameters.
        places = [_info(name, Tensor(name, value.shape, value.dtype)) for name, value in large.items()]
        small = {name: value for name, value in values.items() if name not in large}
        onnx.checker.check_model(made([*inputs, *places], small), full_check=True)
        model = made(inputs, values)
        helper.set_model_props(model, dict(metadata))
        return model

    def _unused(self, name: str) -> str:
        candidate, number = name, 1
        while candidate in self._names:
            number += 1
            candidate = f"{name}_{number}"
        self._names.add(candidate)
        return candidate

    def _computed(self, node: onnx.NodeProto, inputs: Sequence[Tensor]) -> list[np.ndarray]:
        graph = helper.make_graph(
            [node],
            "constant",
            [_info(tensor.name, tensor) for tensor in {tensor.name: tensor for tensor in inputs}.values()],
            [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in node.output],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        outputs = ReferenceEvaluator(model).run(None, {tensor.name: tensor.value for tensor in inputs})
        for name in node.output:
            self._names.discard(name)  # the constant takes it
        return [np.asarray(value) for value in outputs]


def grows(axis: int) -> bool:
    """Whether the length of an axis depends on the batch. Raises UnsupportedError where it is no multiple of it."""
    if axis >= BATCH and axis % BATCH:
        raise UnsupportedError(f"an axis of {axis // BATCH} x batch + {axis % BATCH}")
    return axis >= BATCH


def shown(shape: Iterable[int]) -> str:
    """A shape for messages."""
    return "(" + ", ".join(f"{axis // BATCH} x batch" if grows(axis) else str(axis) for axis in shape) + ")"


def broadcast(a: Sequence[int], b: Sequence[int]) -> tuple[int, ...]:
    """The shape of what two shapes broadcast to. Raises UnsupportedError."""
    length = max(len(a), len(b))
    a, b = (1,) * (length - len(a)) + tuple(a), (1,) * (length - len(b)) + tuple(b)
    if any(x != y and 1 not in (x, y) for x, y in zip(a, b, strict=True)):
        raise UnsupportedError(f"{shown(a)} and {shown(b)} do not broadcast")
    return tuple(y if x == 1 else x for x, y in zip(a, b, strict=True))


def _info(name: str, tensor: Tensor) -> onnx.ValueInfoProto:
    shape: list[int | str] = [
        axis if not grows(axis) else "batch" if axis == BATCH else f"batch{axis // BATCH}"
        for axis in tensor.shape
    ]
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(tensor.dtype), shape)


def _needed(nodes: Sequence[onnx.NodeProto], outputs: Iterable[str]) -> list[onnx.NodeProto]:
    """The nodes that the outputs depend on."""
    wanted = set(outputs)
    kept = []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(node.input)
    return kept[::-1]
