"""Predicted views and meshes against the truth, as a protocol says, in one table for all methods."""

from typing import Any

from omegaconf import DictConfig

from core.app import app


def check(cfg: dict[str, Any]) -> None:
    """Refuse a comparison of nothing, and measures and settings that do not exist; networks are not loaded for it."""
    from core.config import check_targets
    from projects.benchmark.evaluation import methods_of

    methods_of(cfg["pred"])
    check_targets(cfg["protocol"], "protocol")


@app(config_name="evaluate", check=check)
def main(cfg: DictConfig) -> None:
    from projects.benchmark.evaluation import evaluate

    evaluate(cfg)


if __name__ == "__main__":
    main()
