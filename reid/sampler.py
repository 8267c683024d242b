"""Batches of several identities with several images each, as the triplet loss needs them."""

from __future__ import annotations

import numpy as np


class _Deck:
    """Cards that are drawn in random order, and shuffled anew when they are used up."""

    def __init__(self, cards: np.ndarray, rng: np.random.Generator) -> None:
        self._cards, self._rng = cards, rng
        self._left: list[int] = []

    def draw(self, count: int) -> list[int]:
        """`count` cards: every card of the deck before any of them a second time."""
        drawn: list[int] = []
        while len(drawn) < count:
            drawn += self._draw_distinct(min(count - len(drawn), len(self._cards)))
        return drawn

    def _draw_distinct(self, count: int) -> list[int]:
        drawn: list[int] = []
        while len(drawn) < count:
            if not self._left:
                # What the rest of the old deck gave goes to the bottom of the new one.
                shuffled = self._rng.permutation(self._cards).tolist()
                self._left = [c for c in shuffled if c in drawn] + [c for c in shuffled if c not in drawn]
            drawn.append(self._left.pop())
        return drawn


def identity_batches(
    identities: np.ndarray, batch_size: int, images_per_identity: int, seed: int, epoch: int
) -> np.ndarray:
    """Order of the samples of an epoch, as indices (batches * batch_size,) into identities (N,).

    Every batch holds `images_per_identity` images each of as many identities as it has room for (the last one
    may have fewer images); identities come equally often, images of an identity all before any comes again.
    An identity with fewer images repeats them. An epoch is ceil(N / batch_size) batches; the same arguments
    give the same order.
    """
    if len(identities) == 0 or batch_size < 1 or images_per_identity < 1:
        raise ValueError("identity_batches needs samples, and sizes of at least 1")
    rng = np.random.default_rng([seed, epoch])
    names, number = np.unique(identities, return_inverse=True)
    images = [_Deck(np.flatnonzero(number == identity), rng) for identity in range(len(names))]
    chosen = _Deck(np.arange(len(names)), rng)
    rooms = -(-batch_size // images_per_identity)
    order: list[int] = []
    for _ in range(-(-len(identities) // batch_size)):
        batch: list[int] = []
        for identity in chosen.draw(rooms):
            batch += images[identity].draw(images_per_identity)
        order += batch[:batch_size]
    return np.array(order)
