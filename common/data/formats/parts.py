"""Which set an entry of an export belongs to, where the export holds several and says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

_PARTS = {
    "train": "train", "training": "train", "trainval": "train",
    "val": "valid", "valid": "valid", "validation": "valid", "eval": "valid", "evaluation": "valid", "dev": "valid",
    "test": "test", "testing": "test", "inference": "test",
}  # fmt: skip

T = TypeVar("T")


def part_of(name: object) -> str:
    """train, valid or test for what an export calls them; "" for anything else."""
    return _PARTS.get(str(name).strip().lower(), "") if name is not None else ""


def those_of(
    part: str, entries: Sequence[tuple[str, str, T]]
) -> tuple[list[tuple[str, str, T]], list[tuple[str, str, T]]]:
    """Entries (image, part, ...) of the wanted part, and the others.

    Where the export tells no parts apart, or none is wanted, all are; entries without a part belong to training.
    """
    parts = {entry[1] for entry in entries}
    if not part or not len(parts - {""}) or parts == {part}:
        return list(entries), []
    if part not in parts and len(parts) == 1:
        return list(entries), []
    own = [entry for entry in entries if (entry[1] or "train") == part]
    return own, [entry for entry in entries if (entry[1] or "train") != part]
