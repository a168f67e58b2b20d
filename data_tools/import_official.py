"""Official data layouts -> view sets.

    python -m data_tools.import_official layout=syncdreamer source=their_data out=data/views
    python -m data_tools.import_official layout=colmap source=scan up=-y mask=auto out=data/scan

Leaves one view set per object (or per part of it) in `out`, `index.json` with the names and splits, and
`results.jsonl`, which lists the objects that failed too. What is there already from the same files is skipped.
"""

from omegaconf import DictConfig, OmegaConf

from core.app import app
from data_tools.layouts import official
from data_tools.layouts._settings import check


@app(config_name="import_official", reads=(), check=lambda cfg: check(cfg, official()))
def main(cfg: DictConfig) -> None:
    """Official data layouts -> view sets."""
    from pathlib import Path

    from data_tools.layouts._convert import import_all

    records = import_all(OmegaConf.to_container(cfg), Path(cfg.out))
    skipped = sum(record["status"] == "skipped" for record in records)
    print(f"{cfg.out}: {len(records) - skipped} objects imported, {skipped} were there before")


if __name__ == "__main__":
    main()
