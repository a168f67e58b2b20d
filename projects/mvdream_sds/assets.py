"""Texts -> 3D assets: for each a scene that is optimised, an orbit around it, and a mesh; started again it goes on."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from core.app import app
from core.compose import composed
from core.config import plain, whole
from core.errors import BadConfig
from core.program import Program
from core.settings import settings
from projects.mvdream_sds import export, render
from projects.mvdream_sds.scene.run_settings import check as check_run

OWN = ("prompts", "num_prompts", "render", "export")  # what `train` does not read
SHOWN = {"render": render.main.program, "export": export.main.program}


def check(cfg: dict[str, Any]) -> None:
    """Refuse what no scene, orbit or mesh can be made with."""
    if (cfg["prompt"] is None) == (cfg["prompts"] is None):
        raise BadConfig(
            f"prompt={cfg['prompt']}, prompts={cfg['prompts']}: give prompt=TEXT, or prompts= a file with one text in "
            "each line, a table of names and texts, or a folder of objects with caption.txt"
        )
    if cfg["num_prompts"] is not None:
        if cfg["prompts"] is None:
            raise BadConfig(f"num_prompts={cfg['num_prompts']} is of prompts=; with prompt= there is one")
        whole("num_prompts", cfg["num_prompts"])
    if cfg["stage"] != "full":
        raise BadConfig(f"stage={cfg['stage']}: assets are made of whole runs; leave stage=full, or use train")
    check_run({**cfg, "prompt": "a text" if cfg["prompt"] is None else cfg["prompt"]})
    for name, program in SHOWN.items():
        if program.check is not None:
            program.check(settings_of(program, cfg[name], "a run"))


def settings_of(program: Program, own: Mapping[str, Any], run: str) -> dict[str, Any]:
    """The settings with which `render` or `export` show a run in the run's own folder: their own but for `own`."""
    defaults = settings(program, composed(program, [f"run={run}", f"out={run}"]))
    return plain(OmegaConf.merge(defaults, own))


@app(config_name="mvdream_sds_assets", check=check)
def main(cfg: DictConfig) -> None:
    from projects.mvdream_sds.scene.assets import make_assets

    make_assets(cfg)


if __name__ == "__main__":
    main()
