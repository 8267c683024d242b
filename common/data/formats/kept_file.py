"""What was read of one large file of annotations, kept in log_dir so that a second start does not read it again.

Kept are arrays and short lists; whoever reads them checks them, as the file can hold anything. It counts while size and
times of the file of annotations are what they were before it was read, and while the code that read it is the same.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from common.container import ContainerError, read_container, write_container
from common.data.scan_cache import SETTLED_NS, state_of
from common.files import readable

log = logging.getLogger("visualtl")

LEAST_BYTES = 1 << 20
"""Smaller files are read within a blink and not kept."""

_ROOM = 1 << 20

T = TypeVar("T")


def read_or_keep(
    file: str,
    kept: Path | None,
    read: Callable[[str], T],
    pack: Callable[[T], dict[str, Any] | None],
    unpack: Callable[[dict[str, Any]], T],
) -> T:
    """What `read` makes of `file`, or what it made of it at an earlier start.

    kept: where that is kept; None: nowhere. pack: to what a container holds, None where it does not fit; unpack: back,
    ContainerError for what `pack` cannot have made.
    """
    began, state = time.time_ns(), state_of(file)
    if kept is None or state[0] < LEAST_BYTES:
        return read(file)
    key = f"{_code_key()} {list(state)} {readable(file)}"
    try:
        # A number of two characters and a comma becomes eight bytes.
        stored = read_container(kept, 4 * state[0] + _ROOM)
        if stored.get("key") == key:
            return unpack(stored)
    except FileNotFoundError:
        pass
    except (OSError, ContainerError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        log.warning("%s: not usable, the annotations are read again: %s", kept, reason)
    result = read(file)
    content = pack(result)
    if content is not None and max(state[1:]) < began - SETTLED_NS and state_of(file) == state:
        try:
            write_container(kept, {"key": key, **content})
        except (OSError, ContainerError) as error:
            log.warning("%s cannot be written, the next start reads everything again: %s", kept, error)
    return result


@functools.cache
def _code_key() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(os.fsencode(path.name) + path.read_bytes())
    return digest.hexdigest()
