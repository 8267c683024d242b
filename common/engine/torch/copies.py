"""Copies between the host's memory and a device's that go on while the device computes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class Copies:
    """Arrays to a device, and figures back. On the CPU there is nothing to copy.

    A GPU copies while it computes from memory that is pinned. Of that there are two sets: one that is being copied, and
    one to be filled.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._on_gpu = device.type != "cpu"
        self._sets: list[dict[tuple[int, tuple[int, ...], str], Tensor]] = [{}, {}]
        self._copied = [torch.cuda.Event() for _ in self._sets] if self._on_gpu else []
        self._stream = torch.cuda.Stream(device) if self._on_gpu else None
        self._read = torch.cuda.Event() if self._on_gpu else None
        self._number = 0

    def to_device(self, arrays: Sequence[np.ndarray]) -> list[Tensor]:
        """The arrays there, once `wait` has been called. On the CPU they share memory with those given."""
        if self._stream is None:
            return [_tensor(given) for given in arrays]
        self._number = 1 - self._number
        pinned, copied = self._sets[self._number], self._copied[self._number]
        copied.synchronize()
        tensors = []
        with torch.cuda.stream(self._stream):
            for place, given in enumerate(arrays):
                key = (place, given.shape, given.dtype.str)
                if key not in pinned:
                    for other in [each for each in pinned if each[0] == place]:
                        del pinned[other]
                    pinned[key] = torch.empty(given.shape, dtype=_tensor(given[:0]).dtype, pin_memory=True)
                pinned[key].copy_(_tensor(given))
                tensors.append(pinned[key].to(self._device, non_blocking=True))
            copied.record(self._stream)
        for tensor in tensors:  # its memory is taken from one stream and used by another
            tensor.record_stream(torch.cuda.current_stream(self._device))
        return tensors

    def forget(self) -> None:
        """Give back what is kept for copies, and what the device has of memory that nobody uses."""
        if self._on_gpu:
            self._sets = [{}, {}]
            torch.cuda.empty_cache()

    def wait(self) -> None:
        """What is computed from here on begins when the last arrays are there; the host goes on."""
        if self._stream is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._stream)

    def to_host(self, figures: Tensor) -> Tensor:
        """Figures in the host's memory, once `wait_for_host` has returned."""
        if self._read is None:
            return figures
        there = torch.empty(figures.shape, dtype=figures.dtype, pin_memory=True)
        there.copy_(figures, non_blocking=True)
        self._read.record(torch.cuda.current_stream(self._device))
        return there

    def wait_for_host(self) -> None:
        """Return when the last figures are there."""
        if self._read is not None:
            self._read.synchronize()


def _tensor(given: np.ndarray) -> Tensor:
    """A tensor over an array's memory; where that may not be written to, over a copy of it."""
    return torch.from_numpy(np.require(given, requirements="W"))
