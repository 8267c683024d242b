"""CenterNet's network takes published parameters, finds what its maps show, and keeps classes it knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gluoncv
import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, nd

from common.engine.graph import export_symbol
from common.engine.mxnet_internals import named_parameters
from detect.center_net.deformable import sampling
from detect.center_net.network import (
    BASE_NETWORKS,
    CenterNetNetwork,
    backbone_parameters,
    build_network,
    decode,
    head_parameters,
    initialise,
    lateral_parameters,
    transfer_classes,
)
from detect.center_net.targets import fill_targets, map_shape, target_layout

CPU = [mx.cpu()]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def trained(base_network: str, classes: list[str], **options: Any) -> CenterNetNetwork:
    """A network as after some training: scores, sizes and offsets of deformable layers differ from place to
    place."""
    network, _ = build_network(base_network, classes, norm_kwargs={"momentum": 0.0}, **options)
    mx.random.seed(0)
    initialise(network, CPU, mean_size=(24, 16))
    for parameter in network.collect_params(".*offset_weight").values():
        parameter.set_data(nd.random.normal(scale=0.02, shape=parameter.shape))
    for head in network.heads:
        head[-1].weight.set_data(nd.random.normal(scale=0.1, shape=head[-1].weight.shape))
    with sampling(), autograd.record():  # the normalisation layers take their statistics from it
        total = sum(each.sum() for each in network.maps(nd, images(4)))
    total.backward()  # which is when MXNet updates them
    return network


def images(count: int = 1, width: int = 96, height: int = 64) -> Any:
    return nd.array(np.random.default_rng(count).normal(size=(count, 3, height, width)))


def numbers(outputs: Any) -> np.ndarray:
    return np.concatenate([array.asnumpy() for array in outputs], axis=2)


@pytest.fixture(scope="module")
def network() -> CenterNetNetwork:
    return trained("resnet18_v1b", ["a", "b", "c"], topk=20)


@pytest.mark.parametrize("base_network", BASE_NETWORKS)
def test_structure_is_that_of_the_published_networks(base_network: str) -> None:
    theirs = gluoncv.model_zoo.get_model(
        f"center_net_{base_network}_coco", pretrained=False, pretrained_base=False
    )
    theirs.infer_shape(nd.zeros((1, 3, 64, 64)))
    ours, _ = build_network(base_network, theirs.classes)
    expected = {name: tuple(value.shape) for name, value in named_parameters(theirs).items()}
    found = {name: tuple(value.shape) for name, value in named_parameters(ours).items()}
    added = {name for name in found if name.startswith("base_network.laterals.")}
    assert {name: shape for name, shape in found.items() if name not in added} == expected
    assert len(added) == 3 * (1 + 4)  # of each map: a convolution and BatchNorm


@pytest.mark.parametrize("base_network", ["resnet18_v1b", "resnet18_v1b_dcnv2"])
def test_parameters_saved_by_gluoncv_give_the_same_detections(base_network: str, tmp_path: Path) -> None:
    theirs = gluoncv.model_zoo.get_model(
        f"center_net_{base_network}_voc", pretrained=False, pretrained_base=False
    )
    theirs.initialize()
    for parameter in theirs.collect_params(".*offset_weight").values():
        parameter.initialize(mx.init.Normal(0.01), force_reinit=True)
    x = images(2)
    expected = [array.asnumpy() for array in theirs(x)]
    theirs.save_parameters(str(tmp_path / "theirs.params"))
    ours, _ = build_network(base_network, theirs.classes, topk=40)
    ours.load_parameters(str(tmp_path / "theirs.params"), allow_missing=True)
    for parameter in lateral_parameters(ours):
        parameter.initialize()
    ids, scores, boxes = (array.asnumpy() for array in ours(x))
    assert (scores > 0).all()
    np.testing.assert_array_equal(ids[..., 0], np.floor(expected[0]))
    np.testing.assert_allclose(scores[..., 0], expected[1], atol=1e-6)
    np.testing.assert_allclose(boxes, expected[2], atol=1e-3)


@pytest.mark.parametrize("size", [(64, 64), (40, 70)])
def test_finer_maps_of_the_backbone_reach_the_heads_at_any_size(size: tuple[int, int]) -> None:
    network, _ = build_network("resnet18_v1b", ["a"], topk=5)
    initialise(network, CPU)
    x = nd.random.uniform(shape=(1, 3, *size))
    before = [part.asnumpy() for part in network.maps(nd, x)]
    assert before[0].shape[2:] == tuple(-(-side // 32) * 8 for side in size)
    for number in range(3):
        network.base_network.laterals[number][1].gamma.set_data(nd.zeros(256 // 2**number))
        after = [part.asnumpy() for part in network.maps(nd, x)]
        assert np.abs(after[1] - before[1]).max() > 1e-3
        before = after


def test_decoding_gives_back_the_objects_that_targets_were_made_of() -> None:
    shape, boxes = (96, 64), np.array([[3, 5, 40, 31, 0], [50, 20, 57, 60, 2], [80, 2, 95, 9, 1]], np.float32)
    out = {name: np.zeros(size, dtype) for name, (size, dtype) in target_layout(3, shape, 5).items()}
    fill_targets(boxes, out)
    # Scores tell the three apart, and their order.
    heatmap = (out["heatmap"][1:] == 1) * np.array([0.9, 0.5, 0.7]).reshape(3, 1, 1)
    maps = np.zeros((4, 16 * 24), np.float32)
    used = out["weights"] > 0
    cells = out["cells"][used].astype(int)
    maps[:2, cells], maps[2:, cells] = out["sizes"][used].T, out["offsets"][used].T
    arrays = [nd.array(a)[None] for a in (heatmap, maps[:2].reshape(2, 16, 24), maps[2:].reshape(2, 16, 24))]
    rows = decode(nd, arrays[0], arrays[1], arrays[2], topk=5, scale=4).asnumpy()[0]
    np.testing.assert_allclose(rows[:3, 0], [0, 2, 1])
    np.testing.assert_allclose(rows[:3, 1], [0.9, 0.7, 0.5], atol=1e-6)
    np.testing.assert_allclose(rows[:3, 2:], boxes[[0, 1, 2], :4], atol=1e-4)
    assert (rows[3:] == -1).all()


@pytest.mark.parametrize("base_network", ["resnet18_v1b", "resnet18_v1b_dcnv2"])
def test_mirrored_image_gives_mirrored_boxes_with_flip_test(base_network: str) -> None:
    network = trained(base_network, ["a", "b"], topk=10)
    x = images(2)
    width = x.shape[3]

    def mirrored_boxes(rows: np.ndarray) -> np.ndarray:
        return np.concatenate(
            [rows[..., :2], width - rows[..., 4:5], rows[..., 3:4], width - rows[..., 2:3], rows[..., 5:]], 2
        )

    plain = numbers(network(x))
    assert not np.allclose(plain, mirrored_boxes(numbers(network(x.flip(axis=3)))), atol=1e-2)
    network.flip_test = True
    both = numbers(network(x))
    np.testing.assert_allclose(both, mirrored_boxes(numbers(network(x.flip(axis=3)))), atol=1e-3)
    assert not np.allclose(both, plain, atol=1e-2)


def test_flip_test_averages_heatmap_and_sizes(network: CenterNetNetwork) -> None:
    x = images(1)
    one, other = network.maps(nd, x), network.maps(nd, x.flip(axis=3))
    network.flip_test = True
    try:
        rows = numbers(network(x))[0]
    finally:
        network.flip_test = False
    heatmap, sizes = ((a + b.flip(axis=3)).asnumpy()[0] / 2 for a, b in zip(one[:2], other[:2], strict=True))
    class_id, row, column = np.unravel_index(heatmap.argmax(), heatmap.shape)
    assert rows[0, 0] == class_id
    assert rows[0, 1] == pytest.approx(heatmap.max(), abs=1e-6)
    np.testing.assert_allclose(rows[0, 4:] - rows[0, 2:4], sizes[:, row, column] * 4, atol=1e-3)


@pytest.mark.parametrize(("width", "height"), [(96, 64), (100, 33), (50, 70)])
def test_any_input_size_has_its_map_and_works_mirrored(
    network: CenterNetNetwork, width: int, height: int
) -> None:
    x = images(1, width, height)
    columns, rows = map_shape((width, height))
    assert [array.shape for array in network.maps(nd, x)] == [(1, n, rows, columns) for n in (3, 2, 2)]
    network.flip_test = True
    try:
        assert numbers(network(x)).shape == (1, 20, 6)
    finally:
        network.flip_test = False


@pytest.mark.parametrize("scale", [2, 8, 16, 32])
def test_scale_is_the_ratio_of_input_and_map(scale: int) -> None:
    network = trained("resnet18_v1b", ["a"], scale=float(scale), topk=1)
    heatmap, _, _ = network.maps(nd, images(1))
    assert heatmap.shape == (1, 1, 64 // scale, 96 // scale)
    # The bias of sizes is the mean size in cells, so that boxes have about that size in pixels.
    network.heads[1][-1].weight.set_data(nd.zeros(network.heads[1][-1].weight.shape))
    boxes = network(images(1))[2].asnumpy()[0]
    np.testing.assert_allclose(boxes[:, 2:] - boxes[:, :2], [[24, 16]], rtol=1e-4)


def test_more_detections_than_places_leaves_empty_rows() -> None:
    network = trained("resnet18_v1b", ["a"], scale=32, topk=20)
    rows = numbers(network(images(1)))[0]
    found = int((rows[:, 1] > 0).sum())
    assert 1 <= found <= 6
    assert (rows[found:] == -1).all()


def with_peaks(monkeypatch: pytest.MonkeyPatch, peaks: list[tuple[int, float, int, int]]) -> CenterNetNetwork:
    """A network whose maps show boxes of 40 x 40 pixels: class id, score, and column and row of the cell."""
    network, _ = build_network("resnet18_v1b", ["a", "b"], topk=3)
    heatmap = np.zeros((1, 2, 16, 24), np.float32)
    for class_id, score, column, row in peaks:
        heatmap[0, class_id, row, column] = score
    maps = [nd.array(heatmap), nd.full((1, 2, 16, 24), 10), nd.zeros((1, 2, 16, 24))]
    monkeypatch.setattr(network, "maps", lambda F, x: maps)
    return network


def found(network: CenterNetNetwork) -> list[tuple[int, float]]:
    """Class id and score of each row."""
    return [(int(row[0]), round(float(row[1]), 3)) for row in numbers(network(images(1)))[0]]


def test_nms_leaves_out_what_overlaps_a_better_box_of_its_class(monkeypatch: pytest.MonkeyPatch) -> None:
    # All but the last two overlap the first; boxes two cells apart have an IoU of 8 / 12.
    peaks = [
        (0, 0.9, 4, 8),
        (0, 0.8, 6, 8),
        (1, 0.7, 4, 8),
        (0, 0.6, 4, 10),
        (0, 0.5, 18, 8),
        (1, 0.4, 18, 8),
    ]
    network = with_peaks(monkeypatch, peaks)
    first_three = [(0, 0.9), (0, 0.8), (1, 0.7)]
    for off in (0.0, 1.0, -1.0):
        network.nms_thresh = off
        assert found(network) == first_three
    network.nms_thresh = 0.5
    assert found(network) == [(0, 0.9), (1, 0.7), (0, 0.5)]
    network.nms_thresh = 0.7
    assert found(network) == first_three


def test_nms_looks_at_nms_topk_candidates_and_leaves_post_nms(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = [(0, 0.9, 4, 8), (0, 0.8, 6, 8), (0, 0.7, 4, 10), (0, 0.5, 18, 8), (1, 0.4, 18, 8)]
    network = with_peaks(monkeypatch, peaks)
    network.nms_thresh = 0.5
    assert found(network) == [(0, 0.9), (0, 0.5), (1, 0.4)]
    network.nms_topk = 4
    assert found(network) == [(0, 0.9), (0, 0.5), (-1, -1)]
    network.nms_topk = -1  # no more than topk
    assert found(network) == [(0, 0.9), (-1, -1), (-1, -1)]
    network.nms_topk, network.post_nms = 400, 2
    assert found(network) == [(0, 0.9), (0, 0.5)]


@pytest.mark.parametrize("flip_test", [False, True])
def test_exported_model_gives_the_same_boxes_at_every_size(tmp_path: Path, flip_test: bool) -> None:
    network = trained("resnet18_v1b_dcnv2", ["a", "b"], topk=10, flip_test=flip_test, nms_thresh=0.5)
    symbol = export_symbol(network)
    symbol.save(str(tmp_path / "net-symbol.json"))
    names = set(symbol.list_auxiliary_states())
    nd.save(
        str(tmp_path / "net-0000.params"),
        {
            f"{'aux' if p.name in names else 'arg'}:{p.name}": p.data()
            for p in network.collect_params().values()
        },
    )
    loaded = mx.gluon.SymbolBlock.imports(
        str(tmp_path / "net-symbol.json"), ["data"], str(tmp_path / "net-0000.params")
    )
    for width, height in ((96, 64), (40, 70)):
        x = images(2, width, height)
        np.testing.assert_allclose(numbers(loaded(x)), numbers(network(x)), atol=1e-4)


def test_compiled_graph_takes_any_batch(network: CenterNetNetwork) -> None:
    network.hybridize()
    x = nd.random.normal(shape=(300, 3, 32, 32))
    rows = numbers(network(x))
    np.testing.assert_allclose(rows[290:], numbers(network(x[290:])), atol=1e-3)


def test_known_classes_keep_what_was_learnt_of_them() -> None:
    network = trained("resnet18_v1b", ["dog", "cat", "bird"], topk=20)
    x = images(1)
    before = [array.asnumpy() for array in network.maps(nd, x)]
    assert transfer_classes(network, ["bird", "fish", "dog"], CPU) == ["bird", "dog"]
    after = [array.asnumpy() for array in network.maps(nd, x)]
    np.testing.assert_allclose(after[0][:, [0, 2]], before[0][:, [2, 0]], atol=1e-6)
    assert not np.allclose(after[0][:, 1:2], before[0], atol=1e-3)
    for old, new in zip(before[1:], after[1:], strict=True):
        np.testing.assert_array_equal(old, new)
    assert network.classes == ["bird", "fish", "dog"]
    assert set(network(x)[0].asnumpy().ravel()) <= {-1.0, 0.0, 1.0, 2.0}
    fresh, _ = build_network("resnet18_v1b", ["x", "y", "z"])
    assert list(named_parameters(network)) == list(named_parameters(fresh))
    names = [parameter.name for parameter in network.collect_params().values()]
    assert len(names) == len(set(names)) == len(list(fresh.collect_params()))


def test_new_network_expects_few_objects_of_the_mean_size() -> None:
    network, _ = build_network("resnet18_v1b", ["a", "b"])
    mx.random.seed(0)
    initialise(network, CPU, mean_size=(40, 20))
    with autograd.train_mode():
        heatmap, sizes, offsets = (array.asnumpy() for array in network.maps(nd, images(2)))
    assert 0.002 < heatmap.mean() < 0.05
    np.testing.assert_allclose(sizes.mean(axis=(0, 2, 3)), [10, 5], atol=0.5)
    np.testing.assert_allclose(offsets.mean(axis=(0, 2, 3)), 0.5, atol=0.5)


def test_backbone_and_heads_are_told_apart() -> None:
    network, backbone = build_network("resnet18_v1b", ["a"])
    initialise(network, CPU)
    every = {id(parameter) for parameter in network.collect_params().values()}
    back, heads = ({id(p) for p in part} for part in (backbone_parameters(network), head_parameters(network)))
    assert back < every
    assert heads < every
    assert not back & heads
    assert len(heads) == 12
    assert back < {id(parameter) for parameter in backbone.collect_params().values()}


def test_imagenet_parameters_loaded_into_the_backbone_are_the_networks(tmp_path: Path) -> None:
    published = gluoncv.model_zoo.get_model("resnet18_v1b", pretrained=False)
    published.initialize(mx.init.Normal(0.5))
    published(images(1))
    published.save_parameters(str(tmp_path / "resnet18_v1b.params"))
    network, backbone = build_network("resnet18_v1b_dcnv2", ["a"])
    initialise(network, CPU)
    backbone.load_parameters(str(tmp_path / "resnet18_v1b.params"), ctx=CPU)
    expected = {name: p.data().asnumpy() for name, p in named_parameters(published).items()}
    ours = named_parameters(network.base_network.base_network)
    np.testing.assert_array_equal(ours["0.weight"].data().asnumpy(), expected["conv1.weight"])
    np.testing.assert_array_equal(
        ours["7.1.conv2.weight"].data().asnumpy(), expected["layer4.1.conv2.weight"]
    )


def test_what_no_network_has_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown base network 'resnet34_v1b'; resnet18_v1b, "):
        build_network("resnet34_v1b", ["a"])
    with pytest.raises(ValueError, match="scale is 3; it must be one of"):
        build_network("resnet18_v1b", ["a"], scale=3)
    with pytest.raises(ValueError, match="topk is 0"):
        build_network("resnet18_v1b", ["a"], topk=0)
