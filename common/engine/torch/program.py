"""What an engine other than MXNet trains: graphs as text, and parameters with what is to be known of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Parameter:
    """A parameter as training begins.

    name: in the training block, by structure ("network.stages.0.1.weight"). own: its names in the network; none where
    it is no part of it. trained: it has a gradient. begins_at_0: it is made to begin there. lr_mult, wd_mult: of the
    learning rate and of weight decay.
    """

    value: np.ndarray
    name: str
    own: Sequence[str] = ()
    trained: bool = False
    begins_at_0: bool = False
    lr_mult: float = 1.0
    wd_mult: float = 1.0


@dataclass(frozen=True)
class Program:
    """Graphs of MXNet as JSON, in float32, and the parameters of both by the names that they have there.

    training: from `inputs`, of which "images" are uint8 (B, H, W, 3), to losses (B,). inference: from "images" to
    predictions.
    """

    training: str
    inputs: Sequence[str]
    inference: str
    parameters: Mapping[str, Parameter]
