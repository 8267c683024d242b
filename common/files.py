"""Files that appear whole or not at all, and files that are opened only if they are files."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

_NOT_REGULAR = "not a regular file"
_LEAST_READ = 4096
_SURROGATE = re.compile("[\ud800-\udfff]")


def open_regular(
    path: str | Path, flags: int = os.O_RDONLY, mode: int = 0o644, *, follow_links: bool = True
) -> int:
    """A descriptor of the regular file `path`, opened with `flags` and made with `mode` where these make it.

    follow_links: whether `path` may be a symbolic link. What a program opens to write in a folder that others can write
    to should be none: a link leads to any file of the user's.

    Raises OSError, at once, for pipes, devices, sockets and folders, which would be waited for or never end; `strerror`
    is the reason in words.
    """
    # O_NONBLOCK: opening a named pipe that nobody writes to would wait for ever. It changes nothing for a file.
    flags |= os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY | (0 if follow_links else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags, mode)
    except OSError as error:
        if not follow_links and error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "a symbolic link, which is not followed", str(path)) from None
        if error.errno in (
            errno.ENXIO,
            errno.ENODEV,
            errno.EISDIR,
        ):  # a pipe without a reader, a socket, a folder
            raise OSError(error.errno, _NOT_REGULAR, str(path)) from None
        raise
    except ValueError:  # a zero character
        raise OSError(errno.EINVAL, "not a name that a file can have", str(path)) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, _NOT_REGULAR, str(path))
    return descriptor


def read_file(path: str | Path, limit: int) -> bytes:
    """The bytes of a regular file, or of a link to one, of at most `limit` bytes.

    Raises OSError: it cannot be read; `strerror` is the reason in words.
    """
    descriptor = open_regular(path)
    pieces: list[bytes] = []
    count = 0
    try:
        size = os.fstat(descriptor).st_size
        # One more byte is asked for than there should be, so that one call reads a file and sees its end.
        while max(count, size) <= limit:
            piece = os.read(descriptor, max(size - count, _LEAST_READ) + 1)
            pieces.append(piece)
            count += len(piece)
            if not piece or count == size:
                break
    finally:
        os.close(descriptor)
    if (size := max(size, count)) > limit:
        raise OSError(errno.EFBIG, f"its {size} bytes are more than the {limit} that are read", str(path))
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


@contextmanager
def replacing(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a file beside `path` for writing and rename it to `path` when the block ends without an error.

    Readers see the old content or the new, never a part: the data is on disk before the rename. After an error
    the old file is as it was and nothing stays behind. An OSError names `path`.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.unlink(missing_ok=True)  # of a process that was killed, or a link to elsewhere
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with os.fdopen(descriptor, mode, encoding=None if "b" in mode else "utf-8") as file:
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


def readable(name: str) -> str:
    """A name of a file, or a path, as a text that every program can hold.

    Bytes that are no UTF-8 (Python has them as surrogates) are read as GBK, which archives from China are full of, or
    stand as backslash escapes; so does half of a pair of surrogates.
    """
    if not _SURROGATE.search(name):
        return name
    return "/".join(map(_readable_part, name.split("/")))


def _readable_part(name: str) -> str:
    try:
        data = name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return name.encode("utf-8", "backslashreplace").decode()
    for encoding in ("utf-8", "gb18030"):
        with suppress(UnicodeDecodeError):
            return data.decode(encoding)
    return data.decode("utf-8", "backslashreplace")


def _readable_value(value: Any) -> Any:
    if isinstance(value, str):
        return readable(value)
    if isinstance(value, dict):
        return {_readable_value(key): _readable_value(item) for key, item in value.items()}
    return [_readable_value(item) for item in value] if isinstance(value, (list, tuple)) else value


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` to write into, which takes its place when the block ends without an error.

    `out` does not exist, or is an empty folder; after an error it is as it was.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        temporary.chmod(0o755)
        yield temporary
        if out.is_dir():
            out.rmdir()
        os.replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON for people to `path`, whole or not at all: CJK letters stand as they are, names of files as
    `readable` has them."""
    with replacing(path, "w") as file:
        text = json.dumps(value, ensure_ascii=False, indent=1)
        if _SURROGATE.search(text):
            text = json.dumps(_readable_value(value), ensure_ascii=False, indent=1)
        file.write(text)
        file.write("\n")


def json_line(value: Any) -> str:
    """`value` as JSON on one line; names of files as `readable` has them."""
    text = json.dumps(value, ensure_ascii=False)
    return json.dumps(_readable_value(value), ensure_ascii=False) if _SURROGATE.search(text) else text


def spelled_out(folder: Path) -> Path:
    """`folder`, and the working folder by its name: as text, "." is the beginning of no other path."""
    return Path.cwd() if folder == Path(".") else folder
