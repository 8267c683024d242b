"""Batches bring several images of several identities, evenly and repeatably."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reid.sampler import identity_batches


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=60),
    st.integers(1, 20),
    st.integers(1, 5),
    st.integers(0, 9),
)
def test_a_batch_holds_images_of_as_many_identities_as_it_has_room_for(
    names: list[int], batch_size: int, images: int, seed: int
) -> None:
    identities = np.array(names)
    order = identity_batches(identities, batch_size, images, seed, 0)
    assert len(order) == -(-len(names) // batch_size) * batch_size
    available = Counter(names)
    for batch in order.reshape(-1, batch_size):
        groups = [batch[start : start + images] for start in range(0, batch_size, images)]
        owners = [{int(identities[i]) for i in group} for group in groups]
        assert all(len(owner) == 1 for owner in owners)
        distinct = {name for owner in owners for name in owner}
        assert len(distinct) == min(len(groups), len(available))
        for group, owner in zip(groups, owners, strict=True):
            assert len(set(group.tolist())) == min(len(group), available[min(owner)])


def test_identities_come_equally_often_and_images_in_turn() -> None:
    identities = np.repeat([0, 1, 2, 3], [4, 40, 8, 12])
    order = np.concatenate([identity_batches(identities, 16, 4, seed=1, epoch=e) for e in range(8)])
    assert set(Counter(identities[order].tolist()).values()) == {128}
    one = identity_batches(identities, 64, 16, seed=1, epoch=0)
    assert max(Counter(one[identities[one] == 3].tolist()).values()) == 2
    assert max(Counter(one[identities[one] == 1].tolist()).values()) == 1


def test_the_same_arguments_give_the_same_order_and_another_epoch_another() -> None:
    identities = np.repeat(np.arange(5), 6)
    first, again = identity_batches(identities, 8, 2, 3, 0), identity_batches(identities, 8, 2, 3, 0)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, identity_batches(identities, 8, 2, 3, 1))


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        identity_batches(np.array([0]), 4, 0, 0, 0)
