"""The ReID network: embeddings of length 1, exported alone; the triplet loss is the paper's."""

from __future__ import annotations

from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon

from classification.networks import transfer_classes
from common.config.network_names import SMALLEST_SIZE, embedding_dimension
from common.engine.graph import inference_graph
from common.engine.mxnet_internals import named_parameters
from common.networks.base_networks import imagenet
from common.networks.start import load
from reid.network import BatchHardTriplet, EmbeddingInference, ReidTraining, build_embedding

NAME = "mobilenet0.25"


def images(count: int = 6) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 48, 3), np.uint8)


def test_embeddings_have_length_one_and_are_exported_without_the_head(tmp_path: Path) -> None:
    network = build_embedding(NAME, 5, [mx.cpu()])
    x = mx.nd.random.normal(shape=(3, 3, 32, 48))
    network.hybridize()
    embedding = network(x).asnumpy()
    assert embedding.shape == (3, embedding_dimension(NAME))
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1, rtol=1e-5)
    network.export(str(tmp_path / "net"))
    arrays = mx.nd.load(str(tmp_path / "net-0000.params"))
    assert not [name for name in arrays if "dense" in name]
    again = gluon.SymbolBlock.imports(
        str(tmp_path / "net-symbol.json"), ["data"], str(tmp_path / "net-0000.params")
    )
    np.testing.assert_allclose(again(x).asnumpy(), embedding, rtol=1e-4, atol=1e-6)


def test_inference_gives_the_exported_embedding_and_the_identities_logits() -> None:
    network = build_embedding(NAME, 5, [mx.cpu()])
    embedding, logits = inference_graph(EmbeddingInference(network))(mx.nd.array(images(), dtype="uint8"))
    normal = (images() / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    expected = network(mx.nd.array(normal.transpose(0, 3, 1, 2))).asnumpy()
    np.testing.assert_allclose(embedding.asnumpy(), expected, rtol=1e-3, atol=1e-5)
    assert logits.shape == (6, 5)


@pytest.mark.parametrize("triplet_weight", [0.0, 1.0])
def test_training_tells_identities_apart(triplet_weight: float) -> None:
    mx.random.seed(0)
    network, labels = build_embedding(NAME, 3, [mx.cpu()]), mx.nd.array([0, 0, 1, 1, 2, 2])
    block = ReidTraining(network, 3, smoothing=0.1, triplet_weight=triplet_weight)
    block.hybridize()
    trainer = gluon.Trainer(network.collect_params(), "adam", {"learning_rate": 1e-3})
    losses = []
    for _ in range(10):
        with autograd.record():
            result = block(mx.nd.array(images(), dtype="uint8"), labels)
            parts = result if isinstance(result, list) else [result]
        parts[0].backward()
        trainer.step(6)
        losses.append(parts[0].mean().asscalar())
    assert len(parts) == len(block.losses)
    assert losses[-1] < 0.6 * losses[0]


def numpy_batch_hard(embedding: np.ndarray, identity: np.ndarray, margin: float) -> np.ndarray:
    losses = []
    for i, own in enumerate(embedding):
        distances = [np.linalg.norm(own - other) for other in embedding]
        positive = max(d for d, other in zip(distances, identity, strict=True) if other == identity[i])
        negative = min(
            (d for d, other in zip(distances, identity, strict=True) if other != identity[i]), default=np.inf
        )
        losses.append(max(0.0, positive - negative + margin))
    return np.array(losses)


@pytest.mark.parametrize("identity", [[0, 0, 1, 1, 2, 2, 2], [0, 1, 2, 3, 4, 5, 6], [3] * 7])
def test_the_triplet_loss_is_that_of_the_hardest_pairs(identity: list[int]) -> None:
    embedding = np.random.default_rng(1).normal(size=(7, 4))
    x = mx.nd.array(embedding)
    x.attach_grad()
    loss = BatchHardTriplet(0.5)
    loss.hybridize()
    with autograd.record():
        found = loss(x, mx.nd.array(identity))
    found.backward()
    np.testing.assert_allclose(
        found.asnumpy(), numpy_batch_hard(embedding, np.array(identity), 0.5), atol=1e-4
    )
    assert np.isfinite(x.grad.asnumpy()).all()
    assert np.any(x.grad.asnumpy()) == bool(found.asnumpy().any() and len(set(identity)) > 1)


def test_equal_embeddings_give_a_finite_gradient() -> None:
    x = mx.nd.ones((4, 3))
    x.attach_grad()
    with autograd.record():
        found = BatchHardTriplet(0.3)(x, mx.nd.array([0, 0, 1, 1]))
    found.backward()
    np.testing.assert_allclose(found.asnumpy(), 0.3, rtol=1e-4)
    assert np.isfinite(x.grad.asnumpy()).all()


def test_known_identities_keep_their_outputs() -> None:
    network = build_embedding(NAME, 3, [mx.cpu()])
    before = network.output.weight.data().asnumpy()
    assert transfer_classes(network, ["a", "b", "c"], ["c", "d"]) == ["c"]
    assert np.array_equal(network.output.weight.data().asnumpy()[0], before[2])
    assert network.output.weight.shape[0] == 2


def test_pretrained_parameters_fit(shared_models: Path) -> None:
    network = build_embedding("mobilenetv2_1.0", 3, [mx.cpu()])
    loaded = load(imagenet(network, "mobilenetv2_1.0"), shared_models / "mobilenetv2_1.0.params")
    left = set(named_parameters(network)) - loaded
    assert {name.split(".")[0] for name in left} == {"neck", "output"}


def test_the_smallest_input_is_embedded_again_and_again() -> None:
    network = build_embedding("mobilenet0.25", 2, [mx.cpu()])
    graph = inference_graph(EmbeddingInference(network))
    images = mx.nd.zeros((4, SMALLEST_SIZE, SMALLEST_SIZE, 3), dtype="uint8")
    for _ in range(3):
        assert graph(images)[0].asnumpy().shape == (4, 256)
