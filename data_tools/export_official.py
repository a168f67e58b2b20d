"""View sets -> official data layouts.

    python -m data_tools.export_official layout=syncdreamer source=data/toybox/test out=official
    python -m data_tools.export_official layout=colmap source=data/toybox/test part=target out=colmap

Leaves the layout in `out`, with its lists, and `results.jsonl`, which lists the objects that it cannot hold. What is
there already from the same view sets is skipped.
"""

from omegaconf import DictConfig, OmegaConf

from core.app import app
from data_tools.layouts import official
from data_tools.layouts._settings import check


@app(config_name="export_official", reads=(), check=lambda cfg: check(cfg, official()))
def main(cfg: DictConfig) -> None:
    """View sets -> official data layouts."""
    from pathlib import Path

    from data_tools.layouts._convert import export_all

    records = export_all(OmegaConf.to_container(cfg), Path(cfg.out))
    skipped = sum(record["status"] == "skipped" for record in records)
    print(f"{cfg.out}: {len(records) - skipped} objects exported, {skipped} were there before")


if __name__ == "__main__":
    main()
