"""Base networks: every name builds, trains, exports; parameter files fit; variants are real or refused."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import gluoncv
import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon

from common.config.network_names import (
    BASE_NETWORKS,
    SMALLEST_SIZE,
    VARIANTS,
    check_name,
    embedding_dimension,
    variant_problems,
)
from common.engine.mxnet_internals import children, named_parameters, value_of
from common.errors import PretrainedError
from common.networks.base_networks import (
    GroupNorm,
    Network,
    ReLU6,
    base_features,
    base_map,
    base_network,
    group_count,
    imagenet,
    initialize,
    set_lr_multipliers,
    set_no_weight_decay,
)
from common.networks.pretrained import find_parameters
from common.networks.start import load

# One of every kind takes a step of training; the others differ from it in how often a block is repeated, or how wide.
QUICK = ("resnet18_v1", "resnet18_v2", "mobilenet0.25", "mobilenetv2_0.25", "mobilenetv3_small")
SLOW = ("resnet50_v1", "resnet50_v2", "mobilenetv3_large")


def built(name: str, outputs: int = 3, **variants: bool) -> Network:
    mx.random.seed(1)
    network = base_network(name, outputs, **variants)
    initialize(network, [mx.cpu()])
    return network


def images(width: int = SMALLEST_SIZE, height: int = SMALLEST_SIZE, count: int = 4) -> mx.nd.NDArray:
    return mx.nd.array(np.random.default_rng(0).normal(size=(count, 3, height, width)))


def values(network: Network) -> dict[str, np.ndarray]:
    return {name: p.data().asnumpy() for name, p in named_parameters(network).items()}


def digests(network: Network) -> dict[str, bytes]:
    """What tells changed parameters from unchanged ones, in less memory than the half gigabyte of a VGG."""
    arrays = ((name, value_of(p)) for name, p in named_parameters(network).items())
    return {
        name: hashlib.sha1(array).digest() if np.isfinite(array).all() else b"nan" for name, array in arrays
    }


def zoo_names(name: str) -> list[str]:
    """Names of the parameters of the published network, but for those of its head."""
    from gluoncv.model_zoo import get_model

    return [
        parameter for parameter in named_parameters(get_model(name)) if not parameter.startswith("output")
    ]


@pytest.fixture(autouse=True)
def _free_memory() -> Iterator[None]:
    """A network and its blocks refer to each other: without this, several would stay in memory for long."""
    yield
    gc.collect()


def check_builds_trains_exports(folder: Path, name: str, size: tuple[int, int], **variants: bool) -> None:
    network, x = built(name, **variants), images(*size)
    network.hybridize()
    assert network.features(x).shape == (4, embedding_dimension(name))
    before = digests(network)
    trainer = gluon.Trainer(network.collect_params(), "sgd", {"learning_rate": 0.01})
    # In the first step, a last gamma of zero lets no gradient through to the rest of its block.
    for _ in range(2 if variants.get("last_gamma") else 1):
        with autograd.record():
            loss = gluon.loss.SoftmaxCELoss()(network(x), mx.nd.array([0, 2, 1, 1]))
        loss.backward()
        trainer.step(4)
    after = digests(network)
    still = [n for n in before if n.endswith("weight") and before[n] == after[n]]
    # Squeezed units may all be dead for a few random images; everything else must have moved.
    assert not [n for n in still if ".se." not in n]
    assert b"nan" not in after.values()
    expected = network(x).asnumpy()
    network.export(str(folder / "net"))
    again = gluon.SymbolBlock.imports(
        str(folder / "net-symbol.json"), ["data"], str(folder / "net-0000.params")
    )
    np.testing.assert_allclose(again(x).asnumpy(), expected, rtol=1e-4, atol=1e-5)
    (folder / "net-0000.params").unlink()  # pytest would keep it


@pytest.mark.parametrize("name", QUICK)
def test_a_network_builds_trains_a_step_and_exports(name: str, tmp_path: Path) -> None:
    check_builds_trains_exports(tmp_path, name, (SMALLEST_SIZE, SMALLEST_SIZE))


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_a_larger_network_builds_trains_a_step_and_exports(name: str, tmp_path: Path) -> None:
    check_builds_trains_exports(tmp_path, name, (SMALLEST_SIZE, SMALLEST_SIZE))


@pytest.mark.parametrize("name", BASE_NETWORKS)
def test_every_network_is_built_and_has_the_zoos_layers(name: str) -> None:
    """All shapes follow from that of the input; nothing is computed."""
    network = base_network(name, 3)
    graph = network(mx.sym.var("data", shape=(2, 3, 96, 64)))
    shapes, outputs, _ = graph.infer_shape()
    assert outputs == [(2, 3)]
    found = dict(zip(graph.list_arguments(), shapes, strict=True))
    assert found[network.output.weight.name] == (3, embedding_dimension(name))
    assert set(zoo_names(name)) <= set(named_parameters(network))


@pytest.mark.parametrize("name", ["resnet18_v1", "mobilenetv2_0.25"])
def test_width_and_height_may_differ(name: str, tmp_path: Path) -> None:
    check_builds_trains_exports(tmp_path, name, (96, 40))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "option"), [("densenet121", "use_gn"), ("vgg11", "batch_norm")])
def test_networks_of_fixed_size_in_the_zoo_take_other_sizes_and_variants(
    name: str, option: str, tmp_path: Path
) -> None:
    check_builds_trains_exports(tmp_path, name, (96, 40), **{option: True})


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["densenet121", "vgg11", "resnet18_v1", "mobilenetv3_small", "mobilenetv2_0.5"]
)
def test_the_embedding_is_the_zoos_at_224(name: str, tmp_path: Path) -> None:
    from gluoncv.model_zoo import get_model

    zoo, network, x = get_model(name, classes=1), built(name), images(224, 224, 1)
    zoo.initialize()
    zoo(x)
    zoo.save_parameters(str(tmp_path / "zoo.params"))
    load_pretrained(network, tmp_path / "zoo.params")
    np.testing.assert_allclose(
        network.features(x).asnumpy(), zoo.features(x).asnumpy().reshape((1, -1)), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("resnet18_v1", "use_gn"),
        ("resnet18_v2", "use_gn"),
        ("mobilenetv2_0.25", "use_gn"),
        ("mobilenetv3_small", "use_gn"),
        ("resnet18_v1", "use_se"),
        ("resnet18_v1", "last_gamma"),
    ],
)
def test_a_variant_builds_trains_and_exports(name: str, option: str, tmp_path: Path) -> None:
    check_builds_trains_exports(tmp_path, name, (SMALLEST_SIZE, SMALLEST_SIZE), **{option: True})


@pytest.mark.parametrize("name", ["resnet18_v1", "resnet18_v2", "mobilenet0.25", "mobilenetv2_0.25"])
def test_the_last_map_is_what_the_embedding_pools(name: str) -> None:
    network, x = built(name), images(96, 64)
    last = base_map(name)
    last.initialize()
    for parameter, value in zip(
        last.collect_params().values(), network.features.collect_params().values(), strict=True
    ):
        parameter.set_data(value.data())
    found = last(x)
    assert found.shape[2:] == (2, 3)
    np.testing.assert_allclose(
        found.mean(axis=(2, 3)).asnumpy(), network.features(x).asnumpy(), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("name", ["mobilenetv3_small", "vgg11", "densenet121"])
def test_a_map_has_the_zoos_parameters_and_nothing_behind_it(name: str) -> None:
    last = {n: p.shape for n, p in named_parameters(base_map(name)).items()}
    whole = {n: p.shape for n, p in named_parameters(base_network(name, 1).features).items()}
    assert last.items() <= whole.items()
    behind = {"mobilenetv3_small": 1, "vgg11": 4, "densenet121": 0}
    assert len(whole) - len(last) == behind[name]


def kinds(block: gluon.HybridBlock) -> list[str]:
    return [type(child).__name__ for child in children(block).values()] + [
        kind for child in children(block).values() for kind in kinds(child)
    ]


@pytest.mark.parametrize(
    "name", ["resnet18_v1", "resnet50_v2", "mobilenet0.25", "mobilenetv3_large", "densenet121"]
)
def test_group_norm_replaces_every_batch_norm(name: str) -> None:
    plain, grouped = kinds(base_network(name, 2)), kinds(base_network(name, 2, use_gn=True))
    assert "BatchNorm" not in grouped
    assert grouped.count("GroupNorm") == plain.count("BatchNorm") > 0


def test_group_norm_is_the_papers() -> None:
    rng = np.random.default_rng(3)
    x, gamma, beta = rng.normal(2, 3, (2, 32, 5, 4)), rng.normal(size=32), rng.normal(size=32)
    layer = GroupNorm(32)
    layer.initialize()
    layer.gamma.set_data(mx.nd.array(gamma))
    layer.beta.set_data(mx.nd.array(beta))
    grouped = x.reshape(2, layer.groups, -1)
    normal = (grouped - grouped.mean(2, keepdims=True)) / np.sqrt(grouped.var(2, keepdims=True) + 1e-5)
    expected = normal.reshape(x.shape) * gamma[:, None, None] + beta[:, None, None]
    np.testing.assert_allclose(layer(mx.nd.array(x)).asnumpy(), expected, rtol=1e-4, atol=1e-4)
    assert layer.groups == 4


def test_groups_divide_the_channels() -> None:
    for channels in (1, 6, 16, 24, 48, 96, 144, 512, 2048):
        groups = group_count(channels)
        assert channels % groups == 0
        assert groups <= 32
        assert groups == 1 or channels // groups >= 8


def test_the_last_gamma_of_a_residual_block_begins_at_zero() -> None:
    def zero_gammas(**variants: bool) -> int:
        arrays = values(built("resnet18_v1", **variants))
        return sum(not array.any() for name, array in arrays.items() if name.endswith("gamma"))

    assert (zero_gammas(), zero_gammas(last_gamma=True), zero_gammas(last_gamma=True, use_gn=True)) == (
        0,
        8,
        8,
    )


@pytest.mark.parametrize("option", sorted(VARIANTS))
def test_a_variant_that_a_network_does_not_have_is_refused(option: str) -> None:
    without = [name for name in BASE_NETWORKS if name not in VARIANTS[option]]
    assert without
    for name in without:
        with pytest.raises(ValueError, match=f"{option}: {name} has no such variant; only .*(resnet|vgg)"):
            base_network(name, 2, **{option: True})
        assert set(variant_problems(name, **{option: True})) == {option}


def test_an_unknown_network_is_told_the_nearest_name() -> None:
    with pytest.raises(ValueError, match="did you mean 'resnet50_v1'"):
        check_name("resnet50v1")


def load_pretrained(network: Network, path: Path, *, with_output: bool = False) -> frozenset[str]:
    return load(imagenet(network, path.stem, with_output=with_output), path)


def zoo_file(folder: Path, name: str, **options: object) -> Path:
    from gluoncv.model_zoo import get_model

    zoo = get_model(name, **options)
    zoo.initialize(mx.init.Normal(0.1))
    zoo(images())
    path = folder / f"{name}.params"
    zoo.save_parameters(str(path))
    return path


@pytest.mark.parametrize("name", ["resnet18_v1", "mobilenetv2_0.25", "mobilenetv3_small"])
def test_a_file_of_the_zoo_loads_whatever_the_number_of_outputs(name: str, tmp_path: Path) -> None:
    path = zoo_file(tmp_path, name, classes=10)
    network = built(name, outputs=3)
    head = values(network)["output.weight"]
    loaded = load_pretrained(network, path)
    arrays, file = values(network), mx.nd.load(str(path))
    assert set(arrays) - loaded == {"output.weight", "output.bias"}
    assert all(np.array_equal(arrays[n], file[n].asnumpy()) for n in loaded)
    assert np.array_equal(arrays["output.weight"], head)


@pytest.mark.parametrize("name", ["resnet18_v1", "mobilenetv2_0.25", "mobilenetv3_small"])
def test_a_teacher_keeps_the_files_classes(name: str, tmp_path: Path) -> None:
    from gluoncv.model_zoo import get_model

    path = zoo_file(tmp_path, name, classes=10)
    zoo, teacher = get_model(name, classes=10), built(name, outputs=10)
    zoo.load_parameters(str(path))
    load_pretrained(teacher, path, with_output=True)
    np.testing.assert_allclose(teacher(images()).asnumpy(), zoo(images()).asnumpy(), rtol=1e-4, atol=1e-5)
    with pytest.raises(PretrainedError, match=r"output\.weight"):
        load_pretrained(built(name, outputs=3), path, with_output=True)


def test_squeeze_and_excite_and_group_norm_start_from_the_plain_networks_file(tmp_path: Path) -> None:
    path = zoo_file(tmp_path, "resnet18_v1")
    loaded = load_pretrained(built("resnet18_v1", use_se=True), path)
    assert not [name for name in loaded if ".se." in name]
    assert "features.4.0.body.0.weight" in loaded
    grouped = built("resnet18_v1", use_gn=True)
    assert not [name for name in load_pretrained(grouped, path) if name.endswith(("gamma", "beta"))]


def test_a_file_of_another_network_and_a_damaged_file_are_named(tmp_path: Path) -> None:
    path = zoo_file(tmp_path, "mobilenet0.25")
    with pytest.raises(PretrainedError, match=f"{path}: parameters of another network: features"):
        load_pretrained(built("resnet18_v1"), path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(PretrainedError, match=f"{path}: not a parameter file"):
        load_pretrained(built("mobilenet0.25"), path)
    with pytest.raises(PretrainedError, match="not a parameter file"):
        load_pretrained(built("mobilenet0.25"), tmp_path / "missing.params")


def test_real_parameters_know_a_bee(shared_models: Path, shared_data: Path) -> None:
    network = built("mobilenetv2_1.0", outputs=7)
    loaded = load_pretrained(network, shared_models / "mobilenetv2_1.0.params")
    assert len(loaded) == 260
    teacher = built("mobilenetv2_1.0", outputs=1000)
    load_pretrained(teacher, shared_models / "mobilenetv2_1.0.params", with_output=True)
    bees = sorted((shared_data / "hymenoptera" / "test" / "bees").glob("*.jpg"))[:5]
    photos = np.stack([cv2.resize(cv2.imread(str(path))[:, :, ::-1], (224, 224)) for path in bees])
    normal = (photos / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    classes = teacher(mx.nd.array(normal.transpose(0, 3, 1, 2))).argmax(axis=1).asnumpy()
    assert (classes == 309).sum() >= 3  # ImageNet's class of bees


def test_the_parameters_that_came_with_the_project_are_those_of_their_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MXNET_HOME", str(tmp_path))
    network = built("mobilenetv2_1.0", outputs=7)
    assert len(load_pretrained(network, find_parameters("mobilenetv2_1.0"))) == 260
    values = {name: value.data().asnumpy() for name, value in named_parameters(network).items()}
    assert {value.dtype.name for value in values.values()} == {"float32"}
    # What a network has learnt is no noise: statistics of 32 channels differ a thousandfold.
    variances = values["features.1.running_var"]
    assert variances.max() > 1000 * variances.min()


def test_multipliers_tell_pretrained_from_new_layers() -> None:
    network = base_network("resnet18_v1", 3, use_se=True)
    pretrained = [n for n in named_parameters(network) if n.startswith("features") and ".se." not in n]
    set_lr_multipliers(network, pretrained, transfer=0.01, output=0.1)
    found = {n: p.lr_mult for n, p in named_parameters(network).items()}
    assert {found[n] for n in pretrained} == {0.01}
    assert {found[n] for n in found if n not in pretrained} == {0.1}
    set_lr_multipliers(network, [], transfer=0.01, output=0.1)
    assert {p.lr_mult for p in network.collect_params().values()} == {1.0}


def test_no_weight_decay_is_for_biases_gamma_and_beta_alone() -> None:
    network = base_network("resnet50_v1", 3)
    set_no_weight_decay(network)
    free = {n.rsplit(".", 1)[-1] for n, p in named_parameters(network).items() if p.wd_mult == 0}
    decayed = {n.rsplit(".", 1)[-1] for n, p in named_parameters(network).items() if p.wd_mult == 1}
    assert free == {"bias", "gamma", "beta"}
    assert decayed == {"weight", "running_mean", "running_var"}


def test_relu6_is_that_of_gluoncv_with_its_gradient() -> None:
    x = np.random.default_rng(0).normal(size=(2, 8, 5, 5)).astype(np.float32) * 6
    results = []
    for layer in (gluoncv.nn.ReLU6(), ReLU6()):
        inputs = mx.nd.array(x)
        inputs.attach_grad()
        with mx.autograd.record():
            outputs = layer(inputs)
        outputs.backward(mx.nd.array(x))
        results.append((outputs.asnumpy(), inputs.grad.asnumpy()))
    assert results[0][0].max() == 6
    for theirs, ours in zip(*results, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", ["mobilenetv2_0.25", "mobilenetv3_small"])
def test_every_relu6_is_the_quick_one(name: str) -> None:
    found: list[type] = []
    base_features(name).apply(lambda block: found.append(type(block)))
    assert ReLU6 in found
    assert gluoncv.nn.ReLU6 not in found
