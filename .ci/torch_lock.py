"""What the image with VARIANT=torch has beside the others: standard input, a lock, without what requirements.lock pins,
and without the markers of platforms, of which the image has one. `make lock` calls it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

LOCK = Path(__file__).resolve().parents[1] / "requirements.lock"
HEAD = (
    "# What VARIANT=torch has beside requirements.lock: PyTorch for GPUs (CUDA 13). `make lock` writes it.\n"
)


def entries(text: str) -> list[str]:
    """The pins of a lock, each with its hashes."""
    return [entry for entry in re.split(r"\n(?=\S)", text.strip()) if not entry.startswith("#")]


def main() -> None:
    """Read, and write to standard output."""
    # What stands there with a marker is not for every Python.
    known = {entry.split("==")[0] for entry in entries(LOCK.read_text()) if " ; " not in entry}
    new = [entry for entry in entries(sys.stdin.read()) if entry.split("==")[0] not in known]
    sys.stdout.write(HEAD + "".join(re.sub(r" ; [^\\\n]*", " ", entry) + "\n" for entry in new))


if __name__ == "__main__":
    main()
