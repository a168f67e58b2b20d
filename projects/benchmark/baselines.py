"""Predictions that need no model, laid out like any method's: what is trained must beat them all."""

from typing import Any

from omegaconf import DictConfig

from core.app import app
from core.config import one_of, whole
from core.data.conventions import NUM_VIEWS
from core.errors import BadConfig
from projects.benchmark.layout import OBJECT


def check(cfg: dict[str, Any]) -> None:
    """Refuse an input view that no toybox object has, and one where none is given."""
    one_of("task", cfg["task"], ("views", "captions"))
    if cfg["task"] == "captions" and cfg["input_view"] != 0:
        raise BadConfig(f"input_view={cfg['input_view']}: task=captions gives no view; leave it at 0")
    if cfg["task"] == "views" and cfg["place"] != OBJECT:
        raise BadConfig(f"place={cfg['place']}: only task=captions reads it; leave it at {OBJECT}")
    whole("input_view", cfg["input_view"], least=0, most=NUM_VIEWS - 1)


@app(config_name="baselines", check=check)
def main(cfg: DictConfig) -> None:
    from pathlib import Path

    from projects.benchmark.captioned import write_captioned
    from projects.benchmark.trivial import write_baselines

    if cfg.task == "captions":
        write_captioned(Path(cfg.root), cfg.split, Path(cfg.out), place=cfg.place, overwrite=cfg.overwrite)
        return
    write_baselines(Path(cfg.root), cfg.split, Path(cfg.out), input_view=cfg.input_view, overwrite=cfg.overwrite)


if __name__ == "__main__":
    main()
