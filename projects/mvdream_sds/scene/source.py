"""Which scene a program reads: a run's, or one that threestudio saved. Loads no torch before there is one."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.config import number, whole
from core.errors import BadConfig
from core.progress import console

if TYPE_CHECKING:
    from projects.mvdream_sds.scene.loading import Loaded


def check_source(cfg: Mapping[str, Any]) -> None:
    """Refuse settings that name no scene, or two."""
    run, weights = cfg["run"], cfg["weights"]
    if (run is None) == (weights is None):
        raise BadConfig(
            f"run={run}, weights={weights}: give run=DIR (of projects.mvdream_sds.train), or weights=FILE, a scene "
            "that threestudio saved, with the settings of its parts in scene"
        )
    if run is None and cfg.get("scene") is None:
        raise BadConfig(f"weights={weights}: name the scene's parts too, scene=mvdream_sd21 or mvdream_sd21_shading")
    if cfg["step"] is not None:
        whole("step", cfg["step"], least=0)
        if run is None:
            raise BadConfig(f"step={cfg['step']} is of a run's checkpoints; weights={weights} has one state only")


def load_source(cfg: Mapping[str, Any]) -> "Loaded":
    """The scene, in evaluation mode on the CPU."""
    from projects.mvdream_sds.scene.loading import load_published, load_run

    if cfg["run"] is not None:
        if cfg.get("scene") is not None:
            console.print("run= brings its scene's settings along: those of scene= are not read")
        loaded = load_run(Path(cfg["run"]), step=cfg["step"])
    else:
        loaded = load_published(Path(cfg["weights"]), cfg.get("scene"))
    loaded.scene.eval().requires_grad_(False)
    return loaded


def check_orbit(cfg: Mapping[str, Any]) -> None:
    """Refuse what no orbit can be made with; null leaves a number to the run."""
    if cfg["size"] is not None:
        whole("size", cfg["size"], least=16)  # smaller frames are more than some video encoders take
    if cfg["elevation"] is not None:
        number("elevation", cfg["elevation"], -90, 90)
    if cfg["distance"] is not None:
        number("distance", cfg["distance"], 0, above=True)
    if cfg["fov"] is not None:
        number("fov", cfg["fov"], 1, 170)
