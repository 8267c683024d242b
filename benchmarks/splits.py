"""How many images change sides when a set grows: python3 benchmarks/splits.py

A set of n images gets k more; validation and test part are split off before and after. Sets of random names, five
classes, the mean and the worst of 50 of them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.data.samples import Sample
from common.data.splits import split

CLASSES = 5
TRIALS = 50


def parts(samples: list[Sample], valid: float, test: float) -> dict[str, int]:
    """The part of each image: 0 trains, 1 validates, 2 tests."""
    made = split(samples, [Path("/set")], lambda sample: [int(sample.annotation[0])], valid, test)
    return {sample.image: number for number, part in enumerate(made) for sample in part}


def changed(rng: np.random.Generator, count: int, added: int, valid: float, test: float) -> tuple[int, int]:
    """Of `count` images those that change sides when `added` more come, and those that go from training to another."""
    names = rng.choice(10**9, count + added, replace=False)
    samples = [
        Sample(f"/set/{name}.jpg", 8, 8, np.array([name % CLASSES], np.float32)) for name in names.tolist()
    ]
    before, after = parts(samples[:count], valid, test), parts(samples, valid, test)
    moved = [(part, after[image]) for image, part in before.items() if after[image] != part]
    return len(moved), sum(old == 0 for old, _ in moved)


def main() -> None:
    """Print the table."""
    print(
        "| images | added | valid_size / test_size | changed sides, mean (worst) | of these out of training |"
    )
    print("| --- | --- | --- | --- | --- |")
    for count in (200, 700):
        for valid, test in ((0.1, 0.0), (0.2, 0.1)):
            for added in (1, 5, 20):
                rng = np.random.default_rng(0)
                counts = np.array([changed(rng, count, added, valid, test) for _ in range(TRIALS)])
                moved, trained = (f"{column.mean():.1f} ({column.max()})" for column in counts.T)
                print(f"| {count} | {added} | {valid:g} / {test:g} | {moved} | {trained} |")


if __name__ == "__main__":
    main()
