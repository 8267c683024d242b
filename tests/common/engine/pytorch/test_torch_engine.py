"""PyTorch's engine trains as MXNet's does, keeps what MXNet's keeps, and takes up what that has left."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed here; make test-torch has it")

import mxnet as mx
from mxnet import gluon

from common.config.network_sections import OPTIMIZERS
from common.engine.engine import Engine, OptimizerSettings
from common.engine.graph import Inference, settle
from common.engine.limits import GradientLimit, RateLimit
from common.engine.mxnet_engine import MXNetEngine
from common.engine.opening import open_inference
from common.engine.torch import lists
from common.engine.torch.engine import TorchEngine
from common.engine.tracing import program
from common.task import Model
from common.training.estimator import MAX_SKIPPED, Estimator
from tests.helpers.estimators import SIDE, Tiny, batches

CPU = torch.device("cpu")
RATES = {"adadelta": 1.0, "ftml": 0.002, "ftrl": 0.1, "sgld": 0.0}


def model() -> Model:
    """A convolution and BatchNorm before the linear layer, whose rate is half of theirs."""
    made = Tiny([mx.cpu()])
    network = gluon.nn.HybridSequential(prefix="tiny_")
    with network.name_scope():
        network.add(gluon.nn.Conv2D(4, 3, in_channels=3, use_bias=False), gluon.nn.BatchNorm(in_channels=4))
        network.add(gluon.nn.Activation("relu"), gluon.nn.Flatten(), gluon.nn.Dense(3))
    network.initialize(mx.init.Normal(0.2))
    settle(network, (1, 3, SIDE, SIDE))
    network[4].weight.lr_mult = 0.5
    network[4].bias.wd_mult = 0.0
    made.network = network
    return made


def mxnet(made: Model, name: str = "sgd", **options: Any) -> Engine:
    return MXNetEngine(made.blocks(), [mx.cpu()], OptimizerSettings(name, momentum=0.9, wd=1e-2), **options)


def pytorch(made: Model, name: str = "sgd", **options: Any) -> Engine:
    settings = OptimizerSettings(name, momentum=0.9, wd=1e-2)
    return TorchEngine(program(made.blocks()), CPU, settings, **options)


def train(
    engine: Engine, made: Model, count: int = 20, seed: int = 0, rate: float = 0.01, falls: bool = True
) -> list[np.ndarray]:
    estimator = Estimator(made, engine)
    losses = []
    for number, batch in enumerate(batches(count, seed=seed)):
        loss = estimator.step(batch, rate / (1 + number // 10 if falls else 1))
        if loss is not None:
            losses.append(loss)
    return losses


def assert_close(mine: dict[str, np.ndarray], others: dict[str, np.ndarray], tolerance: float = 2e-4) -> None:
    assert mine.keys() == others.keys()
    for name, value in others.items():
        np.testing.assert_allclose(
            mine[name], value, rtol=tolerance, atol=tolerance * np.abs(value).max(), err_msg=name
        )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_twenty_steps_of_an_optimizer_lead_where_they_do_with_mxnet(name: str) -> None:
    rate = RATES.get(name, 0.01)
    ends = []
    for make in (pytorch, mxnet):
        made = model()
        engine = make(made, name)
        losses = train(engine, made, rate=rate, falls=name != "lars")  # see there
        ends.append((losses, engine.parameters(), engine.optimizer_state()))
    (losses, mine, state), (others, theirs, wanted) = ends
    np.testing.assert_allclose(losses, others, rtol=1e-3)
    assert_close(mine, theirs, 1e-3)
    assert state.keys() == wanted.keys()
    assert state["num_update"] == wanted["num_update"]
    assert state["counts"] == wanted["counts"]
    assert state["m_schedule"] == pytest.approx(wanted["m_schedule"], abs=1e-30)
    assert state["loss_scale"] == wanted["loss_scale"]

    def form(value: Any) -> Any:
        return [form(part) for part in value] if isinstance(value, list) else getattr(value, "shape", value)

    assert {k: form(v) for k, v in state["states"].items()} == {
        k: form(v) for k, v in wanted["states"].items()
    }


def test_norms_are_those_of_all_numbers_in_whatever_order_and_of_very_many_not_short() -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=shape).astype(np.float32) for shape in ((3,), (5, 400), (70, 40, 5, 5))]
    given = [torch.from_numpy(array) for array in arrays]
    given[2] = given[2].contiguous(memory_format=torch.channels_last)
    expected = [np.linalg.norm(array.astype(np.float64)) for array in arrays]
    np.testing.assert_allclose(lists.norms(given), expected, rtol=1e-6)
    assert lists.norms([torch.full((1 << 25,), 0.01)]) == pytest.approx(0.01 * 2**12.5, rel=3e-5)
    given[1][3, 7] = np.nan
    assert np.isnan(lists.norms(given)).tolist() == [False, True, False]


@pytest.mark.parametrize("limit", [GradientLimit(0.003), RateLimit(0.003)])
def test_the_limit_of_a_step_holds(limit: Any) -> None:
    ends = []
    for make in (pytorch, mxnet):
        made = model()
        name = "sgd" if limit.of_gradient else "adam"
        engine = make(made, name, limit=limit)
        train(engine, made, rate=0.5)
        ends.append(engine.parameters())
    assert_close(*ends)
    made = model()
    free = pytorch(made, name)
    train(free, made, rate=0.5)
    assert not np.allclose(free.parameters()["4.weight"], ends[0]["4.weight"], rtol=0.05)


@pytest.mark.parametrize("age", [0.1, 1.0 / 3.0])
def test_the_average_and_its_statistics_are_those_of_mxnet(age: float) -> None:
    ends = []
    for make in (pytorch, mxnet):
        made = model()
        engine = make(made, ema_decay=0.99, ema_age=age)
        train(engine, made, 40)
        trained = engine.parameters()
        with engine.averaged():
            averaged = engine.parameters()
            predicted = engine.predict(batches(1)[0].arrays["image"])
        assert all((engine.parameters()[name] == value).all() for name, value in trained.items())
        assert not np.allclose(trained["4.weight"], averaged["4.weight"])
        engine.adopt_average()
        adopted = engine.parameters()
        ends.append((averaged, {"predicted": predicted[0]}, adopted))
    for mine, others in zip(*ends, strict=True):
        assert_close(mine, others, 1e-3)


def test_what_a_block_gives_before_there_is_an_engine_is_what_mxnet_gives() -> None:
    made = model()
    images = batches(1)[0].arrays["image"]
    mine, others = (
        open_inference(name, Inference(made.network), [mx.cpu()], [])(images) for name in ("torch", "mxnet")
    )
    np.testing.assert_allclose(mine[0], others[0], rtol=1e-4, atol=1e-5)


def test_every_optimizer_goes_on_bit_for_bit() -> None:
    """From a step at half the rate to one at the whole."""
    for make, names in ((pytorch, OPTIMIZERS), (mxnet, ("lars",))):
        for name in names:
            rate, made = RATES.get(name, 0.01), model()
            whole = make(made, name)
            train(whole, made, 12, rate=rate)
            parameters, state = whole.parameters(), whole.optimizer_state()
            train(whole, made, 2, rate=rate)

            made = model()
            after = make(made, name)
            after.set_parameters(parameters)
            after.restore_optimizer(state)
            train(after, made, 2, rate=rate)
            found = after.parameters()
            for key, value in whole.parameters().items():
                assert (found[key] == value).all(), (name, key)


@pytest.mark.parametrize("name", ["sgd", "adam", "nadam", "dcasgd", "ftml", "rmsprop"])
@pytest.mark.parametrize(("first", "second"), [(mxnet, pytorch), (pytorch, mxnet), (pytorch, pytorch)])
def test_one_engine_goes_on_where_the_other_has_stopped(name: str, first: Any, second: Any) -> None:
    made = model()
    whole = first(made, name, ema_decay=0.9)
    train(whole, made)
    train(whole, made, seed=1)

    made = model()
    before = first(made, name, ema_decay=0.9)
    train(before, made)
    average = before.average_state()
    with before.averaged():
        parameters = before.parameters()
    state, multipliers = before.optimizer_state(), before.multipliers()

    made = model()
    after = second(made, name, ema_decay=0.9)
    after.set_parameters(parameters)
    after.set_multipliers(multipliers)
    after.restore_average(average)
    after.restore_optimizer(state)
    train(after, made, seed=1)
    if first is second:
        assert all((after.parameters()[key] == value).all() for key, value in whole.parameters().items())
    assert_close(after.parameters(), whole.parameters(), 1e-3)


def test_the_same_seed_gives_the_same_parameters_bit_for_bit() -> None:
    ends = []
    for _ in range(2):
        made = model()
        engine = pytorch(made)
        train(engine, made)
        ends.append(engine.parameters())
    assert all((ends[0][name] == ends[1][name]).all() for name in ends[0])


def test_a_batch_that_is_not_finite_leaves_nothing_and_too_many_end_the_training() -> None:
    made = model()
    engine = pytorch(made, ema_decay=0.9)
    estimator = Estimator(made, engine)
    good, bad = batches(2)
    assert estimator.step(good, 0.01) is not None
    before, state = engine.parameters(), engine.average_state()
    bad.arrays["target"][2, 1] = np.nan
    for _ in range(MAX_SKIPPED - 1):
        assert estimator.step(bad, 0.01) is None
    after, now = engine.parameters(), engine.average_state()
    assert all((before[name] == after[name]).all() for name in before)
    assert state is not None
    assert now is not None
    assert state["updates"] == now["updates"]
    with pytest.raises(Exception, match=r"smaller train\.lr"):
        estimator.step(bad, 0.01)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_learns_and_predicts_in_float32(precision: str) -> None:
    made = model()
    engine = pytorch(made, precision=precision)
    plain = pytorch(model())
    images = batches(1)[0].arrays["image"]
    assert (engine.predict(images)[0] == plain.predict(images)[0]).all()
    first, *_, last = train(engine, made, 40, rate=0.002)
    assert last[0] < first[0]
    assert (engine.optimizer_state()["loss_scale"]["value"] > 1.0) == (precision == "float16")
    reference = pytorch(model())
    losses = train(reference, model(), 40, rate=0.002)
    assert not np.array_equal(last, losses[-1])


def test_a_scale_that_overflows_is_halved_until_it_does_not() -> None:
    made = model()
    engine = pytorch(made, precision="float16")
    estimator = Estimator(made, engine)
    batch = batches(1)[0]
    batch.arrays["target"] *= 3000
    results = [estimator.step(batch, 1e-9) for _ in range(16)]
    assert results[0] is None
    assert results[-1] is not None
    assert engine.optimizer_state()["loss_scale"]["value"] < 2.0**15


def test_what_is_frozen_stays() -> None:
    made = model()
    made.network[0].collect_params().setattr("grad_req", "null")
    engine = pytorch(made)
    before = engine.parameters()
    train(engine, made)
    after = engine.parameters()
    assert (before["0.weight"] == after["0.weight"]).all()
    assert not np.array_equal(before["4.weight"], after["4.weight"])


def test_what_does_not_fit_is_refused() -> None:
    made = model()
    engine = pytorch(made)
    train(engine, made)
    state = engine.optimizer_state()
    other = pytorch(model(), "adam")
    with pytest.raises(ValueError, match="another optimizer"):
        other.restore_optimizer(state)
    with pytest.raises(KeyError):
        engine.restore_optimizer({**state, "counts": {"none": 1}})
    with pytest.raises(KeyError):
        engine.set_multipliers({"none": [1.0, 1.0]})
