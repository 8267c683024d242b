"""PyTorch's operations on lists of tensors, a few calls for all of them: what its own optimizers are made of.

They are documented under names with an underscore; whatever uses one of them is in this module.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from common.engine.norm import norm

Tensors = Sequence[Tensor]


def norms(tensors: Tensors) -> Tensor:
    """The norm of each (N,)."""
    if tensors[0].is_cuda:
        return torch.stack(torch._foreach_norm(list(tensors)))
    return torch.tensor([norm(tensor.detach().numpy()) for tensor in tensors])


def scale(tensors: Tensors, factors: float | Sequence[float]) -> None:
    """tensor *= factor, one for all or one for each."""
    torch._foreach_mul_(list(tensors), factors if isinstance(factors, float) else list(factors))


def scaled(tensors: Tensors, factors: float | Sequence[float]) -> list[Tensor]:
    """tensor * factor."""
    product = torch._foreach_mul(list(tensors), factors if isinstance(factors, float) else list(factors))
    return list(product)


def add(tensors: Tensors, others: Tensors, factor: float = 1.0) -> None:
    """tensor += factor * other."""
    torch._foreach_add_(list(tensors), list(others), alpha=factor)


def add_products(tensors: Tensors, first: Tensors, second: Tensors, factor: float) -> None:
    """tensor += factor * first * second."""
    torch._foreach_addcmul_(list(tensors), list(first), list(second), factor)


def add_quotients(tensors: Tensors, first: Tensors, second: Tensors, factors: Sequence[float]) -> None:
    """tensor += factor * first / second."""
    torch._foreach_addcdiv_(list(tensors), list(first), list(second), list(factors))


def roots(tensors: Tensors, added: float) -> list[Tensor]:
    """The root of a tensor, plus `added`."""
    made = torch._foreach_sqrt(list(tensors))
    torch._foreach_add_(made, added)
    return list(made)


def approach(tensors: Tensors, others: Tensors, share: float) -> None:
    """tensor += share * (other - tensor)."""
    torch._foreach_lerp_(list(tensors), list(others), share)


def copy(tensors: Tensors, others: Tensors) -> None:
    """tensor = other."""
    torch._foreach_copy_(list(tensors), list(others))
