"""The device that PyTorch computes on."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from common.errors import DeviceError

_OR_CPU = "train on the CPU with `gpus: []` (--set 'gpus=[]')"


def torch_device(gpus: Sequence[int]) -> torch.device:
    """The GPU with this id, or for none the CPU. Raises DeviceError."""
    if not gpus:
        return torch.device("cpu")
    if len(gpus) > 1:
        raise DeviceError(
            f"gpus: {list(gpus)} asked for, and PyTorch computes on one GPU here; name one of them"
        )
    if not torch.cuda.is_available():
        built = f"was built for CUDA {torch.version.cuda}" if torch.version.cuda else "is for the CPU alone"
        raise DeviceError(
            f"gpus: {list(gpus)} asked for, but the PyTorch installed here ({torch.__version__}, which {built}) cannot "
            f"use them; update this machine's driver, install a build of PyTorch for it, or {_OR_CPU}"
        )
    device = torch.device("cuda", gpus[0])
    major, minor = torch.cuda.get_device_capability(device)
    known = torch.cuda.get_arch_list()
    if not _serves(known, major, minor):
        raise DeviceError(
            f"gpus: PyTorch, as it is installed here, holds no code for {torch.cuda.get_device_name(device)} (compute "
            f"capability {major}.{minor}), but for {', '.join(known)}; {_OR_CPU}"
        )
    torch.cuda.set_device(device)
    return device


def _serves(known: Sequence[str], major: int, minor: int) -> bool:
    """Whether a GPU runs machine code of its generation (sm_90), or code that is made for it when it starts."""
    for name in known:
        kind, _, number = name.partition("_")
        digits = "".join(filter(str.isdigit, number))
        of = int(digits[:-1] or 0), int(digits[-1:] or 0)
        if kind == "sm" and of[0] == major and of[1] <= minor:
            return True
        if kind == "compute" and of <= (major, minor):
            return True
    return False


def describe(device: torch.device) -> str:
    """A device in words."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
    return f"{name} (version {torch.__version__})"


def set_up(device: torch.device) -> None:
    """What PyTorch does for all of a process."""
    if device.type == "cpu":
        # The same run twice gives the same numbers; memory that nothing has been written to needs no filling for that.
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False
    else:
        # What is called float32 is: who wants less precision says so by train.dtype or model.amp.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
