"""Several ONNX models as one compute what each of them does, and what they have in common once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import mxnet as mx

from common.export.onnx.graph import DEFORM_CONV_OPSET, OPSET, PLAIN_OPSET
from common.export.onnx.merged import merged
from tests.helpers.onnx_models import run, translated
from tests.helpers.operator_cases import data

RNG = np.random.default_rng(0)
PARAMETERS = {
    "weight": RNG.normal(size=(64, 3, 3, 3)).astype(np.float32),  # large enough to stand beside the model
    "bias": RNG.normal(size=64).astype(np.float32),
}
IMAGES = RNG.normal(size=(2, 3, 6, 6)).astype(np.float32)


def model(opset: int, factor: float = 2.0, channels: int = 3) -> onnx.ModelProto:
    """Every operator that has another form in another version, behind a convolution; last a product."""
    edge = {"pad_width": (0, 0, 0, 0, 1, 1, 1, 1)}
    maps = mx.sym.Convolution(data, mx.sym.var("weight"), mx.sym.var("bias"), kernel=(3, 3), num_filter=64)
    maps = mx.sym.Pad(mx.sym.Pad(maps, mode="constant", constant_value=0.5, **edge), mode="reflect", **edge)
    maps = mx.sym.UpSampling(mx.sym.clip(maps, -1, 1.5), scale=2, sample_type="nearest", num_args=1)
    values = {**PARAMETERS, "weight": PARAMETERS["weight"][:, :channels]}
    return translated(maps * factor, values, (channels, 6, 6), opset=opset)


def check(models: Sequence[onnx.ModelProto]) -> list[str]:
    """Operators of models merged, whose outputs are those of each model, to the bit."""
    union = merged([each.SerializeToString() for each in models])
    made = onnx.load_model_from_string(union.content)
    for tensor in made.graph.initializer:
        if tensor.name in union.constants:
            tensor.CopyFrom(onnx.numpy_helper.from_array(union.constants[tensor.name], tensor.name))
    assert union.constants
    onnx.checker.check_model(made, full_check=True)
    outputs = dict(zip((output.name for output in made.graph.output), run(made, IMAGES), strict=True))
    for each, own in zip(models, union.outputs, strict=True):
        np.testing.assert_array_equal(outputs[own["0"]], run(each, IMAGES)[0])
    return [node.op_type for node in made.graph.node]


@pytest.mark.parametrize("opsets", [(PLAIN_OPSET, OPSET), (OPSET, PLAIN_OPSET), (OPSET, OPSET), (13, 13)])
def test_what_models_have_in_common_is_computed_once(opsets: tuple[int, int]) -> None:
    operators = check([model(opsets[0]), model(opsets[1], factor=3.0)])
    assert [operators.count(op) for op in ("Conv", "Pad", "Clip", "Resize", "Mul")] == [1, 2, 1, 1, 2]
    assert check([model(opsets[0]), model(opsets[1])]).count("Mul") == 1


def change_weight(altered: onnx.ModelProto) -> None:
    weight = next(each for each in altered.graph.initializer if each.name == "weight")
    values = onnx.numpy_helper.to_array(weight).copy()
    values[1, 1, 1, 1] = np.nextafter(values[1, 1, 1, 1], np.float32(9))
    weight.CopyFrom(onnx.numpy_helper.from_array(values, "weight"))


def change_attribute(altered: onnx.ModelProto) -> None:
    pad = next(node for node in reversed(altered.graph.node) if node.op_type == "Pad")
    next(each for each in pad.attribute if each.name == "mode").s = b"edge"


def change_inputs(altered: onnx.ModelProto) -> None:
    product = next(node for node in altered.graph.node if node.op_type == "Mul")
    product.input[:] = [product.input[0]] * 2


@pytest.mark.parametrize(
    ("change", "counts"),
    [(change_weight, [2, 4, 2, 2]), (change_attribute, [1, 3, 2, 2]), (change_inputs, [1, 2, 1, 2])],
)
@pytest.mark.parametrize("which", [0, 1])
def test_what_differs_is_computed_as_each_model_has_it(
    change: Callable[[onnx.ModelProto], None], counts: list[int], which: int
) -> None:
    models = [model(PLAIN_OPSET), model(OPSET)]
    change(models[which])
    operators = check(models)
    assert [operators.count(op) for op in ("Conv", "Pad", "Clip", "Mul")] == counts


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (lambda: model(OPSET, channels=2), "different inputs"),
        (lambda: model(DEFORM_CONV_OPSET), "versions 19 and 11"),
    ],
)
def test_what_cannot_be_one_model_is_refused(other: Callable[[], onnx.ModelProto], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        merged([model(OPSET).SerializeToString(), other().SerializeToString()])
