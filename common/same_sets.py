"""Whether the machines of a training have the same sets."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Mapping, Sequence

from common.data.samples import Sample
from common.datasets import WORDS, Datasets
from common.errors import DataError
from common.images.decoding import printable
from common.ranks.ranks import Ranks

#: Of each set the images by their paths, each with a digest of what is known of it.
Contents = Mapping[str, Sequence[tuple[str, bytes]]]


def same_everywhere(data: Datasets, root: str, ranks: Ranks) -> None:
    """Raise DataError, which names the first difference, unless the sets of all machines hold the same images with the
    same annotations. root: below which they lie on this one."""
    if ranks.size == 1:
        return
    mine = _contents(data, root)
    everyone = ranks.all((socket.gethostname(), _digest(mine)))
    if len({digest for _, digest in everyone}) == 1:
        return
    theirs = ranks.from_first(lambda: mine)
    hosts = [host for host, _ in everyone]
    differences = ranks.all(_difference(theirs, mine))
    rank, difference = next((rank, told) for rank, told in enumerate(differences) if told)
    raise DataError(
        f"the sets of rank 0 (on {hosts[0]}) and rank {rank} (on {hosts[rank]}) differ, and all ranks need the same: "
        f"{difference}"
    )


def _contents(data: Datasets, root: str) -> Contents:
    """Of each set the images by their paths below `root`, each with a digest of what is known of it."""
    contents = {}
    for name in WORDS:
        samples: Sequence[Sample] = getattr(data, name) or ()
        contents[name] = [
            (
                os.path.relpath(sample.image, root),
                hashlib.blake2b(
                    f"{sample.mark} {sample.width} {sample.height} {sample.label}\n".encode()
                    + sample.annotation.tobytes(),
                    digest_size=8,
                ).digest(),
            )
            for sample in samples
        ]
    return contents


def _digest(contents: Contents) -> str:
    """A digest of sets as `_contents` gives them."""
    digest = hashlib.sha256()
    for name, images in contents.items():
        digest.update(f"{name} {len(images)}\n".encode())
        for path, content in images:
            digest.update(os.fsencode(path) + b"\0" + content)
    return digest.hexdigest()


def _difference(first: Contents, other: Contents) -> str | None:
    """The first difference between sets in words; None: there is none."""
    for name, images in first.items():
        ours = other[name]
        there, here = ({path for path, _ in each} for each in (images, ours))
        for (path, content), (other_path, other_content) in zip(images, ours, strict=False):
            if path != other_path:
                missing = path not in here
                which, has, lacks = (path, "first", "second") if missing else (other_path, "second", "first")
                if missing or other_path not in there:
                    return (
                        f"the {WORDS[name]} set has {printable(which)} on the {has} alone, not on the {lacks}"
                    )
                return f"the {WORDS[name]} set has {printable(path)} where the second has {printable(other_path)}"
            if content != other_content:
                return (
                    f"{printable(path)} of the {WORDS[name]} set is another image, or annotated differently"
                )
        if len(images) != len(ours):
            longer, has, lacks = (
                (images, "first", "second") if len(images) > len(ours) else (ours, "second", "first")
            )
            path = longer[min(len(images), len(ours))][0]
            return f"the {WORDS[name]} set has {printable(path)} on the {has} alone, not on the {lacks}"
    return None
