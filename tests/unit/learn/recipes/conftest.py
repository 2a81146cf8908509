"""Oracles are in float32: so is training here, whatever the processor multiplies in hardware."""

import pytest

from foretoken.learn import lm


@pytest.fixture(autouse=True)
def _float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm, "has_fast_bfloat16", lambda _: False)
