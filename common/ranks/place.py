"""Which of a training's processes this one is, as torchrun and those like it say in the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from common.errors import ConfigurationError, shortened

#: Set for ranks that a job has started by itself: the process that they end with.
STARTED_BY = "VISUALTL_STARTED_BY"


@dataclass(frozen=True)
class Place:
    """One process among `size` ranks. local_rank, local_size: the same among those of its machine. machine: its number.

    The ranks of a machine are those of one torchrun; two of these on one host count as two machines.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    machine: int = 0


def place_of(environment: Mapping[str, str]) -> Place:
    """The place that RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE and GROUP_RANK say; alone without the first two.

    Raises ConfigurationError for what cannot be.
    """
    if "RANK" not in environment or "WORLD_SIZE" not in environment:
        return Place()
    size = _number(environment, "WORLD_SIZE", 1, 1, 1 << 16)
    if size == 1:
        return Place()
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if not environment.get(name):
            raise ConfigurationError(
                f"{name}: is missing in the environment, which says by WORLD_SIZE that {size} ranks train together; "
                "torchrun sets it"
            )
    local_size = _number(environment, "LOCAL_WORLD_SIZE", 1, 1, size)
    rank = _number(environment, "RANK", 0, 0, size - 1)
    return Place(
        rank=rank,
        size=size,
        local_rank=_number(environment, "LOCAL_RANK", 0, 0, local_size - 1),
        local_size=local_size,
        machine=_number(environment, "GROUP_RANK", rank // local_size, 0, size - 1),
    )


def _number(environment: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    text = environment.get(name, str(default))
    if not text.isdecimal() or len(text) > 9 or not least <= int(text) <= most:
        raise ConfigurationError(
            f"{name}: {shortened(repr(text))} in the environment is no whole number from {least} to {most}; torchrun "
            "sets it"
        )
    return int(text)
