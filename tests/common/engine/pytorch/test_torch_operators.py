"""Every operator that PyTorch's engine knows computes what MXNet's does, and has its gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mxnet as mx
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed here; make test-torch has it")

from common.engine.graph import whole_batch
from common.engine.symbol import UnsupportedError, read_symbol
from common.engine.torch.graph import TorchGraph
from common.engine.torch.operators import OPERATORS, Pass
from detect.center_net.deformable import sampled_convolution
from tests.helpers.operator_cases import CASES, ROUNDS, Case, Rng, normal, of, run_symbol, sizes, unmatched

CPU = torch.device("cpu")
data = mx.sym.var("data")


def one(make: Callable[[Any, Rng], Any], shape: Callable[[Rng], tuple[int, ...]]) -> Callable[[Rng], Case]:
    return lambda rng: (make(data, rng), {}, shape(rng))


def places(rng: Rng) -> tuple[int, ...]:
    return sizes(rng, 3, 2, 6)


# Operators of training alone, or that other graphs may have.
MORE: dict[str, Callable[[Rng], Case]] = {
    "_image_to_tensor": one(
        lambda x, rng: mx.sym.image.to_tensor(mx.sym.cast(mx.sym.abs(x) * 40, "uint8")), places
    ),
    "_image_normalize": lambda rng: (
        mx.sym.image.normalize(data, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)),
        {},
        (3, *sizes(rng, 2)),
    ),
    "log1p": one(lambda x, rng: mx.sym.log1p(mx.sym.abs(x)), places),
    "arctan": one(lambda x, rng: mx.sym.arctan(x), places),
    "log_softmax": one(lambda x, rng: mx.sym.log_softmax(x, axis=int(rng.integers(-1, 3))), places),
    "smooth_l1": one(lambda x, rng: mx.sym.smooth_l1(x, scalar=float(rng.uniform(0.5, 2))), places),
    "one_hot": one(
        lambda x, rng: mx.sym.one_hot(mx.sym.floor(mx.sym.abs(x) * 2), depth=4, on_value=0.9, off_value=0.1),
        lambda rng: (),
    ),
    "dot": lambda rng: (
        mx.sym.dot(data, mx.sym.var("w"), transpose_b=True),
        {"w": normal(rng, 3, 4)},
        (4,),
    ),
    "BilinearSampler": lambda rng: (
        mx.sym.BilinearSampler(
            data, mx.sym.broadcast_like(mx.sym.var("grid"), mx.sym.slice_axis(data, axis=1, begin=0, end=2))
        ),
        {"grid": rng.uniform(-1.4, 1.4, (1, 2, 5, 6)).astype(np.float32)},
        (3, 5, 6),
    ),
    "_maximum_scalar": one(lambda x, rng: mx.sym.maximum(x, float(rng.normal())), places),
    "_minimum_scalar": one(lambda x, rng: mx.sym.minimum(x, float(rng.normal())), places),
    "SwapAxis": one(lambda x, rng: mx.sym.swapaxes(x, dim1=1, dim2=int(rng.integers(2, 4))), places),
    "slice": one(
        lambda x, rng: mx.sym.slice(
            x, begin=(None, 1, None), end=(None, None, 1), step=(1, int(rng.integers(1, 3)), 1)
        ),
        places,
    ),
    "sort": one(lambda x, rng: mx.sym.sort(x, axis=1, is_ascend=bool(rng.integers(2))), places),
    "argsort": one(lambda x, rng: mx.sym.argsort(x, axis=1, is_ascend=bool(rng.integers(2))), places),
    "argmax": one(lambda x, rng: mx.sym.argmax(x, axis=int(rng.integers(1, 4))), places),
    "pick": lambda rng: (
        mx.sym.pick(
            data,
            mx.sym.floor(mx.sym.abs(mx.sym.slice_axis(data, axis=1, begin=0, end=1).reshape((-1,)))),
            axis=1,
        ),
        {},
        (5,),
    ),
    "take": lambda rng: (
        mx.sym.take(mx.sym.var("w"), mx.sym.floor(mx.sym.abs(data)), axis=0),
        {"w": normal(rng, 6, 3)},
        sizes(rng, 2),
    ),
    "_mod_scalar": one(lambda x, rng: x % float(rng.uniform(0.5, 2)), places),
    "Dropout": one(lambda x, rng: mx.sym.Dropout(x, p=0.5), places),
    "amp_cast": one(lambda x, rng: mx.sym.amp_cast(x, dtype="float32"), places),
    **{
        name: one(
            lambda x, rng, name=name: of(name)(shape=(2, 3), **({"value": 3} if name == "_full" else {})),
            places,
        )
        for name in ("_zeros", "_ones", "_full")
    },
}
for kind in ("greater_equal", "lesser_equal", "not_equal"):
    MORE[f"_{kind}_scalar"] = one(
        lambda x, rng, kind=kind: of(f"_{kind}_scalar")(mx.sym.floor(x), scalar=float(rng.integers(-1, 2))),
        places,
    )

for kind in ("greater_equal", "lesser_equal", "not_equal", "mod", "power"):
    for prefix in ("_", "broadcast_"):
        MORE.setdefault(
            f"{prefix}{kind}",
            lambda rng, name=f"{prefix}{kind}": (
                of(name)(
                    mx.sym.abs(mx.sym.floor(data)) + 1, mx.sym.broadcast_like(mx.sym.var("w"), data) + 1
                ),
                {"w": np.float32(rng.integers(0, 3, (1, 3)))},
                (3,),
            ),
        )
# The other name of an operator.
SAME = {"identity": "_copy", "broadcast_axes": "broadcast_axis"}
KNOWN = {**CASES, **MORE}


def computed(symbol: Any, values: dict[str, np.ndarray], images: np.ndarray, training: bool = False) -> Any:
    graph = TorchGraph(read_symbol(symbol.tojson()))
    tensors = {name: torch.from_numpy(value.copy()) for name, value in {**values, "data": images}.items()}
    used = {name: tensors[name] for name in graph.names}
    for name in symbol.list_arguments():
        used[name].requires_grad_()
    return graph(used, Pass(training), CPU), used


def with_gradients(
    symbol: Any, values: dict[str, np.ndarray], images: np.ndarray, rng: Rng
) -> tuple[Any, Any]:
    """Gradients of the first output times random numbers, by PyTorch and by MXNet, by name."""
    outputs, used = computed(symbol, values, images, training=True)
    weights = normal(rng, *outputs[0].shape)
    bound = symbol.simple_bind(
        mx.cpu(),
        grad_req="write",
        **{n: (images if n == "data" else values[n]).shape for n in symbol.list_inputs()},
    )
    for arrays in (bound.arg_dict, bound.aux_dict):
        for name, array in arrays.items():
            array[:] = images if name == "data" else values[name]
    others = bound.forward(is_train=True)[1:]
    bound.backward([mx.nd.array(weights), *(mx.nd.zeros_like(each) for each in others)])
    names = list(bound.grad_dict)
    gradients: list[Any] = [None] * len(names)
    if outputs[0].requires_grad:
        total = (outputs[0] * torch.from_numpy(weights)).sum()
        gradients = list(torch.autograd.grad(total, [used[name] for name in names], allow_unused=True))
    mine = {
        name: np.zeros(used[name].shape) if gradient is None else gradient.numpy()
        for name, gradient in zip(names, gradients, strict=True)
    }
    return mine, {name: bound.grad_dict[name].asnumpy() for name in names}


# MXNet has no gradient of these, on the CPU or at all.
WITHOUT = (
    *(
        "Cast",
        "Dropout",
        "_contrib_ModulatedDeformableConvolution",
        "_contrib_box_nms",
        "_full",
        "_image_to_tensor",
    ),
    *("_ones", "_zeros", "argmax", "argsort", "sort", "topk"),
)


@pytest.mark.parametrize("name", sorted(KNOWN.keys() & OPERATORS.keys()))
def test_an_operator_computes_what_mxnets_does(name: str) -> None:
    rng = np.random.default_rng(list(name.encode()))
    for _ in range(ROUNDS):
        symbol, values, shape = KNOWN[name](rng)
        images = normal(rng, int(rng.integers(1, 4)), *shape)
        wanted = run_symbol(symbol, values, images)
        found = [tensor.detach().numpy() for tensor in computed(symbol, values, images)[0]]
        if name == "_contrib_box_nms":
            wanted, found = (
                [each[0][..., :1], each[0][..., 1:2], each[0][..., 2:]] for each in (wanted, found)
            )
            assert unmatched(wanted, found)[0] == 0
            continue
        for mine, other in zip(found, wanted, strict=True):
            assert mine.shape == other.shape
            assert mine.dtype == other.dtype
            np.testing.assert_allclose(
                mine, other, rtol=2e-5, atol=2e-5, err_msg=f"{symbol.tojson()} {shape}"
            )
        if name in WITHOUT:
            continue
        mine, other = with_gradients(symbol, values, images, rng)
        for key in other:
            np.testing.assert_allclose(
                mine[key], other[key], rtol=1e-4, atol=1e-4, err_msg=f"{key} {symbol.tojson()}"
            )


@pytest.mark.parametrize(("stride", "pad", "dilate"), [((1, 1), (1, 1), (1, 1)), ((2, 1), (0, 2), (1, 2))])
def test_a_deformable_convolution_has_the_gradients_of_its_other_form(
    stride: tuple[int, int], pad: tuple[int, int], dilate: tuple[int, int]
) -> None:
    rng = np.random.default_rng(0)
    names = ("data", "offset", "mask", "weight", "bias")
    settings: dict[str, Any] = {"kernel": (3, 3), "stride": stride, "pad": pad, "dilate": dilate}
    inputs = [mx.sym.var(name) for name in names]
    layer = mx.sym.contrib.ModulatedDeformableConvolution(*inputs, num_filter=4, **settings)
    rows, columns = (
        (length + 2 * p - 2 * d - 1) // s + 1
        for length, s, p, d in zip((7, 9), stride, pad, dilate, strict=True)
    )
    shapes = ((2, 3, 7, 9), (2, 18, rows, columns), (2, 9, rows, columns), (4, 3, 3, 3), (4,))
    values = {name: normal(rng, *shape) for name, shape in zip(names, shapes, strict=True)}
    weights = torch.from_numpy(normal(rng, 2, 4, rows, columns))
    found = []
    for symbol in (layer, sampled_convolution(mx.sym, *inputs, channels=4, **settings)):
        outputs, used = computed(symbol, values, values["data"], training=True)
        assert outputs[0].shape == weights.shape
        gradients = torch.autograd.grad((outputs[0] * weights).sum(), [used[name] for name in names])
        found.append([outputs[0].detach(), *gradients])
    for mine, other in zip(*found, strict=True):
        np.testing.assert_allclose(mine.numpy(), other.numpy(), rtol=1e-4, atol=1e-4)


def test_every_operator_is_tried() -> None:
    untried = {name for name in OPERATORS if SAME.get(name, name) not in KNOWN}
    assert untried == set()


@pytest.mark.parametrize(
    ("symbol", "message"),
    [
        (lambda: mx.sym.erfinv(data, name="odd"), r"engine does not know: erfinv \(odd\)"),
        (
            lambda: mx.sym.LeakyReLU(data, act_type="elu", name="odd"),
            r"odd \(LeakyReLU\): act_type=elu; only leaky",
        ),
        (
            lambda: mx.sym.Pooling(data, kernel=(2, 2), pool_type="lp", p_value=2, name="p"),
            r"p \(Pooling\): pool_type=lp",
        ),
        (
            lambda: mx.sym.contrib.gradientmultiplier(data, scalar=2.0, name="g"),
            r"engine does not know: _contrib_gradientmultiplier \(g\)",
        ),
    ],
)
def test_what_is_not_known_is_refused_by_name(symbol: Callable[[], Any], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        TorchGraph(read_symbol(symbol().tojson()))


class _TwoRanks:
    """In the place of the ranks' `Whole`: another one has the same rows."""

    def rows(self, own: Any) -> Any:
        return torch.cat([own, own])


@pytest.mark.parametrize(("make", "rows"), [(whole_batch, 6), (lambda F, x: F.identity(x), 3)])
def test_rows_of_other_ranks_are_had_where_a_graph_asks_for_them(
    make: Callable[[Any, Any], Any], rows: int
) -> None:
    graph = TorchGraph(read_symbol(make(mx.sym, data).tojson()))
    given = {"data": torch.ones(3, 2)}
    assert [len(graph(given, Pass(True, whole=whole), CPU)[0]) for whole in (None, _TwoRanks())] == [3, rows]
