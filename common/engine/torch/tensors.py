"""NumPy arrays as tensors, and back; the order of memory that convolutions like."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


def tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Copies of NumPy arrays as tensors, by name."""
    return {name: torch.from_numpy(value.copy()) for name, value in arrays.items()}


def array(tensor: Tensor) -> np.ndarray:
    """A tensor's numbers as a NumPy array of its own, in the usual order."""
    numbers: np.ndarray = tensor.detach().cpu().contiguous().numpy()
    return numbers.copy()


def assign(tensor: Tensor, value: np.ndarray) -> None:
    """Give a tensor the numbers of an array. Raises ValueError for one of another shape."""
    if tuple(tensor.shape) != value.shape:
        raise ValueError(f"an array of shape {value.shape} where {tuple(tensor.shape)} is needed")
    with torch.no_grad():
        tensor.copy_(torch.from_numpy(np.array(value)))


def in_order(tensor: Tensor) -> Tensor:
    """Convolutions like channels last, of maps, weights and gradients."""
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor.contiguous()
