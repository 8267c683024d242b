"""The deformable layer computes what MXNet's operator does, and has the gradients which that one lacks."""

from __future__ import annotations

from typing import Any

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, nd
from mxnet.gluon import contrib

from detect.center_net.deformable import ModulatedDeformableConvolution, sampled_convolution, sampling
from tests.helpers.centernet_models import batch, build
from tests.helpers.estimators import estimator_of
from tests.helpers.targets import train_step

CASES: dict[str, tuple[tuple[int, int, int, int], dict[str, tuple[int, int]]]] = {
    "as in CenterNet": ((2, 5, 6, 7), {"kernel": (3, 3), "pad": (1, 1)}),
    "stride 2": ((2, 4, 7, 6), {"kernel": (3, 3), "pad": (1, 1), "stride": (2, 2)}),
    "all sides different": (
        (2, 3, 8, 7),
        {"kernel": (3, 2), "pad": (0, 2), "stride": (1, 2), "dilate": (2, 1)},
    ),
    "one tap": ((1, 2, 3, 3), {"kernel": (1, 1)}),
    "map of one pixel": ((2, 4, 1, 1), {"kernel": (3, 3), "pad": (1, 1)}),
}
NAMES = ("data", "offset", "mask", "weight", "bias")


def arrays(case: str, channels: int = 4, spread: float = 3.0) -> tuple[list[np.ndarray], dict[str, Any]]:
    shape, settings = CASES[case]
    rng = np.random.default_rng(5)
    taps = settings["kernel"][0] * settings["kernel"][1]
    weight = rng.normal(size=(channels, shape[1], *settings["kernel"]))
    plain = nd.Convolution(nd.zeros(shape), nd.array(weight), no_bias=True, num_filter=channels, **settings)
    size = plain.shape[2:]
    values = [
        rng.normal(size=shape),
        rng.normal(size=(shape[0], 2 * taps, *size), scale=spread),
        rng.uniform(0, 2, (shape[0], taps, *size)),
        weight,
        rng.normal(size=channels),
    ]
    return [value.astype(np.float32) for value in values], {"channels": channels, **settings}


def native(values: list[np.ndarray], settings: dict[str, Any]) -> np.ndarray:
    options = {name: value for name, value in settings.items() if name != "channels"}
    operator = nd.contrib.ModulatedDeformableConvolution
    return operator(*map(nd.array, values), num_filter=settings["channels"], **options).asnumpy()


def reference(values: list[np.ndarray], settings: dict[str, Any]) -> np.ndarray:
    """The definition, place by place, in double precision."""
    x, offset, mask, weight, bias = (value.astype(np.float64) for value in values)
    stride, pad, dilate = (
        np.array(settings.get(k, d)) for k, d in (("stride", (1, 1)), ("pad", (0, 0)), ("dilate", (1, 1)))
    )
    kernel = settings["kernel"]
    height, width = x.shape[2:]
    output = np.empty((len(x), len(weight), *offset.shape[2:]))
    for image, row, column in np.ndindex(len(x), *offset.shape[2:]):
        total = bias.copy()
        for tap, place in enumerate(np.ndindex(*kernel)):
            y, z = (
                (row, column) * stride
                - pad
                + place * dilate
                + offset[image, 2 * tap : 2 * tap + 2, row, column]
            )
            top, left = int(np.floor(y)), int(np.floor(z))
            sample = np.zeros(x.shape[1])
            for i, j in np.ndindex(2, 2):
                if 0 <= top + i < height and 0 <= left + j < width:
                    sample += (
                        x[image, :, top + i, left + j] * (1 - abs(y - top - i)) * (1 - abs(z - left - j))
                    )
            total += weight[:, :, place[0], place[1]] @ sample * mask[image, tap, row, column]
        output[image, :, row, column] = total
    return output


@pytest.mark.parametrize("case", CASES)
def test_output_is_that_of_the_operator_and_of_the_definition(case: str) -> None:
    values, settings = arrays(case)
    output = sampled_convolution(nd, *map(nd.array, values), **settings).asnumpy()
    np.testing.assert_allclose(output, reference(values, settings), rtol=0, atol=1e-4)
    np.testing.assert_allclose(output, native(values, settings), rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", ["as in CenterNet", "all sides different"])
def test_all_five_gradients_are_the_differences_of_the_definition(case: str) -> None:
    values, settings = arrays(case, channels=2)
    # Bilinear sampling has no derivative where a place is a whole pixel.
    fraction = values[1] - np.floor(values[1])
    values[1] += np.where(fraction < 0.05, 0.1, np.where(fraction > 0.95, -0.1, 0)).astype(np.float32)
    inputs = [nd.array(value) for value in values]
    for each in inputs:
        each.attach_grad()
    with autograd.record():
        output = sampled_convolution(nd, *inputs, **settings)
    rng = np.random.default_rng(6)
    direction = rng.normal(size=output.shape)
    output.backward(nd.array(direction))
    for name, each, value in zip(NAMES, inputs, values, strict=True):
        gradient = each.grad.asnumpy()
        assert np.abs(gradient).max() > 0.01
        for index in rng.choice(value.size, min(value.size, 12), replace=False):
            change = []
            for step in (1e-3, -1e-3):
                moved = [v.astype(np.float64) for v in values]
                moved[NAMES.index(name)].flat[index] += step
                change.append((reference(moved, settings) * direction).sum())
            expected = (change[0] - change[1]) / 2e-3
            assert gradient.flat[index] == pytest.approx(expected, rel=1e-3, abs=1e-3), (name, index)


def test_places_outside_of_the_image_are_zero() -> None:
    values, settings = arrays("as in CenterNet")
    values[1][:] = 100
    output = sampled_convolution(nd, *map(nd.array, values), **settings).asnumpy()
    np.testing.assert_allclose(
        output, np.broadcast_to(values[4].reshape(1, -1, 1, 1), output.shape), atol=1e-5
    )


def trained_layer() -> ModulatedDeformableConvolution:
    mx.random.seed(3)
    layer = ModulatedDeformableConvolution(4, in_channels=3, kernel_size=3, padding=1)
    layer.initialize(mx.init.Normal(0.5))
    for parameter in (layer.offset_weight, layer.offset_bias):
        parameter.initialize(mx.init.Normal(0.3), force_reinit=True)
    return layer


def test_graphs_of_both_kinds_share_parameters_and_fit_any_input_size() -> None:
    layer = trained_layer()
    data = mx.sym.var("data")
    with sampling():
        by_sampling = mx.gluon.SymbolBlock(layer(data), [data], params=layer.collect_params())
    by_operator = mx.gluon.SymbolBlock(layer(data), [data], params=layer.collect_params())
    operators = [graph(data).get_internals().list_outputs() for graph in (by_sampling, by_operator)]
    assert any("bilinearsampler" in name for name in operators[0])
    assert not any("bilinearsampler" in name for name in operators[1])
    for size in ((6, 5), (9, 12), (1, 3)):
        x = nd.random.normal(shape=(2, 3, *size))
        np.testing.assert_allclose(by_sampling(x).asnumpy(), by_operator(x).asnumpy(), rtol=0, atol=1e-4)


def test_every_parameter_of_the_layer_learns_on_the_cpu() -> None:
    layer = trained_layer()
    x = nd.random.normal(shape=(2, 3, 6, 5))
    with sampling(), autograd.record():
        loss = (layer(x) ** 2).sum()
    loss.backward()
    for name, parameter in layer.collect_params().items():
        assert parameter.grad().norm().asscalar() > 0, name


def test_offsets_leave_0_within_the_limit_on_steps() -> None:
    made = build({"base_network": "resnet18_v1b_dcnv2"})
    train_step(estimator_of(made), batch(), 0.01)
    offsets = [p for name, p in made.network.collect_params().items() if name.endswith("offset_weight")]
    assert offsets
    assert all(weight.data().norm().asscalar() > 0 for weight in offsets)


def test_offsets_and_mask_learn_at_a_tenth_of_the_rate() -> None:
    layer = trained_layer()
    x = nd.random.normal(shape=(2, 3, 6, 5))
    trainer = mx.gluon.Trainer(layer.collect_params(), "sgd", {"learning_rate": 0.01}, kvstore=None)
    with sampling(), autograd.record():
        loss = (layer(x) ** 2).mean()
    loss.backward()
    before = {name: parameter.data().copy() for name, parameter in layer.collect_params().items()}
    trainer.step(1)
    for name, parameter in layer.collect_params().items():
        rate = 0.001 if "offset" in name else 0.01
        moved = before[name] - parameter.data()
        np.testing.assert_allclose(moved.asnumpy(), rate * parameter.grad().asnumpy(), rtol=1e-2, atol=1e-6)


def test_parameters_are_those_of_the_frameworks_layer(tmp_path: Any) -> None:
    theirs = contrib.cnn.ModulatedDeformableConvolution(4, in_channels=3, kernel_size=3, padding=1)
    theirs.initialize(mx.init.Normal(0.5))
    theirs.offset_bias.initialize(mx.init.Normal(0.5), force_reinit=True)
    x = nd.random.normal(shape=(1, 3, 6, 5))
    expected = theirs(x).asnumpy()
    theirs.save_parameters(str(tmp_path / "layer.params"))
    ours = ModulatedDeformableConvolution(4, in_channels=3, kernel_size=3, padding=1)
    ours.load_parameters(str(tmp_path / "layer.params"))
    np.testing.assert_array_equal(ours(x).asnumpy(), expected)
    with sampling():
        np.testing.assert_allclose(ours(x).asnumpy(), expected, rtol=0, atol=1e-4)


def test_what_is_not_supported_is_refused() -> None:
    with pytest.raises(ValueError, match="num_deformable_group of a deformable convolution is 2; only 1"):
        ModulatedDeformableConvolution(4, in_channels=4, kernel_size=3, num_deformable_group=2)
