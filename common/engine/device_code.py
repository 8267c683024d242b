"""For which GPUs a library holds code: MXNet's published CUDA builds know no newer ones, somebody's own build may.

A library made with CUDA carries its device code in an ELF section `.nv_fatbin`: containers (magic 0xBA55ED50, size of
their header and of what follows it), in which each piece has a header with its kind (1: PTX, which a driver translates
for newer GPUs; 2: machine code), the sizes of header and code, and at byte 28 the compute capability times ten.
"""

from __future__ import annotations

import importlib.util
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

_SECTION = b".nv_fatbin"
_CONTAINER = 0xBA55ED50
_PTX, _MACHINE_CODE = 1, 2


@dataclass(frozen=True)
class DeviceCode:
    """Compute capabilities (major, minor) of the machine code in a library, and of its PTX."""

    binaries: frozenset[tuple[int, int]]
    ptx: frozenset[tuple[int, int]] = frozenset()

    def serves(self, capability: tuple[int, int]) -> bool:
        """Whether a GPU can run it: machine code of its generation that is not newer than itself, or older PTX."""
        major, minor = capability
        exact = any(major == m and minor >= n for m, n in self.binaries)
        return exact or any(capability >= known for known in self.ptx)

    def __str__(self) -> str:
        names = [f"{major}.{minor}" for major, minor in sorted(self.binaries)]
        return ", ".join(names + [f"{major}.{minor} and newer" for major, minor in sorted(self.ptx)])


def mxnet_library() -> Path | None:
    """The library of the MXNet that is installed, found without importing it; None if there is none."""
    spec = importlib.util.find_spec("mxnet")
    for folder in spec.submodule_search_locations or [] if spec else []:
        path = Path(folder) / "libmxnet.so"
        if path.is_file():
            return path
    return None


def device_code(library: Path) -> DeviceCode | None:
    """The device code in an ELF library of 64 bits; None if it has none, or none that can be made out."""
    try:
        with open(library, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            place = _section(data)
            pieces = _pieces(data, *place) if place else set()
    except (OSError, ValueError, OverflowError, struct.error):
        return None
    binaries = frozenset(capability for kind, capability in pieces if kind == _MACHINE_CODE)
    ptx = frozenset(capability for kind, capability in pieces if kind == _PTX)
    return DeviceCode(binaries, ptx) if pieces else None


def _section(data: mmap.mmap) -> tuple[int, int] | None:
    """Where the section with device code begins and ends."""
    if data[:5] != b"\x7fELF\x02":
        return None
    (table,) = struct.unpack_from("<Q", data, 0x28)
    size, count, names = struct.unpack_from("<HHH", data, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", data, table + number * size) for number in range(count)]
    if names >= len(headers):
        return None
    text = headers[names][4]
    for name, _, _, _, offset, length in headers:
        if data[text + name : text + name + len(_SECTION) + 1] == _SECTION + b"\0":
            return offset, min(offset + length, len(data))
    return None


def _pieces(data: mmap.mmap, position: int, end: int) -> set[tuple[int, tuple[int, int]]]:
    """Kind and compute capability of every piece between two places."""
    pieces: set[tuple[int, tuple[int, int]]] = set()
    while position + 16 <= end:
        magic, _, header, size = struct.unpack_from("<IHHQ", data, position)
        if magic != _CONTAINER:  # between containers there may be room
            position += 8
            continue
        piece, position = position + header, min(position + header + size, end)
        while piece + 32 <= position:
            kind, _, own, length = struct.unpack_from("<HHIQ", data, piece)
            (capability,) = struct.unpack_from("<I", data, piece + 28)
            pieces.add((kind, divmod(capability, 10)))
            piece += max(own + length, 32)
    return pieces
