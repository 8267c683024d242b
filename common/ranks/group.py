"""The ranks' connections: torch.distributed, with Gloo between processors and NCCL between GPUs.

Nothing here waits for less than a day: that a rank is gone is noticed by `common.ranks.watch`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist

from common.ranks.launch import Started, say_here
from common.ranks.place import STARTED_BY, Place

T = TypeVar("T")

_FOR_EVER = timedelta(days=1)
_COMING = timedelta(minutes=10)


def meet(place: Place, start: bool) -> tuple[Any, Started | None]:
    """A store that all ranks reach. start: this is rank 0, and is to start the others: they are returned, on their
    way."""
    if start:
        tcp = dist.TCPStore("127.0.0.1", 0, None, True, _COMING, wait_for_workers=False)
        return dist.PrefixStore("start_0", tcp), Started(place.size, tcp.port)
    store = store_of(place, _COMING)
    if STARTED_BY in os.environ:
        say_here(store, place.rank)
    return store, None


def store_of(place: Place, timeout: timedelta) -> Any:
    """The store that the environment names. Where torchrun starts all ranks once more after a failure it may be the one
    of before: what was said then is of no interest."""
    store, *_ = next(dist.rendezvous("env://", place.rank, place.size, timeout=timeout))
    return dist.PrefixStore(f"start_{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def open_group(store: Any, place: Place, gpus: Sequence[int]) -> None:
    """Connect with all others. gpus: as for `Ranks.join`."""
    backend = "cpu:gloo"
    if gpus:
        torch.cuda.set_device(gpus[place.local_rank])
        backend += ",cuda:nccl"
    dist.init_process_group(
        backend,
        store=dist.PrefixStore("group", store),
        rank=place.rank,
        world_size=place.size,
        timeout=_FOR_EVER,
    )


def close_group() -> None:
    """Nobody talks any more."""
    dist.destroy_process_group()


def group_of_machine(machines: Sequence[int]) -> Any:
    """The group of the ranks of this one's machine. machines: numbers of them by rank."""
    own = None
    for machine in sorted(set(machines)):
        ranks = [rank for rank, other in enumerate(machines) if other == machine]
        group = dist.new_group(ranks, timeout=_FOR_EVER, backend="gloo")
        if dist.get_rank() in ranks:
            own = group
    return own


def broadcast(value: T | None, group: Any = None) -> T | None:
    """What the first rank of a group has, for all of it."""
    values = [value]
    dist.broadcast_object_list(values, group=group, group_src=0, device=torch.device("cpu"))
    return values[0]


def gather(value: T) -> list[T]:
    """The values of all ranks."""
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def gather_to_first(value: T) -> list[T] | None:
    """The values of all ranks for rank 0."""
    values: list[Any] | None = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(value, values)
    return values


def total(values: np.ndarray) -> np.ndarray:
    """The sum of the ranks' arrays, as float64."""
    summed = torch.from_numpy(np.array(values, np.float64))
    dist.all_reduce(summed)
    return summed.numpy()


def agree(values: Sequence[float]) -> list[float]:
    """The numbers that rank 0 has."""
    numbers = torch.tensor(list(values), dtype=torch.float64)
    dist.broadcast(numbers, 0)
    return numbers.tolist()
