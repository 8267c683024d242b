"""Every operator that the ONNX export knows computes what MXNet's does, whatever its shapes and attributes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import mxnet as mx

from common.engine.symbol import UnsupportedError
from common.export.onnx.graph import DEFORM_CONV_OPSET, OPSET, PLAIN_OPSET
from common.export.onnx.operators import OPERATORS
from tests.helpers.onnx_models import run, translated
from tests.helpers.operator_cases import CASES, ROUNDS, data, normal, run_symbol, unmatched


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_an_operator_computes_what_mxnets_does(name: str) -> None:
    rng = np.random.default_rng(list(name.encode()))
    opsets = [PLAIN_OPSET, OPSET, 13, DEFORM_CONV_OPSET]
    for number in range(ROUNDS):
        symbol, values, shape = CASES[name](rng)
        images = normal(rng, int(rng.integers(1, 4)), *shape)
        wanted = run_symbol(symbol, values, images)
        opset = opsets[number % 4]
        try:
            model = translated(symbol, values, shape, classes=3, opset=opset)
        except UnsupportedError as error:
            if opset == PLAIN_OPSET and "needs version 11" in str(error):
                continue
            raise
        found = run(model, images)
        if name == "_contrib_box_nms":
            wanted, found = (
                [each[0][..., :1], each[0][..., 1:2], each[0][..., 2:]] for each in (wanted, found)
            )
            assert unmatched(wanted, found)[0] == 0
            continue
        for one, other in zip(wanted, found, strict=True):
            assert other.shape == one.shape
            np.testing.assert_allclose(other, one, rtol=2e-4, atol=2e-4, err_msg=f"{symbol.tojson()} {shape}")


@pytest.mark.parametrize(
    ("symbol", "message"),
    [
        (lambda: mx.sym.erfinv(data, name="odd"), "odd: the operator erfinv cannot be exported"),
        (
            lambda: mx.sym.UpSampling(data, scale=2, sample_type="nearest", num_args=1) + mx.sym.var("w"),
            "w: an input",
        ),
        (lambda: mx.sym.L2Normalization(data, mode="channel", name="n"), "n .L2Normalization.: mode=channel"),
        (lambda: mx.sym.softmax(data, temperature=2.0, name="s"), "s .softmax.: temperature=2.0"),
        (lambda: mx.sym.sum(data, axis=1, exclude=True, name="t"), "t .sum.: exclude=True"),
        (lambda: mx.sym.slice_axis(data, axis=0, begin=0, end=1, name="cut"), "cut.*the batch is cut"),
        (
            lambda: mx.sym.Pooling(data, kernel=(2, 2), pool_type="lp", p_value=2, name="p"),
            "p .Pooling.: pool_type=lp",
        ),
    ],
)
def test_what_cannot_be_exported_is_refused_by_name(symbol: Callable[[], Any], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        translated(symbol(), {}, (3, 8, 8))


def test_an_attribute_that_is_not_known_is_refused_and_never_ignored() -> None:
    text = mx.sym.clip(data, 0, 6, name="c").tojson().replace('"a_max"', '"a_most": "1", "a_max"')

    class Text:
        def tojson(self) -> str:
            return text

    with pytest.raises(UnsupportedError, match=r"c \(clip\): the attribute a_most=1 is not known"):
        translated(Text(), {}, (3, 8, 8))
