"""Several ONNX models as one: what they compute alike is computed once, and the outputs of all of them are there."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from common.export.onnx.graph import OPSET, PLAIN_OPSET

Attributes = Mapping[str, onnx.AttributeProto]
Constant = Callable[[onnx.TensorProto], str]
"""From a constant to its name."""


# Bytes of a constant that the merged model has beside it.
_LARGE = 4096


@dataclass(frozen=True)
class Merged:
    """content: the model, whose large constants are external data, not in any file; constants: these, by name;
    outputs: of each model the names here of its outputs, by its own."""

    content: bytes
    constants: Mapping[str, np.ndarray]
    outputs: Sequence[Mapping[str, str]]


def merged(contents: Sequence[bytes]) -> Merged:
    """One model for several with the same input.

    Two values are one where the same operator with the same attributes has the same inputs, down to the last bit of
    every constant, whatever they are called. So the model computes what each of them does, and a number that is another
    in one of them is another here. Models of version PLAIN_OPSET of ONNX's operators are brought to OPSET.
    Raises ValueError where inputs differ, or where versions do otherwise.
    """
    union = _Union()
    outputs = [union.add(onnx.load_model_from_string(content)) for content in contents]
    return Merged(union.content(), union.constants, outputs)


class _Union:
    """A model that grows by others."""

    def __init__(self) -> None:
        self.constants: dict[str, np.ndarray] = {}
        self._model = onnx.ModelProto()
        self._names: dict[Hashable, list[str]] = {}  # of values by what they are

    def add(self, model: onnx.ModelProto) -> dict[str, str]:
        """Take what is new of a model. Returns the names of its outputs here, by its own."""
        graph, opset = model.graph, model.opset_import[0].version
        if not self._model.opset_import:
            self._begin(model, OPSET if opset == PLAIN_OPSET else opset)
        if list(graph.input) != list(self._model.graph.input):
            raise ValueError("models of different inputs cannot be merged")
        here = self._model.opset_import[0].version
        raised = (opset, here) == (PLAIN_OPSET, OPSET)
        if opset != here and not raised:
            raise ValueError(f"models of versions {opset} and {here} of ONNX's operators cannot be merged")
        names = {name: name for name in ("", *(value.name for value in graph.input))}
        for tensor in graph.initializer:
            names[tensor.name] = self._constant(tensor)
        for node in graph.node:
            inputs = [names[name] for name in node.input]
            attributes: Attributes = {each.name: each for each in node.attribute}
            if raised and node.op_type in _RAISED:
                inputs, attributes = _RAISED[node.op_type](inputs, attributes, self._constant)
            made = self._computed(node, inputs, attributes)
            names.update(zip(node.output, made, strict=True))
        for value in graph.output:
            self._give(value, names[value.name])
        return {value.name: names[value.name] for value in graph.output}

    def content(self) -> bytes:
        """The model, without its large constants."""
        return bytes(self._model.SerializeToString())

    def _begin(self, model: onnx.ModelProto, opset: int) -> None:
        version = helper.make_opsetid("", opset)
        self._model.opset_import.append(version)
        self._model.ir_version = helper.find_min_ir_version_for([version])
        self._model.metadata_props.extend(model.metadata_props)
        self._model.graph.name = model.graph.name
        self._model.graph.input.extend(model.graph.input)

    def _constant(self, tensor: onnx.TensorProto) -> str:
        values = tensor.raw_data or numpy_helper.to_array(tensor).tobytes()
        key = (tensor.data_type, *tensor.dims, values)
        if key not in self._names:
            name = f"constant{len(self._names)}"
            self._names[key] = [name]
            made = self._model.graph.initializer.add()
            made.data_type, made.name = tensor.data_type, name
            made.dims.extend(tensor.dims)
            if len(values) > _LARGE:
                kind = helper.tensor_dtype_to_np_dtype(tensor.data_type)
                self.constants[name] = np.frombuffer(values, kind).reshape(tuple(tensor.dims))
                made.data_location = onnx.TensorProto.EXTERNAL
                made.external_data.add(key="location", value=name)
            else:
                made.raw_data = values
        return self._names[key][0]

    def _computed(self, node: onnx.NodeProto, inputs: Sequence[str], attributes: Attributes) -> list[str]:
        said = tuple(attributes[name].SerializeToString() for name in sorted(attributes))
        key = (node.domain, node.op_type, tuple(inputs), said)
        if key not in self._names:
            number = len(self._names)
            self._names[key] = [f"value{number}_{output}" for output in range(len(node.output))]
            made = helper.make_node(node.op_type, inputs, self._names[key], domain=node.domain)
            made.attribute.extend(attributes.values())
            self._model.graph.node.append(made)
        return self._names[key]

    def _give(self, value: onnx.ValueInfoProto, name: str) -> None:
        outputs = self._model.graph.output
        if name not in {output.name for output in outputs}:
            outputs.append(value)
            outputs[-1].name = name


# Operators that between the two versions got other inputs and attributes for the same. (PLAIN_OPSET's Resize took what
# OPSET calls asymmetric and floor.)


def _resize(inputs: list[str], attributes: Attributes, constant: Constant) -> tuple[list[str], Attributes]:
    x, scales = inputs
    said = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    said_now = {name: helper.make_attribute(name, value) for name, value in said.items()}
    return [x, constant(numpy_helper.from_array(np.zeros(0, np.float32))), scales], {**attributes, **said_now}


def _clip(inputs: list[str], attributes: Attributes, constant: Constant) -> tuple[list[str], Attributes]:
    limits = [
        constant(numpy_helper.from_array(np.array(attributes[name].f, np.float32))) for name in ("min", "max")
    ]
    return [*inputs, *limits], {}


def _pad(inputs: list[str], attributes: Attributes, constant: Constant) -> tuple[list[str], Attributes]:
    added = [constant(numpy_helper.from_array(np.array(attributes["pads"].ints, np.int64)))]
    if attributes["mode"].s == b"constant":
        added.append(constant(numpy_helper.from_array(np.array(attributes["value"].f, np.float32))))
    return [*inputs, *added], {"mode": attributes["mode"]}


_RAISED = {"Resize": _resize, "Clip": _clip, "Pad": _pad}
