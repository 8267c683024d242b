"""A training does what the configuration says, on one device and on several, and survives numbers that go wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mxnet as mx
import numpy as np
import pytest
from mxnet import gluon

from common.config.network_sections import ONE_DEVICE
from common.engine.graph import Normalise, settle
from common.engine.limits import GradientLimit
from common.engine.mxnet_internals import children
from common.engine.parameters import parameters, set_parameters
from common.engine.schedule import Schedule
from common.errors import TrainingError
from common.loading.loader import Batch
from common.reporting import warnings
from common.training.estimator import MAX_SKIPPED, Estimator, Hook, TrainingState
from common.training.hooks import FromAverage
from tests.helpers.estimators import SIDE, Tiny, batches, estimator_of


class Given:
    """Serves the same batches every epoch."""

    def __init__(self, content: list[Batch]) -> None:
        self.content = content

    def __len__(self) -> int:
        return len(self.content)

    def epoch(self, number: int) -> Any:
        return iter(self.content)


def estimator(
    contexts: Sequence[Any] = (mx.cpu(),), momentum: float = 0.9, wd: float = 0.0, **keys: Any
) -> Estimator:
    return estimator_of(Tiny(contexts), contexts, momentum=momentum, wd=wd, **keys)


def trained(made: Estimator, count: int = 20, learning_rate: float = 0.01) -> dict[str, np.ndarray]:
    for batch in batches(count):
        made.step(batch, learning_rate)
    return parameters(made.model.network)


def test_the_loss_falls() -> None:
    made = estimator()
    losses = [made.step(batch, 0.01) for batch in batches(60)]
    assert losses[-1][0] < 0.2 * losses[0][0]  # type: ignore[index]


@pytest.mark.parametrize("contexts", [(mx.cpu(0), mx.cpu(1)), (mx.cpu(0), mx.cpu(1), mx.cpu(2), mx.cpu(3))])
def test_several_devices_learn_what_one_learns(contexts: tuple[Any, ...]) -> None:
    one, several = trained(estimator()), trained(estimator(contexts))
    for name, value in one.items():
        np.testing.assert_allclose(several[name], value, rtol=1e-4, atol=1e-6)


def test_the_same_start_gives_the_same_parameters_bit_for_bit() -> None:
    first, second = trained(estimator()), trained(estimator())
    assert all((first[name] == second[name]).all() for name in first)


def test_momentum_and_weight_decay_change_what_is_learnt() -> None:
    base = trained(estimator())
    assert not np.allclose(base["1.weight"], trained(estimator(momentum=0.0))["1.weight"])
    decayed = trained(estimator(wd=5.0))
    assert np.linalg.norm(decayed["1.weight"]) < 0.9 * np.linalg.norm(base["1.weight"])


def test_no_weight_changes_by_more_than_the_limit_in_a_step() -> None:
    made = estimator(momentum=0.0, limit=GradientLimit(0.05))
    before = parameters(made.model.network)["1.weight"]
    made.step(batches(1)[0], 1e6)
    change = parameters(made.model.network)["1.weight"] - before
    assert np.linalg.norm(change) == pytest.approx(0.05 * np.linalg.norm(before), rel=1e-3)


def test_a_batch_that_is_not_finite_changes_nothing_and_too_many_end_the_training() -> None:
    made = estimator()
    bad = batches(1)[0]
    bad.arrays["target"][2, 1] = np.nan
    before = parameters(made.model.network)
    assert made.step(bad, 0.01) is None
    after = parameters(made.model.network)
    assert all((before[name] == after[name]).all() for name in before)
    for _ in range(MAX_SKIPPED - 2):
        assert made.step(bad, 0.01) is None
    with pytest.raises(TrainingError, match=r"smaller train\.lr"):
        made.step(bad, 0.01)


def test_a_batch_that_is_not_finite_does_not_live_on_in_running_statistics() -> None:
    made = estimator()
    network = made.model.network
    with network.name_scope():
        network.add(gluon.nn.BatchNorm(in_channels=3))
    network[2].initialize()
    made = estimator_of(made.model, limit=None)
    good, bad = batches(2)
    assert made.step(good, 0.01) is not None
    weight = network[1].weight.data().copy()
    network[1].weight.set_data(weight * np.inf)
    assert made.step(bad, 0.01) is None
    network[1].weight.set_data(weight)
    assert all(np.isfinite(value).all() for value in parameters(network).values())
    assert made.step(good, 0.01) is not None
    assert all(np.isfinite(value).all() for value in parameters(network).values())


def test_good_batches_between_bad_ones_keep_the_training_alive() -> None:
    made = estimator()
    good, bad = batches(2)
    bad.arrays["target"][:] = np.inf
    for _ in range(MAX_SKIPPED):
        assert made.step(bad, 0.01) is None
        assert made.step(good, 0.01) is not None


def test_a_training_taken_up_again_goes_on_bit_for_bit() -> None:
    content = batches(20)
    whole = estimator()
    for batch in content:
        whole.step(batch, 0.01)
    first = estimator()
    for batch in content[:9]:
        first.step(batch, 0.01)
    second = estimator()
    set_parameters(second.model.network, parameters(first.model.network))
    second.restore_optimizer(first.optimizer_state())
    for batch in content[9:]:
        second.step(batch, 0.01)
    wanted, found = parameters(whole.model.network), parameters(second.model.network)
    assert all((wanted[name] == found[name]).all() for name in wanted)


@pytest.mark.parametrize("contexts", [(mx.cpu(0), mx.cpu(1)), (mx.cpu(1),)])
@pytest.mark.parametrize("optimizer", ["adam", "nadam"])
def test_every_device_goes_on_with_the_counts_of_its_updates(
    contexts: tuple[Any, ...], optimizer: str
) -> None:
    if optimizer in ONE_DEVICE and len(contexts) > 1:
        pytest.skip(f"{optimizer} is for one device")

    def made() -> Estimator:
        return estimator_of(Tiny(contexts), contexts, optimizer, limit=None)

    content = batches(12)
    whole, first, second = made(), made(), made()
    for batch in content:
        whole.step(batch, 0.01)
    for batch in content[:9]:
        first.step(batch, 0.01)
    set_parameters(second.model.network, parameters(first.model.network))
    second.restore_optimizer(first.optimizer_state())
    for batch in content[9:]:
        second.step(batch, 0.01)
    weights = whole.model.network[1].weight.list_data(), second.model.network[1].weight.list_data()
    for wanted, found in zip(*weights, strict=True):
        np.testing.assert_array_equal(wanted.asnumpy(), found.asnumpy())


def test_a_layer_made_in_the_place_of_another_goes_on_with_its_momentum() -> None:
    first, second = estimator(), Tiny([mx.cpu()])
    trained(first, 3)
    with second.network.name_scope():  # as for other classes: gluon counts it as a further layer
        children(second.network).pop("1")
        layer = gluon.nn.Dense(3, in_units=3 * SIDE * SIDE)
        layer.initialize()
        second.network.register_child(layer, "1")
    taken_up = estimator_of(second, momentum=0.9, limit=None)
    state = first.optimizer_state()
    taken_up.restore_optimizer(state)
    again = taken_up.optimizer_state()
    assert again["counts"] == state["counts"] == {"network.1.weight": 3, "network.1.bias": 3}
    np.testing.assert_array_equal(again["states"]["network.1.weight"], state["states"]["network.1.weight"])
    with pytest.raises(KeyError, match=r"network\.2\.weight"):
        taken_up.restore_optimizer({**state, "states": {"network.2.weight": np.zeros(3, np.float32)}})


def test_the_scale_of_the_loss_falls_where_gradients_overflow_and_rises_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("common.engine.loss_scale.GROWTH_INTERVAL", 3)
    made = estimator(compiled=False, precision="float16")
    bad, *good = batches(6)
    bad.arrays["target"][:] = np.inf
    scales = []
    for batch in (bad, bad, *good[:2], bad, *good):
        made.step(batch, 0.01)
        scales.append(made.optimizer_state()["loss_scale"]["value"] / 2**15)
    assert scales == [0.5, 0.25, 0.25, 0.25, 0.125, 0.125, 0.125, 0.25, 0.25, 0.25]
    fresh = estimator(compiled=False, precision="float16")
    fresh.restore_optimizer(made.optimizer_state())
    fresh.step(good[0], 0.01)
    assert fresh.optimizer_state()["loss_scale"]["value"] == 2**14  # the third step without an overflow


def test_mean_losses_are_those_of_the_batches_that_counted() -> None:
    made = estimator(momentum=0.0)
    content = batches(3)
    content[1].arrays["target"][:] = np.nan
    state = TrainingState(epochs=2, steps=3)
    seen = Means()
    made.fit(Given(content), lambda step: 0.0, [seen], state)  # type: ignore[arg-type]
    wanted = np.mean([made.step(batch, 0.0)[0] for batch in (content[0], content[2])])  # type: ignore[index]
    assert seen.totals == pytest.approx([wanted, wanted])


class Means(Hook):
    def __init__(self) -> None:
        self.totals: list[float] = []

    def after_epoch(self, state: TrainingState) -> None:
        self.totals.append(state.losses["total"])


class Recorder(Hook):
    def __init__(self, stop_after: int | None = None) -> None:
        self.calls: list[tuple[str, int, int]] = []
        self.rates: list[float] = []
        self.stop_after = stop_after

    def before_training(self, state: TrainingState) -> None:
        self.calls.append(("before", state.epoch, state.step))

    def after_step(self, state: TrainingState) -> None:
        self.rates.append(state.learning_rate)

    def after_epoch(self, state: TrainingState) -> None:
        self.calls.append(("epoch", state.epoch, state.step))
        if state.epoch == self.stop_after:
            state.stop_reason = "enough"

    def after_training(self, state: TrainingState) -> None:
        self.calls.append(("after", state.epoch, state.step))


def test_epochs_run_from_start_epoch_and_steps_follow_the_schedule() -> None:
    recorder = Recorder()
    state = TrainingState(epochs=4, steps=3, start_epoch=2, epoch=2)
    estimator().fit(Given(batches(3)), lambda step: step / 1000, [recorder], state)  # type: ignore[arg-type]
    assert recorder.calls == [("before", 2, 0), ("epoch", 2, 3), ("epoch", 3, 3), ("after", 3, 3)]
    assert recorder.rates == [step / 1000 for step in range(6, 12)]
    assert state.fraction == 1.0


class Averages(Hook):
    """Trained parameters and their averages after every epoch."""

    def __init__(self, made: Estimator) -> None:
        self.made = made
        self.trained: list[np.ndarray] = []
        self.averaged: list[np.ndarray] = []

    def after_epoch(self, state: TrainingState) -> None:
        self.trained.append(parameters(self.made.model.network)["1.weight"])
        with self.made.engine.averaged():
            self.averaged.append(parameters(self.made.model.network)["1.weight"])


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_where_the_rate_steps_down_training_goes_on_from_the_average(momentum: float) -> None:
    made = estimator(momentum=momentum, ema_decay=0.9)
    seen = Averages(made)
    # So small a rate that what happens at the step alone moves anything.
    schedule = Schedule(0.01, "step", 2, 5, decay=1e-9, decay_epochs=(1,))
    hooks = [FromAverage(made.engine, schedule.steps_down_at), seen]
    made.fit(Given(batches(5)), schedule, hooks, TrainingState(2, 5))  # type: ignore[arg-type]
    assert not np.allclose(seen.averaged[0], seen.trained[0])
    np.testing.assert_allclose(seen.trained[1], seen.averaged[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("decay", "asked"),
    [(0.1, False), (0.6, True)],  # not asked for; the rate falls by less than half
)
def test_elsewhere_the_average_leaves_the_training_alone(decay: float, asked: bool) -> None:
    found = []
    for ema_decay in (0.0, 0.9):
        made = estimator(ema_decay=ema_decay)
        schedule = Schedule(0.01, "step", 3, 5, decay=decay, decay_epochs=(1, 2))
        hooks = [FromAverage(made.engine, schedule.steps_down_at)] if asked else []
        made.fit(Given(batches(5)), schedule, hooks, TrainingState(3, 5))  # type: ignore[arg-type]
        found.append(parameters(made.model.network)["1.weight"])
    assert (found[0] == found[1]).all()


def test_a_hook_ends_training_after_the_epoch() -> None:
    recorder = Recorder(stop_after=1)
    state = TrainingState(epochs=9, steps=2)
    estimator().fit(Given(batches(2)), lambda step: 0.01, [recorder], state)  # type: ignore[arg-type]
    assert state.epoch == 1
    assert recorder.calls[-1] == ("after", 1, 2)


def test_hooks_end_when_training_fails() -> None:
    recorder = Recorder()
    content = batches(MAX_SKIPPED)
    for batch in content:
        batch.arrays["target"][:] = np.nan
    with pytest.raises(TrainingError):
        estimator().fit(Given(content), lambda step: 0.01, [recorder], TrainingState(1, len(content)))  # type: ignore[arg-type]
    assert recorder.calls[-1][0] == "after"


def test_the_average_is_seen_within_its_block_alone() -> None:
    made = estimator(ema_decay=0.9)
    last = trained(made)
    with made.engine.averaged():
        average = parameters(made.model.network)
    assert not np.allclose(average["1.weight"], last["1.weight"])
    assert (parameters(made.model.network)["1.weight"] == last["1.weight"]).all()
    without = estimator()
    last = trained(without)
    with without.engine.averaged():
        assert (parameters(without.model.network)["1.weight"] == last["1.weight"]).all()


def test_batchnorm_has_the_statistics_of_the_averaged_parameters_within_the_block() -> None:
    def with_norm() -> Estimator:
        model = Tiny([mx.cpu()])
        model.network = gluon.nn.HybridSequential(prefix="normed_")
        with model.network.name_scope():
            model.network.add(gluon.nn.Conv2D(16, 3, in_channels=3), gluon.nn.BatchNorm(in_channels=16))
            model.network.add(gluon.nn.Flatten(), gluon.nn.Dense(3))
        model.network.initialize(mx.init.Normal(0.1))
        settle(model.network, (1, 3, SIDE, SIDE))
        return estimator_of(model, limit=None, ema_decay=0.9)

    made = with_norm()
    trained(made)
    with made.engine.averaged():
        averages = made.engine.parameters()
    state = made.engine.average_state()
    assert state is not None
    for name in state["statistics"]:  # so far off that nothing of them is kept
        state["statistics"][name] = np.full(16, 1e6, np.float32)
    made.engine.set_parameters(averages)
    made.engine.restore_average(state)
    for batch in batches(20)[-6:]:
        made.step(batch, 0.0)
    running = {name: value for name, value in parameters(made.model.network).items() if "running_" in name}
    with made.engine.averaged():
        convolution = made.model.network[0]
        images = [mx.nd.array(batch.arrays["image"], dtype="uint8") for batch in batches(20)[-6:]]
        reached = [convolution(Normalise()(image)).asnumpy() for image in images]
        found = parameters(made.model.network)
    expected = np.mean([maps.mean((0, 2, 3)) for maps in reached], 0)
    np.testing.assert_allclose(found["1.running_mean"], expected, rtol=1e-4, atol=1e-5)
    expected = np.mean([maps.var((0, 2, 3)) for maps in reached], 0)
    np.testing.assert_allclose(found["1.running_var"], expected, rtol=1e-2)
    now = parameters(made.model.network)
    assert all((now[name] == value).all() for name, value in running.items())


def short_of_memory(monkeypatch: pytest.MonkeyPatch, made: Estimator, most: int) -> None:
    """From now on there is memory for so many rows at a time."""
    take = made.engine.take

    def takes_few(split: Sequence[np.ndarray], shared: Sequence[np.ndarray] = ()) -> None:
        if len(split[0]) > most:
            raise mx.MXNetError("Check failed: cudaMalloc retry failed: out of memory")
        take(split, shared)

    monkeypatch.setattr(made.engine, "take", takes_few)


def test_a_batch_that_needs_too_much_memory_is_computed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    warnings.forget()
    whole, narrow = estimator(momentum=0.9), estimator(momentum=0.9)
    short_of_memory(monkeypatch, narrow, 2)
    for batch in batches(4):
        expected, found = whole.step(batch, 0.1), narrow.step(batch, 0.1)
        np.testing.assert_allclose(found, expected, rtol=1e-4)  # type: ignore[arg-type]
    assert narrow.parts == 4  # of 2, 2, 1 and 1 rows
    ours, theirs = parameters(narrow.model.network), parameters(whole.model.network)
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-4, atol=1e-6)
    assert any("batches of 6 are computed in 4 parts" in sentence for sentence in warnings.told())
    warnings.forget()


def test_a_batch_that_cannot_be_divided_further_ends_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    made = estimator()
    short_of_memory(monkeypatch, made, 0)
    with pytest.raises(mx.MXNetError, match="out of memory"):
        made.step(batches(1)[0], 0.1)
    assert made.parts == 4
