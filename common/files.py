"""Files that appear whole or not at all."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

_SURROGATE = re.compile("[\ud800-\udfff]")


@contextmanager
def replacing(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a file beside `path` for writing and rename it to `path` when the block ends without an error.

    Readers see the old content or the new, never a part: the data is on disk before the rename. After an error
    the old file is as it was and nothing stays behind. An OSError names `path`.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):  # the folder itself may be gone
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(temporary), temporary):
            error.filename = str(path)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write `value` as readable JSON (CJK letters as they are) to `path`, whole or not at all."""
    with replacing(path, "w") as file:
        text = json.dumps(value, ensure_ascii=False, indent=1)
        # Names of files may hold bytes that are no UTF-8, as Python's surrogates; JSON has an escape for those.
        file.write(_SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text))
        file.write("\n")
