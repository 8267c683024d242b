"""Which ranks there are is said by the environment, and every row of every batch is one rank's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.data.samples import Sample
from common.engine.devices import choose_engine, gpus_by_local_rank, own_gpus
from common.errors import ConfigurationError, DeviceError
from common.loading.loader import Loader
from common.processes.pool import WorkerPool
from common.ranks.place import Place, place_of
from common.ranks.ranks import Ranks
from common.ranks.shares import least_batch, rows_of
from tests.helpers import worker_tasks as tasks
from tests.helpers.jobs import SCRIPTS, config, fit

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "GROUP_RANK": "1",
    "MASTER_ADDR": "host",
    "MASTER_PORT": "29500",
}


@pytest.mark.slow
def test_torchrun_says_which_rank_this_is_and_without_it_a_job_is_alone() -> None:
    assert place_of(TORCHRUN) == Place(5, 8, 1, 4, 1)
    assert place_of({}) == place_of({**TORCHRUN, "WORLD_SIZE": "1", "RANK": "0"}) == Place()
    # As the PyTorchJob of Kubeflow sets them for one process a pod.
    few = {name: TORCHRUN[name] for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")}
    assert place_of(few) == Place(5, 8, 0, 1, 5)


@pytest.mark.parametrize(
    ("name", "value"), [("RANK", "8"), ("WORLD_SIZE", "many"), ("LOCAL_RANK", "4"), ("MASTER_ADDR", "")]
)
def test_an_environment_that_cannot_be_is_named(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{name}: .*torchrun"):
        place_of({**TORCHRUN, name: value})


@pytest.mark.parametrize(("batch", "size"), [(8, 2), (8, 4), (7, 2), (16, 3), (5, 3), (1, 1), (64, 8)])
def test_every_row_is_one_ranks_and_stands_opposite_the_row_that_it_is_mixed_with(
    batch: int, size: int
) -> None:
    shares = [rows_of(batch, rank, size) for rank in range(size)]
    assert sorted(np.concatenate(shares).tolist()) == list(range(batch))
    assert all(len(rows) for rows in shares)
    for rows in shares:
        assert (rows[::-1] == batch - 1 - rows).all()  # reversed: as in the whole batch


def test_a_batch_may_be_too_small_for_so_many_ranks() -> None:
    for size in (2, 3, 8):
        assert all(len(rows_of(least_batch(size), rank, size)) for rank in range(size))
        assert not all(len(rows_of(least_batch(size) - 1, rank, size)) for rank in range(size))


@pytest.mark.parametrize(("batch", "size"), [(8, 2), (6, 3), (7, 2)])
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_ranks_see_together_what_one_sees(batch: int, size: int, workers: int) -> None:
    rng = np.random.default_rng(5)
    samples = [Sample(f"/data/{n}.jpg", 8, 6, rng.random((2, 5), dtype=np.float32)) for n in range(21)]

    def epoch(ranks: Ranks, training: bool) -> list[tuple[int, dict[str, np.ndarray], np.ndarray, int]]:
        with (
            WorkerPool(workers) as pool,
            Loader(
                samples,
                tasks.Numbers(),
                pool,
                batch_size=batch,
                shapes=lambda epoch, batch: (8, 6),
                seed=3,
                training=training,
                ranks=ranks,
            ) as loader,
        ):
            assert len(loader) == -(-21 // batch)
            return [
                (b.number, {name: a.copy() for name, a in b.arrays.items()}, b.indices, b.count)
                for b in loader.epoch(2)
            ]

    parts = [Ranks(Place(rank, size)) for rank in range(size)]
    whole = epoch(Ranks(), True)
    for part in parts:
        rows = rows_of(batch, part.rank, size)
        mine = epoch(part, True)
        assert len(mine) == len(whole)
        for (number, arrays, indices, count), (_, everything, all_indices, all_count) in zip(
            mine, whole, strict=True
        ):
            assert (indices == all_indices[rows]).all(), number
            assert count == all_count
            assert all((arrays[name] == everything[name][rows]).all() for name in everything)
    whole = epoch(Ranks(), False)
    shared = sorted((b for part in parts for b in epoch(part, False)), key=lambda b: b[0])
    assert [b[0] for b in shared] == [b[0] for b in whole]
    for mine, wanted in zip(shared, whole, strict=True):
        assert all((mine[1][name] == wanted[1][name]).all() for name in wanted[1])


def test_gpus_are_the_ranks_of_a_machine_by_turns() -> None:
    assert gpus_by_local_rank([], 4) == []
    assert gpus_by_local_rank([2, 3], 2) == [2, 3]
    assert gpus_by_local_rank([0], 4) == [0, 1, 2, 3]
    assert own_gpus([2, 3], Place(5, 8, 1, 2)) == [3]
    assert own_gpus([2, 3], Place()) == [2, 3]
    with pytest.raises(DeviceError, match=r"gpus: \[0, 1\] names 2 GPUs, and 4 ranks"):
        gpus_by_local_rank([0, 1], 4)


def test_mxnet_refuses_several_ranks_and_says_what_would_do(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"engine: mxnet with 4 ranks.*engine: torch"):
        choose_engine("mxnet", [], [], ranks=4)
    environment = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    values = {**config("classification", tmp_path / "out", tmp_path), "engine": "mxnet"}
    ended = fit(SCRIPTS["classification"], values, environment=environment)
    assert ended.status == 1
    assert "engine: mxnet with 2 ranks" in ended.last_line
    assert ended.json("status.json")["error"]["rank"] == 0
