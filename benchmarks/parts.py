"""Parts of a project by name: benchmarks import core alone."""

from collections.abc import Callable
from typing import Any

from core.config import instantiate


def part(name: str) -> Callable[..., Any]:
    """A function or class, by its whole name."""
    return instantiate({"_target_": name, "_partial_": True})
