"""What boxes that do not fit their images look like, all together: another order of numbers, or another image."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence

from common.data.problems import FolderReport
from common.images.decoding import ImageError, orientation

SIZES, TURNED = "sizes", "turned"

# From this share of a set's boxes on it is no slip of a hand.
_MANY = 0.05
_LOOKED_AT = 50


def hint_of(box: Sequence[float], width: int, height: int) -> str:
    """What a box x1, y1, x2, y2 that does not fit its image may be: words with blanks, "" for none.

    SIZES: as x, y, width, height it fits. TURNED: with x and y swapped it does, or in the image before it is turned.
    """
    x1, y1, x2, y2 = box
    hints = []
    if x1 >= 0 and y1 >= 0 and 0 < x2 <= width - x1 and 0 < y2 <= height - y1:
        hints.append(SIZES)
    if 0 <= x1 < x2 <= height and 0 <= y1 < y2 <= width:
        hints.append(TURNED)
    return " ".join(hints)


def sentences(report: FolderReport, boxes: int, images: Sequence[str]) -> Iterator[str]:
    """Warnings on the boxes of a set of `images`. boxes: how many are learnt."""
    problems = [*report.problems, *report.clipped]
    counts = Counter(word for problem in problems for word in problem.hint.split())
    for word, count in counts.items():
        if count < 2 or count < _MANY * max(boxes, count):
            continue
        start = f"{count} boxes do not fit their images"
        if word == SIZES:
            yield (
                f"{start}, but would as x,y,width,height: if they are that, write the right and lower edges, x + width "
                "and y + height, in their place"
            )
        elif _are_turned(images, {os.path.splitext(p.file)[0] for p in problems if TURNED in p.hint.split()}):
            yield (
                f"{start}, but would fit them as they are stored: the images are turned when they are shown (EXIF "
                "orientation). Label them as they are shown, or save them turned and without that tag"
            )
        else:
            yield f"{start}, but would with x and y swapped: the order is x1,y1,x2,y2, left, top, right, bottom"


def _are_turned(images: Sequence[str], stems: set[str]) -> bool:
    """Whether most of the images are turned by a quarter when they are shown. stems: of those that matter, if known."""
    chosen = [image for image in images if os.path.splitext(image)[0] in stems] or list(images)
    turned = looked_at = 0
    for image in chosen[:_LOOKED_AT]:
        try:
            turned += orientation(image) >= 5
            looked_at += 1
        except ImageError:
            continue
    return turned * 2 > looked_at
