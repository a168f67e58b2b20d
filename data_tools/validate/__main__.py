"""Every broken object of a data set, with the reason.

    python -m data_tools.validate root=data/views                                 view sets
    python -m data_tools.validate root=their_data layout=syncdreamer out=checked  an official layout, as it lies there
    python -m data_tools.validate root=data/packed                                what data_tools.pack made

Prints a table and writes `validation.json`, also into a data folder that training reads (beside=true), where training
finds it. Exit code 0 says that all is well, 2 that something is broken.
"""

from omegaconf import DictConfig, OmegaConf

from core.app import app
from core.config import whole
from data_tools.layouts import known
from data_tools.layouts._settings import check as check_layout


def check(cfg: dict) -> None:
    """Refuse settings that no data set fits."""
    check_layout(cfg, known())
    for key in ("size", "num_views", "workers"):
        if cfg[key] is not None:
            whole(key, cfg[key])


@app(config_name="validate", reads=(), check=check)
def main(cfg: DictConfig) -> None:
    """Every broken object of a data set, with the reason."""
    from pathlib import Path

    from data_tools.validate.report import raise_if_broken, table, validate, write_beside, write_report

    report = validate(OmegaConf.to_container(cfg))
    path = write_report(Path(cfg.out), report)
    print(table(report))
    if cfg.beside and (said := write_beside(report)) is not None:
        print(said)
    raise_if_broken(report, path)


if __name__ == "__main__":
    main()
