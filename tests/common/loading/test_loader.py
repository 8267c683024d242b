"""Batches are the same whoever makes them, whatever becomes of files and workers."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data.samples import Sample
from common.errors import DataError
from common.loading.loader import Batch, Loader
from common.processes.pool import WorkerPool
from tests.helpers import worker_tasks as tasks

SHAPE = (8, 6)


def fixed(epoch: int, batch: int) -> tuple[int, int]:
    return SHAPE


def numbered(count: int) -> list[Sample]:
    rng = np.random.default_rng(5)
    return [
        Sample(f"/data/{number}.jpg", 8, 6, rng.random((2, 5), dtype=np.float32)) for number in range(count)
    ]


def kept(batches: Iterator[Batch]) -> list[Batch]:
    """Batches with copies of their arrays, which outlive the next batch."""
    return [
        Batch(
            {name: a.copy() for name, a in b.arrays.items()},
            b.indices,
            b.count,
            b.shape,
            b.failed,
            plain=b.plain,
        )
        for b in batches
    ]


def same(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) and all(
        a.arrays.keys() == b.arrays.keys()
        and all(np.array_equal(a.arrays[name], b.arrays[name]) for name in a.arrays)
        and np.array_equal(a.indices, b.indices)
        and (a.count, a.shape, a.failed) == (b.count, b.shape, b.failed)
        for a, b in zip(one, other, strict=True)
    )


@pytest.fixture(scope="module", params=[0, 2])
def pool(request: pytest.FixtureRequest) -> Iterator[WorkerPool]:
    with WorkerPool(request.param) as pool:
        yield pool


@pytest.fixture
def pictures(tmp_path: Path) -> list[Sample]:
    """Twelve images, each of one grey."""
    samples = []
    for number in range(12):
        path = tmp_path / f"{number}.jpg"
        Image.new("L", (32, 24), 20 * number).save(path)
        samples.append(Sample(str(path), 32, 24, np.zeros((0, 5), np.float32)))
    return samples


def test_the_number_of_workers_changes_nothing() -> None:
    samples = numbered(37)
    found = []
    for count in (0, 1, 2, 3):
        with WorkerPool(count) as pool:
            loader = Loader(samples, tasks.Numbers(), pool, batch_size=8, shapes=fixed, seed=3, training=True)
            with loader:
                found.append([batch for number in (0, 1, 5) for batch in kept(loader.epoch(number))])
    assert len(found[0]) == 15
    for other in found[1:]:
        assert same(found[0], other)


def test_seed_and_epoch_decide_what_comes(pool: WorkerPool) -> None:
    def first(seed: int, epoch: int) -> list[Batch]:
        with Loader(
            numbered(30), tasks.Numbers(), pool, batch_size=8, shapes=fixed, seed=seed, training=True
        ) as loader:
            return kept(loader.epoch(epoch))

    assert same(first(1, 0), first(1, 0))
    for seed, epoch in [(2, 0), (1, 1)]:
        other = first(seed, epoch)
        assert not np.array_equal(first(1, 0)[0].indices, other[0].indices)
        noise = {float(value) for batch in first(1, 0) for value in batch.arrays["noise"].ravel()}
        assert noise.isdisjoint({float(value) for batch in other for value in batch.arrays["noise"].ravel()})


def test_randomness_of_a_sample_comes_from_seed_epoch_and_index(pool: WorkerPool) -> None:
    with Loader(
        numbered(20), tasks.Numbers(), pool, batch_size=8, shapes=fixed, seed=7, training=True
    ) as loader:
        for batch in loader.epoch(4):
            for row in range(batch.count):
                rng = np.random.default_rng([7, 4, int(batch.indices[row])])
                assert np.array_equal(batch.arrays["noise"][row], rng.random(3))
                assert batch.arrays["drawn"][row, 0] == rng.integers(20)


def test_training_has_every_sample_once_and_full_batches(pool: WorkerPool) -> None:
    samples = numbered(21)
    with Loader(samples, tasks.Numbers(), pool, batch_size=8, shapes=fixed, training=True) as loader:
        assert len(loader) == 3
        batches = kept(loader.epoch(0))
    assert [batch.count for batch in batches] == [8, 8, 5]
    rows = np.concatenate([batch.indices for batch in batches])
    assert sorted(rows[:21]) == list(range(21))
    assert rows[:21].tolist() != list(range(21))
    assert rows[21:].tolist() == rows[:3].tolist()
    for batch in batches:
        assert batch.arrays["label"].tolist() == batch.indices.tolist()
        assert (batch.arrays["image"] == batch.indices[:, None, None, None]).all()
        expected = np.stack([samples[index].annotation for index in batch.indices])
        assert np.array_equal(batch.arrays["annotation"], expected)


def test_fewer_images_than_a_batch_come_again_as_other_pictures(pool: WorkerPool) -> None:
    with Loader(numbered(3), tasks.Numbers(), pool, batch_size=8, shapes=fixed, training=True) as loader:
        assert len(loader) == 1
        (batch,) = kept(loader.epoch(0))
    assert batch.count == 3
    assert batch.indices.tolist() == np.resize(batch.indices[:3], 8).tolist()
    assert len({tuple(row) for row in batch.arrays["noise"]}) == 8


def test_evaluation_comes_in_order_and_is_padded(pool: WorkerPool) -> None:
    with Loader(numbered(11), tasks.Numbers(), pool, batch_size=4, shapes=fixed) as loader:
        assert len(loader) == 3
        kept(loader.epoch(0))
        batches = kept(loader.epoch(0))
    assert [batch.indices.tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, -1]]
    assert [batch.count for batch in batches] == [4, 4, 3]
    assert all(not array[3].any() for array in batches[2].arrays.values())
    assert batches[2].arrays["noise"][:3].all()


def test_an_order_may_be_given(pool: WorkerPool) -> None:
    def order(epoch: int, rng: np.random.Generator) -> np.ndarray:
        return np.array([5, 5, epoch, rng.integers(3, 5), 5])

    with Loader(
        numbered(9), tasks.Numbers(), pool, batch_size=2, shapes=fixed, training=True, order=order
    ) as loader:
        assert len(loader) == 3
        batches = kept(loader.epoch(1))
        assert same(batches, kept(loader.epoch(1)))
    rows = np.concatenate([batch.indices for batch in batches])
    assert rows[[0, 1, 2, 4, 5]].tolist() == [5, 5, 1, 5, 5]
    assert rows[3] in (3, 4)
    assert [batch.count for batch in batches] == [2, 2, 1]
    noise = np.concatenate([batch.arrays["noise"] for batch in batches])
    assert len(np.unique(noise[[0, 1, 4, 5]], axis=0)) == 4


def test_input_sizes_may_change_from_batch_to_batch(pool: WorkerPool) -> None:
    def shapes(epoch: int, batch: int) -> tuple[int, int]:
        return (4 * (batch + epoch + 1), 4)

    with Loader(numbered(40), tasks.Numbers(), pool, batch_size=4, shapes=shapes, training=True) as loader:
        for epoch in (0, 3, 1):
            for number, batch in enumerate(loader.epoch(epoch)):
                assert batch.shape == (4 * (number + epoch + 1), 4)
                assert batch.arrays["image"].shape == (4, 4, batch.shape[0], 3)
                assert (batch.arrays["image"] == batch.indices[:, None, None, None]).all()


def test_the_last_epochs_may_be_made_by_another_transform(pool: WorkerPool) -> None:
    def load(epochs: list[int]) -> list[list[Batch]]:
        with Loader(
            numbered(10),
            tasks.Numbers(),
            pool,
            batch_size=5,
            shapes=fixed,
            training=True,
            plain=lambda epoch: epoch >= 2,
            plain_transform=tasks.Negatives(),
        ) as loader:
            return [kept(loader.epoch(number)) for number in epochs]

    found = load([0, 1, 2, 3])
    for epoch, batches in enumerate(found):
        labels = np.concatenate([batch.arrays["label"] for batch in batches])
        indices = np.concatenate([batch.indices for batch in batches])
        np.testing.assert_array_equal(labels, indices if epoch < 2 else -indices)
        assert [batch.plain for batch in batches] == [epoch >= 2] * 2
    assert same(load([3])[0], found[3])  # a training that is taken up again there


def test_arrays_hold_until_the_next_batch_is_taken(pool: WorkerPool) -> None:
    with Loader(numbered(64), tasks.Numbers(), pool, batch_size=4, shapes=fixed, training=True) as loader:
        for batch in loader.epoch(0):
            before = batch.arrays["label"].copy()
            # Everything that can be made ahead has been made by then.
            list(pool.map(tasks.slow, [0.0] * 4, chunk=1))
            assert np.array_equal(batch.arrays["label"], before)
            assert np.array_equal(before, batch.indices)


def test_an_epoch_that_is_left_early_does_not_disturb_the_next(pool: WorkerPool) -> None:
    samples = numbered(64)
    with Loader(samples, tasks.Numbers(), pool, batch_size=4, shapes=fixed, training=True) as loader:
        expected = kept(loader.epoch(1))
    with Loader(samples, tasks.Slow(), pool, batch_size=4, shapes=fixed, training=True) as loader:
        for batch in loader.epoch(0):
            if batch.count:
                break
        assert same(kept(loader.epoch(1)), expected)
        held = loader.epoch(0)
        next(held)
        assert same(kept(loader.epoch(1)), expected)
        with pytest.raises(RuntimeError, match="another epoch"):
            next(held)
        loader.epoch(0)
        assert same(kept(loader.epoch(1)), expected)


def test_an_epoch_ends_when_the_next_is_begun(pool: WorkerPool, tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    with Loader(
        numbered(64),
        tasks.Slow(str(diary)),
        pool,
        batch_size=4,
        shapes=fixed,
        training=True,
        order=lambda epoch, rng: np.arange(32) + 32 * epoch,
    ) as loader:
        held = loader.epoch(0)
        next(held)
        following = loader.epoch(1)
        begun = len(diary.read_text().split())
        assert begun < 32
        assert len(list(following)) == 8
    later = [int(word) for word in diary.read_text().split()[begun:]]
    assert set(later) == set(range(32, 64)) - set(map(int, diary.read_text().split()[:begun]))
    assert held is not following


def test_two_loaders_share_the_workers(pool: WorkerPool) -> None:
    with (
        Loader(numbered(40), tasks.Slow(), pool, batch_size=4, shapes=fixed, training=True) as one,
        Loader(numbered(24), tasks.Numbers(), pool, batch_size=4, shapes=fixed) as other,
    ):
        expected = kept(one.epoch(0))
        found = []
        for number, batch in enumerate(one.epoch(0)):
            found += kept(iter([batch]))
            if number == 2:
                assert [row for b in kept(other.epoch(0)) for row in b.indices] == list(range(24))
        assert same(found, expected)


def test_a_worker_that_dies_changes_no_batch() -> None:
    samples = numbered(96)
    with (
        WorkerPool(0) as pool,
        Loader(samples, tasks.Numbers(), pool, batch_size=8, shapes=fixed, training=True) as loader,
    ):
        expected = kept(loader.epoch(0))
    with (
        WorkerPool(2) as pool,
        Loader(samples, tasks.Slow(), pool, batch_size=8, shapes=fixed, training=True) as loader,
    ):
        found = []
        for number, batch in enumerate(loader.epoch(0)):
            if number in (1, 6):
                os.kill(pool.processes[0], signal.SIGKILL)
            found += kept(iter([batch]))
        assert same(found, expected)


def test_a_defect_of_the_transform_is_not_taken_for_a_bad_image(pool: WorkerPool) -> None:
    with (
        Loader(numbered(9), tasks.Broken(), pool, batch_size=4, shapes=fixed, training=True) as loader,
        pytest.raises(KeyError, match="boxes"),
    ):
        list(loader.epoch(0))


def test_an_image_that_vanishes_is_replaced_in_training(pool: WorkerPool, pictures: list[Sample]) -> None:
    os.remove(pictures[3].image)
    Path(pictures[5].image).write_bytes(b"<html>")
    found = []
    with Loader(pictures, tasks.Pictures(), pool, batch_size=5, shapes=fixed, training=True) as loader:
        for epoch in (0, 1):
            batches = kept(loader.epoch(epoch))
            rows = np.concatenate([batch.indices for batch in batches])
            assert len(rows) == 15
            assert not {3, 5, -1} & set(rows)
            pixels = np.concatenate([batch.arrays["image"] for batch in batches])
            assert np.abs(pixels[:, 0, 0, 0] - 20.0 * rows).max() <= 2
            assert all(not batch.failed for batch in batches)
            found.append(batches)
        problems = {(os.path.basename(p.file), p.line, p.reason) for p in loader.problems}
        assert len(loader.problems) == 2
        assert problems == {
            ("3.jpg", None, "No such file or directory"),
            ("5.jpg", None, "its content is HTML, not JPEG, PNG or BMP"),
        }
    with (
        WorkerPool(3) as three,
        Loader(pictures, tasks.Pictures(), three, batch_size=5, shapes=fixed, training=True) as loader,
    ):
        assert same(kept(loader.epoch(1)), found[1])


def test_an_image_that_vanishes_leaves_its_row_empty_in_evaluation(
    pool: WorkerPool, pictures: list[Sample]
) -> None:
    os.remove(pictures[6].image)
    with Loader(pictures, tasks.Pictures(), pool, batch_size=5, shapes=fixed) as loader:
        for _ in range(2):
            batches = kept(loader.epoch(0))
            rows = [batch.indices.tolist() for batch in batches]
            assert rows == [[0, 1, 2, 3, 4], [5, -1, 7, 8, 9], [10, 11, -1, -1, -1]]
            assert [batch.failed for batch in batches] == [[], [6], []]
            assert [batch.count for batch in batches] == [5, 5, 2]
            assert not batches[1].arrays["image"][1].any()
            assert not batches[1].arrays["noise"][1].any()
            assert [os.path.basename(p.file) for p in loader.problems] == ["6.jpg"]


def test_a_bad_partner_does_not_cost_a_good_image_its_turn(pool: WorkerPool, pictures: list[Sample]) -> None:
    os.remove(pictures[0].image)
    own = 0
    with Loader(
        pictures, tasks.Pictures(partner=True), pool, batch_size=4, shapes=fixed, training=True
    ) as loader:
        for epoch in range(8):
            for batch in loader.epoch(epoch):
                own += len(set(batch.indices))
        assert [os.path.basename(p.file) for p in loader.problems] == ["0.jpg"]
    # Of twelve images eleven are good; nearly every one comes in its own place, rarely another one instead.
    assert own >= 8 * 11


@pytest.mark.parametrize("training", [True, False])
def test_no_readable_image_is_an_error(pool: WorkerPool, pictures: list[Sample], training: bool) -> None:
    for sample in pictures:
        os.remove(sample.image)
    with (
        Loader(pictures, tasks.Pictures(), pool, batch_size=4, shapes=fixed, training=training) as loader,
        pytest.raises(DataError, match=r"no image can be read any more, of 12.*No such file"),
    ):
        list(loader.epoch(0))


def test_one_image_that_is_left_is_enough_to_go_on(pool: WorkerPool, pictures: list[Sample]) -> None:
    for sample in pictures[:-1]:
        os.remove(sample.image)
    with Loader(pictures, tasks.Pictures(), pool, batch_size=4, shapes=fixed, training=True) as loader:
        assert {int(row) for batch in loader.epoch(0) for row in batch.indices} == {11}
        assert len(loader.problems) == 11


def resident(process: int | str) -> int:
    """Bytes of a process that are in memory."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_many_epochs_leave_nothing_behind() -> None:
    # One worker: a second may have nothing to do in the first epochs, and grow by what it imports in later ones.
    with WorkerPool(1) as pool:

        def count() -> list[int]:
            return [len(os.listdir(f"/proc/{process}/fd")) for process in ["self", *pool.processes]]

        def use(epochs: int) -> None:
            for number in range(epochs):
                with Loader(
                    numbered(16), tasks.Numbers(), pool, batch_size=4, shapes=lambda e, b: (256, 256)
                ) as loader:
                    assert len(list(loader.epoch(number))) == 4
                    next(loader.epoch(number))

        use(3)
        before = count()
        memory = [resident(process) for process in ["self", *pool.processes]]
        use(40)
        assert count() == before
        # Each of them holds 4 MB; were one in ten kept, that would be 16 MB.
        after = [resident(process) for process in ["self", *pool.processes]]
        assert max(np.subtract(after, memory)) < 12 << 20


def test_nothing_to_load_is_refused(pool: WorkerPool) -> None:
    for samples, batch_size in [([], 4), (numbered(3), 0)]:
        with pytest.raises(ValueError, match="in batches of"):
            Loader(samples, tasks.Numbers(), pool, batch_size=batch_size, shapes=fixed)
