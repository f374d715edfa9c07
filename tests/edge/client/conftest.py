"""Fixtures of the client side's tests."""

import pytest

from image_gateway.edge.client import listener


@pytest.fixture(autouse=True)
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "GRACE_SECONDS", 0.0)
