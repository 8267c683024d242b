"""What the image with VARIANT=torch has beside the others: standard input, a lock, without what requirements.lock pins,
without the markers of platforms, of which the image has one, and without what is not asked for. `make lock` calls it.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

LOCK = Path(__file__).resolve().parents[1] / "requirements.lock"
# 0.7 GB that torch.compile alone imports.
UNUSED = ("triton",)
HEAD = (
    "# What VARIANT=torch has beside requirements.lock: PyTorch for GPUs (CUDA 13). `make lock` writes it.\n"
)


def entries(text: str) -> list[str]:
    """The pins of a lock, each with its hashes."""
    return [entry for entry in re.split(r"\n(?=\S)", text.strip()) if not entry.startswith("#")]


def main() -> None:
    """Read, and write to standard output."""
    here: dict[str, str] = {}
    for entry in entries(LOCK.read_text()):
        name, _, rest = entry.partition("==")
        here[name] = "old" if "python_full_version < '3.11'" in rest else "all"
    sys.stdout.write(HEAD)
    for entry in entries(sys.stdin.read()):
        name = entry.split("==")[0]
        # What is there for Python 3.10 alone is needed here for newer ones.
        if here.get(name) != "all" and name not in UNUSED:
            marker = " ; python_full_version >= '3.11' " if name in here else " "
            plain = re.sub(r" ; [^\\\n]*", " ", entry)
            sys.stdout.write(re.sub(r" \\", marker + r"\\", plain, count=1) + "\n")


if __name__ == "__main__":
    main()
