"""What tasks on a base network share: pretrained layers, their rates, and parameters of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import pytest

from classification.config import ClassificationConfig
from classification.task import ClassificationTask
from common.config.network_sections import NetworkTrainConfig
from common.config.reading import configuration
from common.engine.engine import OptimizerSettings
from common.engine.limits import LONGEST_STEP, GradientLimit, RateLimit, StepLimit
from common.engine.mxnet_internals import named_parameters
from common.engine.parameters import parameters
from common.errors import CheckpointError, DeviceError
from common.networks import transfer
from common.networks.base_networks import Network, base_network, initialize
from common.networks.start import restore
from common.recipe import Recipe

NAME = "mobilenet0.25"


def network(outputs: int = 3) -> Network:
    made = base_network(NAME, outputs)
    initialize(made, [mx.cpu()])
    return made


def task(model: dict[str, Any] | None = None, **train: Any) -> ClassificationTask:
    values = {"log_dir": "out", "gpus": [], "model": {"base_network": NAME, **(model or {})}, "train": train}
    return ClassificationTask(configuration(ClassificationConfig, values))


def multipliers(made: Network, part: str) -> set[tuple[float, float]]:
    named = named_parameters(made)
    return {(p.lr_mult, p.wd_mult) for name, p in named.items() if name.startswith(part)}


@pytest.fixture
def pretrained_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Network:
    """A user's own parameter file of NAME, and the network that it is of."""
    source = network(outputs=7)
    (tmp_path / "models").mkdir()
    source.save_parameters(str(tmp_path / "models" / f"{NAME}.params"))
    monkeypatch.setenv("MXNET_HOME", str(tmp_path))
    return source


def test_a_pretrained_network_begins_at_the_file_and_learns_at_its_rates(pretrained_home: Network) -> None:
    train = NetworkTrainConfig(transfer_lr_mult=0.25, output_lr_mult=0.5)
    made, loaded = task().start(None, lambda section, checkpoint: network())
    transfer.set_multipliers(made, loaded, train)
    for name, value in parameters(pretrained_home.features).items():
        np.testing.assert_array_equal(parameters(made.features)[name], value)
    assert multipliers(made, "features") == {(0.25, 1.0)}
    assert multipliers(made, "output") == {(0.5, 1.0)}


def test_a_network_from_scratch_has_one_rate_and_no_wd_spares_what_it_names() -> None:
    made, loaded = task({"use_pretrained": False}).start(None, lambda section, checkpoint: network())
    assert not loaded
    transfer.set_multipliers(made, loaded, NetworkTrainConfig(no_wd=True))
    named = named_parameters(made)
    assert {p.lr_mult for p in named.values()} == {1.0}
    for name, parameter in named.items():
        spared = name.rsplit(".", 1)[-1] in ("bias", "gamma", "beta")
        assert parameter.wd_mult == (0.0 if spared else 1.0)


@pytest.mark.parametrize("begun", [True, False])
def test_a_training_taken_up_again_goes_on_at_its_rates(begun: bool) -> None:
    old = network()
    checkpoint = {"model": {"base_network": NAME, "use_pretrained": begun}, "parameters": parameters(old)}
    made, names = task(checkpoint["model"]).start(checkpoint, lambda section, checkpoint: network())
    assert all((parameters(made)[name] == value).all() for name, value in parameters(old).items())
    transfer.set_multipliers(made, names, NetworkTrainConfig())
    assert multipliers(made, "features") == {(0.01 if begun else 1.0, 1.0)}
    assert multipliers(made, "output") == {(0.1 if begun else 1.0, 1.0)}


@pytest.mark.parametrize("damage", ["missing", "shape"])
def test_parameters_that_do_not_fit_are_refused(damage: str) -> None:
    made = network()
    values = parameters(made)
    if damage == "missing":
        del values["output.weight"]
    else:
        values["output.weight"] = np.zeros((9, 2), np.float32)
    with pytest.raises(CheckpointError, match="do not fit") as caught:
        restore(made, values)
    assert "\n" not in str(caught.value)


def recipe(**train: Any) -> Recipe:
    return task(**train).recipe(on_gpu=False)


def test_bfloat16_needs_a_processor_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.engine.devices.bfloat16_supported", lambda: False)
    with pytest.raises(DeviceError, match=r"train\.dtype: this processor has no bfloat16"):
        recipe(dtype="bfloat16")
    assert recipe().precision == "float32"
    monkeypatch.setattr("common.engine.devices.bfloat16_supported", lambda: True)
    assert recipe(dtype="bfloat16").precision == "bfloat16"


@pytest.mark.parametrize(
    ("optimizer", "limit"),
    [("sgd", GradientLimit), ("nag", GradientLimit), ("adam", RateLimit), ("adamw", RateLimit)],
)
def test_steps_are_limited_as_it_suits_the_optimizer(optimizer: str, limit: type[StepLimit]) -> None:
    made = recipe(optimizer=optimizer).limit
    assert type(made) is limit
    assert made.share == LONGEST_STEP


@pytest.mark.parametrize("optimizer", ["lamb", "lars", "adadelta", "ftrl"])
def test_optimizers_with_a_length_of_their_own_have_no_limit(optimizer: str) -> None:
    assert recipe(optimizer=optimizer).limit is None


def test_the_optimizer_takes_its_keys() -> None:
    made = recipe(optimizer="nag", momentum=0.5, wd=0.25, lr=2.0).optimizer
    assert made == OptimizerSettings("nag", learning_rate=2.0, momentum=0.5, wd=0.25)
