"""An engine's queue gives its whole process short time slices; here that process runs all other tests, too."""

from __future__ import annotations

import pytest

from ringcast.vllm import _switch


@pytest.fixture(autouse=True)
def _slices_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(_switch._SLICE, "0")
