"""Converted copies that find no place beside their source go to a cache folder of the test's own."""

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TURNTABLE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
