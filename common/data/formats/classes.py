"""From the labels of annotations to classes: the one place where ids get their meaning."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from common.data.formats.base import MOST_CLASSES, excerpt
from common.errors import DataError

Label = str | int


def settle(
    ordered: Sequence[Sequence[str]], labels: Iterable[Label], given: Sequence[str] | None = None
) -> tuple[list[str], dict[Label, int]]:
    """The classes of a job by id, and the id of each label; labels without one are of no class.

    ordered: for each set the names that its format has in the order of their ids. labels: all that objects have: names,
    or ids in formats without names. given: dataset.classes, which rules: other labels are of no class.

    Names of a format with ids come in their order there, further ones sorted behind them. An id without a name is that
    place in `given`, else class0, class1, … Raises DataError for one beyond `given`.
    """
    distinct = set(labels)
    names = {label for label in distinct if isinstance(label, str) and label}
    ids = {label for label in distinct if isinstance(label, int)}
    if given is not None:
        classes = list(given)
        if ids and max(ids) >= len(classes):
            raise DataError(
                f"class id {max(ids)} is beyond dataset.classes, which has ids from 0 to {len(classes) - 1}"
            )
    else:
        first = list(dict.fromkeys(name for part in ordered for name in part))
        classes = [*first, *sorted(names - set(first))]
        if ids:
            if max(ids) >= MOST_CLASSES:
                raise DataError(
                    f"class id {excerpt(max(ids))} is above {MOST_CLASSES - 1}, the highest that there can be"
                )
            classes += [f"class{index}" for index in range(len(classes), max(ids) + 1)]
    place = {name: index for index, name in enumerate(classes)}
    settled: dict[Label, int] = {name: place[name] for name in names if name in place}
    settled.update({number: number for number in ids})
    return classes, settled
