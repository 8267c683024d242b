"""The base networks that classification, ReID and landmarks build on: names, variants, sizes.

Nothing heavy is imported, so that a configuration can be checked before MXNet is.
"""

from __future__ import annotations

import difflib

_RESNET_WIDTH = {18: 512, 34: 512, 50: 2048, 101: 2048, 152: 2048}
_DENSENET_WIDTH = {121: 1024, 161: 2208, 169: 1664, 201: 1920}

#: Name of a base network -> numbers in its embedding, the vector before the output layer.
EMBEDDING_DIMENSIONS: dict[str, int] = {
    **{f"resnet{depth}_v{version}": width for version in (1, 2) for depth, width in _RESNET_WIDTH.items()},
    **{f"mobilenet{multiplier}": int(1024 * multiplier) for multiplier in (1.0, 0.75, 0.5, 0.25)},
    **{f"mobilenetv2_{multiplier}": 1280 for multiplier in (1.0, 0.75, 0.5, 0.25)},
    "mobilenetv3_large": 1280,
    "mobilenetv3_small": 1280,
    **{f"densenet{depth}": width for depth, width in _DENSENET_WIDTH.items()},
    **{f"vgg{depth}": 4096 for depth in (11, 13, 16, 19)},
}

BASE_NETWORKS: tuple[str, ...] = tuple(EMBEDDING_DIMENSIONS)

#: All of them halve their input five times.
SMALLEST_SIZE = 32


def _named(*beginnings: str) -> tuple[str, ...]:
    return tuple(name for name in BASE_NETWORKS if name.startswith(beginnings))


#: Option -> the networks that have such a variant.
VARIANTS: dict[str, tuple[str, ...]] = {
    "use_gn": tuple(name for name in BASE_NETWORKS if not name.startswith("vgg")),
    "batch_norm": _named("vgg"),
    "use_se": _named("resnet"),
    # In a v2 block the last gamma stands before a ReLU: at zero, neither it nor its neighbours ever train.
    "last_gamma": tuple(name for name in _named("resnet") if name.endswith("_v1")),
}

_VARIANT_NETWORKS = {
    "use_gn": "resnet, mobilenet and densenet networks (vgg has no normalisation to replace)",
    "batch_norm": "vgg11, vgg13, vgg16, vgg19 (the others always have it)",
    "use_se": "resnet networks (mobilenetv3 always has it)",
    "last_gamma": "resnet..._v1 networks",
}


def check_name(name: str) -> None:
    """Raise ValueError, naming the nearest known name, if `name` is no base network."""
    if name not in EMBEDDING_DIMENSIONS:
        near = difflib.get_close_matches(name, BASE_NETWORKS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{name!r} is not one of {', '.join(BASE_NETWORKS)}{hint}")


def variant_problems(
    name: str,
    *,
    use_gn: bool = False,
    batch_norm: bool = False,
    use_se: bool = False,
    last_gamma: bool = False,
) -> dict[str, str]:
    """Options that the network `name` has no variant for: option -> which networks have one."""
    wanted = {"use_gn": use_gn, "batch_norm": batch_norm, "use_se": use_se, "last_gamma": last_gamma}
    return {
        option: f"{name} has no such variant; only {_VARIANT_NETWORKS[option]}"
        for option, is_wanted in wanted.items()
        if is_wanted and name not in VARIANTS[option]
    }


def embedding_dimension(name: str) -> int:
    """Numbers in the embedding of the base network `name`; ValueError if there is no such network."""
    check_name(name)
    return EMBEDDING_DIMENSIONS[name]


def parameters_name(name: str, *, batch_norm: bool = False) -> str:
    """The name under which ImageNet parameters of the network are published.

    None are published with squeeze-and-excite or GroupNorm: such variants start from the plain network's.
    """
    return f"{name}_bn" if batch_norm else name
