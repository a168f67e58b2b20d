"""Predictions that need no model, laid out like any method's: what is trained must beat them all."""

from typing import Any

from omegaconf import DictConfig

from core.app import app
from core.config import whole
from core.data.conventions import NUM_VIEWS


def check(cfg: dict[str, Any]) -> None:
    """Refuse an input view that no toybox object has."""
    whole("input_view", cfg["input_view"], least=0, most=NUM_VIEWS - 1)


@app(config_name="baselines", check=check)
def main(cfg: DictConfig) -> None:
    from pathlib import Path

    from projects.benchmark.trivial import write_baselines

    write_baselines(Path(cfg.root), cfg.split, Path(cfg.out), input_view=cfg.input_view, overwrite=cfg.overwrite)


if __name__ == "__main__":
    main()
