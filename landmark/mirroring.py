"""What keypoints become in a mirrored image."""

from __future__ import annotations

from collections.abc import Sequence

#: Which point a point of the 68 of a face becomes in the mirror (order: iBUG 300-W, Sagonas et al. 2013).
MIRRORED_68 = (
    *range(16, -1, -1),  # the jaw
    *range(26, 16, -1),  # the brows
    *(27, 28, 29, 30),  # the bridge of the nose
    *range(35, 30, -1),  # its base
    *(45, 44, 43, 42, 47, 46),  # the right eye becomes the left,
    *(39, 38, 37, 36, 41, 40),  # and the left the right
    *range(54, 47, -1),  # the outer lip, above
    *range(59, 54, -1),  # and below
    *range(64, 59, -1),  # the inner lip, above
    *range(67, 64, -1),  # and below
)


def mirror_table(num_joints: int, given: Sequence[int] | None = None) -> tuple[int, ...] | None:
    """Index of the point that each point becomes in a mirrored image; None: there is to be no mirroring.

    given: a table of the user's, empty for none; without one, that of 68-point faces is known. Raises ValueError
    if it is no table for `num_joints` points.
    """
    if given is None:
        return MIRRORED_68 if num_joints == len(MIRRORED_68) else None
    if not given:
        return None
    table = tuple(int(index) for index in given)
    if len(table) != num_joints:
        raise ValueError(f"has {len(table)} entries; {num_joints} keypoints need one each")
    for index, other in enumerate(table):
        if not 0 <= other < num_joints or table[other] != index:
            raise ValueError(
                f"is no mirroring: entry {index} is {other}, so entry {other} must exist and be {index}"
            )
    return table
