"""Every key of a classification job does what it says to network and training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import pytest
from mxnet import gluon

from classification.config import ClassificationConfig
from classification.metric import softmax
from classification.task import ClassificationTask, ClassifierModel
from common.config.reading import configuration
from common.data.samples import Sample
from common.engine.devices import bfloat16_supported
from common.engine.limits import GradientLimit, RateLimit
from common.engine.mxnet_internals import named_parameters
from common.engine.parameters import parameters, set_parameters
from common.errors import CheckpointError, PretrainedError
from common.networks.base_networks import base_network, initialize
from common.training.checkpoint import write_checkpoint
from common.training.estimator import Estimator
from tests.helpers.classification_jobs import batch, keys
from tests.helpers.estimators import by_recipe

NAMES = ["a", "b", "c"]
CPU = [mx.cpu()]
NAME = "mobilenet0.25"


def task(**more: Any) -> ClassificationTask:
    return ClassificationTask(configuration(ClassificationConfig, keys(Path("data"), Path("out"), **more)))


def build(
    classes: list[str] = NAMES, checkpoint: dict[str, Any] | None = None, **more: Any
) -> ClassifierModel:
    mx.random.seed(0)
    np.random.seed(0)
    return task(**more).build(classes, CPU, checkpoint)


def estimator(**more: Any) -> Estimator:
    return by_recipe(task(**more), build(**more))


def first_losses(**more: Any) -> np.ndarray:
    """Mean losses of the first step from the same random network."""
    losses = estimator(**more).step(batch(), 0.001)
    assert losses is not None
    return losses


def checkpoint_of(model: ClassifierModel) -> dict[str, Any]:
    return {
        "classes": model.classes,
        "model": model.description(),
        "parameters": parameters(model.network),
    }


def saved(path: Path, model: ClassifierModel) -> str:
    write_checkpoint(path, "classification", checkpoint_of(model))
    return str(path)


def imagenet_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> gluon.HybridBlock:
    """Random parameters in the place of ImageNet's, for NAME."""
    network = base_network(NAME, 1000)
    initialize(network, CPU)
    (home / "models").mkdir()
    network.save_parameters(str(home / "models" / f"{NAME}.params"))
    monkeypatch.setenv("MXNET_HOME", str(home))
    return network


@pytest.mark.parametrize("name", ["adam", "sgd", "nag", "adamw", "rmsprop"])
def test_the_optimizer_is_the_configured_one_and_changes_what_is_learnt(name: str) -> None:
    made = task(train__optimizer=name, train__wd=0.25).recipe(on_gpu=False)
    assert (made.optimizer.name, made.optimizer.wd) == (name, 0.25)
    assert type(made.limit) is (GradientLimit if name in ("sgd", "nag") else RateLimit)
    trained = estimator(train__optimizer=name)
    before = parameters(trained.model.network)
    trained.step(batch(), 0.001)
    after = parameters(trained.model.network)
    assert any((before[key] != after[key]).any() for key in before if key.endswith("weight"))


def test_label_smoothing_changes_the_loss() -> None:
    plain, smooth = first_losses(), first_losses(train__label_smoothing=True)
    assert plain != pytest.approx(
        smooth, rel=1e-5
    )  # an untrained last layer is nearly as unsure as it is told to be


def test_mixup_mixes_until_its_last_epochs() -> None:
    more = {"train__mixup": True, "train__epochs": 10, "train__mixup_off_epoch": 3, "train__mixup_alpha": 1.0}
    model = build(**more)
    assert len(build().training_inputs(batch()).shared) == 0
    shares = [
        [float(model.training_inputs(batch(e, n, plain=e > 6)).shared[0][0]) for n in range(5)]
        for e in range(10)
    ]
    assert all(0 < share < 1 for epoch in shares[:7] for share in epoch)
    assert len({share for epoch in shares[:7] for share in epoch}) == 35
    assert shares[7:] == [[1.0] * 5] * 3
    assert first_losses(**more) != pytest.approx(first_losses(), rel=1e-4)


def test_a_small_alpha_leaves_images_nearly_whole() -> None:
    def spread(alpha: float) -> float:
        model = build(train__mixup=True, train__mixup_alpha=alpha)
        shares = [float(model.training_inputs(batch(0, number)).shared[0][0]) for number in range(200)]
        return float(np.std(shares))

    assert spread(0.05) > spread(2.0) + 0.1


def test_imperative_training_computes_the_same_without_compiling() -> None:
    assert task().recipe(on_gpu=False).compiled
    assert not task(train__mode="imperative").recipe(on_gpu=False).compiled
    compiled, imperative = estimator(), estimator(train__mode="imperative")
    for seed in range(2):
        np.testing.assert_allclose(
            imperative.step(batch(seed=seed), 0.001), compiled.step(batch(seed=seed), 0.001), rtol=1e-3
        )
    one, other = (parameters(made.model.network)["output.weight"] for made in (compiled, imperative))
    np.testing.assert_allclose(one, other, atol=1e-3)


@pytest.mark.skipif(not bfloat16_supported(), reason="this processor has no bfloat16")
def test_bfloat16_trains_nearly_as_float32() -> None:
    assert task(train__dtype="bfloat16").recipe(on_gpu=False).precision == "bfloat16"
    rough, exact = first_losses(train__dtype="bfloat16"), first_losses()
    assert rough == pytest.approx(exact, rel=0.05)
    assert rough != pytest.approx(exact, rel=1e-6)


def test_float16_is_for_gpus() -> None:
    values = keys(Path("data"), Path("out"), train__dtype="float16")
    config = configuration(ClassificationConfig, {**values, "gpus": [0]})
    assert ClassificationTask(config).recipe(on_gpu=True).precision == "float16"


def test_no_wd_spares_biases_gamma_and_beta() -> None:
    for spared in (False, True):
        named = named_parameters(build(train__no_wd=spared).network)
        found = {p.wd_mult for name, p in named.items() if name.endswith(("bias", "gamma", "beta"))}
        assert found == {0.0 if spared else 1.0}
        assert {p.wd_mult for name, p in named.items() if name.endswith("weight")} == {1.0}


def test_pretrained_layers_and_the_last_one_learn_at_their_rates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = imagenet_file(tmp_path, monkeypatch)
    more = {"model__use_pretrained": True, "train__transfer_lr_mult": 0.0, "train__output_lr_mult": 0.5}
    trained = estimator(**more)
    network = trained.model.network
    before, start = parameters(source), parameters(network)
    assert all((start[name] == before[name]).all() for name in start if name.startswith("features."))
    trained.step(batch(), 0.001)
    after = parameters(network)
    statistics = ("running_mean", "running_var")
    moved = {name for name in after if (after[name] != start[name]).any() and not name.endswith(statistics)}
    assert moved == {"output.weight", "output.bias"}
    assert np.abs(after["output.bias"] - start["output.bias"]).max() == pytest.approx(0.0005, rel=0.01)


def test_missing_pretrained_parameters_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MXNET_HOME", str(tmp_path))
    monkeypatch.setenv("MXNET_GLUON_REPO", "http://127.0.0.1:9/")
    with pytest.raises(PretrainedError, match=f"{NAME}-[0-9a-f]{{8}}.params.*{tmp_path / 'models'}"):
        build(model__use_pretrained=True)


@pytest.mark.parametrize("variant", ["use_gn", "use_se", "last_gamma"])
def test_a_variant_is_another_network(variant: str) -> None:
    more = {"model__base_network": "resnet18_v1"}
    plain = build(**more)
    made = build(**more, **{f"model__{variant}": True})
    assert made.description()[variant] is True
    names, other = (set(named_parameters(m.network)) for m in (plain, made))
    gammas = [v for k, v in parameters(made.network).items() if k.endswith("gamma")]
    if variant == "last_gamma":
        assert any(not gamma.any() for gamma in gammas)
    elif variant == "use_se":
        assert other > names
    else:
        assert not [name for name in other if name.endswith("running_mean")]


def soft_loss(**more: Any) -> float:
    return float(first_losses(**more)[2])


def test_a_teacher_of_the_same_classes_is_followed_in_the_order_of_ours(tmp_path: Path) -> None:
    teacher = build(["c", "a", "b"])
    teacher.network.output.bias.set_data(mx.nd.array([9.0, 0.0, 0.0]))
    path = saved(tmp_path / "teacher.pkl", teacher)
    made = estimator(train__teacher=path, train__temperature=1.0, train__hard_weight=0.0, train__lr=0.01)
    assert made.model.losses == ("loss", "cross_entropy", "teacher")
    for _ in range(25):
        made.step(batch(), 0.01)
    logits = made.engine.predict(batch().arrays["image"])[0]
    assert set(softmax(logits).argmax(axis=1)) == {2}  # "c", where the labels are 0, 1, 2 in turn


def test_a_teacher_of_other_classes_is_learnt_by_a_layer_of_its_own(tmp_path: Path) -> None:
    teacher = build(["x", "y", "z", "a"])
    teacher.network.output.bias.set_data(mx.nd.array([4.0, 0.0, 0.0, 0.0]))
    path = saved(tmp_path / "teacher.pkl", teacher)
    made = estimator(train__teacher=path, train__temperature=2.0)
    assert set(made.engine.companions()) == {"teacher_output.weight", "teacher_output.bias"}
    losses = [made.step(batch(), 0.003) for _ in range(15)]
    assert losses[-1][2] < 0.9 * losses[0][2]  # type: ignore[index]
    assert "teacher_output" not in "".join(made.engine.parameters())


def test_a_teacher_may_be_any_published_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imagenet_file(tmp_path, monkeypatch)
    found = first_losses(train__teacher=NAME, train__hard_weight=0.25)
    assert found[0] == pytest.approx(0.25 * found[1] + 0.75 * found[2], rel=1e-4)


def test_the_weight_of_the_annotations_and_the_temperature_count(tmp_path: Path) -> None:
    path = saved(tmp_path / "teacher.pkl", build(NAMES, train__seed=5))
    plain = first_losses()
    hard = first_losses(train__teacher=path, train__hard_weight=1.0)
    assert hard[0] == pytest.approx(plain[0], rel=1e-4)
    assert soft_loss(train__teacher=path, train__temperature=1.0) < 0.5 * soft_loss(
        train__teacher=path, train__temperature=20.0
    )


def test_a_teacher_that_is_none_is_refused_with_its_key(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "other.pkl", "landmark", {"classes": [], "model": {}, "parameters": {}})
    with pytest.raises(CheckpointError, match=r"train\.teacher: .*landmark"):
        build(train__teacher=str(tmp_path / "other.pkl"))


def test_a_change_of_classes_keeps_what_is_known() -> None:
    old = build(NAMES)
    made = build(["c", "new", "a"], checkpoint_of(old), model__base_network=NAME)
    before, after = parameters(old.network), parameters(made.network)
    np.testing.assert_array_equal(after["output.weight"][[0, 2]], before["output.weight"][[2, 0]])
    assert all((after[name] == before[name]).all() for name in before if name.startswith("features."))


def test_a_checkpoint_whose_parameters_do_not_fit_is_refused() -> None:
    broken = checkpoint_of(build())
    del broken["parameters"]["output.weight"]
    with pytest.raises(CheckpointError, match="do not fit"):
        build(NAMES, broken)


def test_predictions_are_probabilities_and_the_metric_is_top_1() -> None:
    model, made = build(["a", "b"]), task()
    logits = np.array([[0.0, np.log(3.0)], [5.0, 5.0]])
    rows = made.decoder(model).predictions([logits], np.zeros((2, 2, 3)), (8, 8))
    np.testing.assert_allclose(rows, [[0.25, 0.75], [0.5, 0.5]])
    samples = [Sample(f"{c}/1.jpg", 8, 8, np.array([i], np.float32)) for i, c in enumerate("ab")]
    found = made.evaluator(model).evaluate(samples, rows)
    assert (found.value, found.curves["top5"]) == (0.0, 1.0)
    evaluation, document = made.evaluator(model).results(samples, rows)
    assert (evaluation.value, document["Accuray"]) == (0.0, "0.0")


def test_several_devices_train_with_mixup_and_a_teacher(tmp_path: Path) -> None:
    path = saved(tmp_path / "teacher.pkl", build(["x", "y"]))
    contexts = [mx.cpu(0), mx.cpu(1)]
    made = task(train__teacher=path, train__mixup=True, train__optimizer="sgd")
    model = made.build(NAMES, contexts, None)
    trained = by_recipe(made, model, contexts)
    before = parameters(model.network)
    assert trained.step(batch(), 0.01) is not None
    assert any((before[name] != value).any() for name, value in parameters(model.network).items())


def test_a_distillation_taken_up_again_goes_on_with_what_it_learnt_from_the_teacher(tmp_path: Path) -> None:
    path = saved(tmp_path / "teacher.pkl", build(["x", "y"]))
    more = {"train__teacher": path, "train__optimizer": "sgd", "train__momentum": 0.0}
    whole, again = estimator(**more), estimator(**more)
    for seed in range(2):
        whole.step(batch(seed=seed), 0.1)
    set_parameters(again.model.network, whole.engine.parameters())
    assert set(whole.engine.companions()) == {"teacher_output.weight", "teacher_output.bias"}
    assert (
        again.engine.companions()["teacher_output.weight"]
        != whole.engine.companions()["teacher_output.weight"]
    ).any()
    again.engine.set_companions(whole.engine.companions())
    np.testing.assert_array_equal(again.step(batch(seed=2), 0.1), whole.step(batch(seed=2), 0.1))
    assert not estimator().engine.companions()
