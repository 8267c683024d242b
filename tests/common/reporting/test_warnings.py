"""A warning is said at once and at the end, and once each."""

from __future__ import annotations

import logging

import pytest

from common.reporting import warnings


def test_a_warning_is_logged_kept_and_repeated(caplog: pytest.LogCaptureFixture) -> None:
    warnings.forget()
    with caplog.at_level(logging.WARNING, "visualtl"):
        for sentence in ("first", "second", "first"):
            warnings.warn(sentence)
        assert caplog.messages == ["first", "second"]
        assert warnings.told() == ["first", "second"]
        caplog.clear()
        warnings.repeat()
    assert caplog.messages == ["Once more, warning 1 of 2: first", "Once more, warning 2 of 2: second"]
    warnings.forget()
    assert warnings.told() == []
