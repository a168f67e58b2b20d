"""What `python -m projects.mvdream_sds.render` does: an orbit's frames as a view set, and its video."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from core.batch import finished
from core.device import choose_device
from core.errors import BadOutput
from core.files import atomic_folder
from core.images import composite
from core.media import write_video
from core.memory import out_of_memory_as_request
from core.progress import console, progress_bar
from core.provenance import config_hash, provenance
from core.types import Cameras
from core.views import TRANSFORMS, ViewSet, write_views
from projects.mvdream_sds.scene.loading import Loaded
from projects.mvdream_sds.scene.source import load_source
from projects.mvdream_sds.scene.views import Seen, joined, see

say = partial(console.print, markup=False, highlight=False)
FOLDER, MARK, VIEWS, VIDEO = "orbit", "result.json", "views", "turntable.mp4"
# What decides the pictures; where they go and where they are computed do not. The scene counts by its content.
SHAPING = ("num_views", "size", "elevation", "distance", "fov", "fps", "background", "panels")
HINT = "set size lower, or device=cpu"


def render(cfg: DictConfig) -> dict[str, Any]:
    """The program behind `python -m projects.mvdream_sds.render`; returns what result.json says."""
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    device = choose_device(config["device"])
    loaded = load_source(config)
    folder = Path(config["out"]) / FOLDER
    key = config_hash({name: config[name] for name in SHAPING} | loaded.identity)
    done = None if config["overwrite"] else finished(folder, key, mark=MARK, parts=lambda record: record["files"])
    if done is not None:
        say(f"{folder}: done before, skipped")
        return done
    cameras = loaded.orbit_as(config, config["num_views"], config["size"]).views().cameras
    loaded.scene.to(device)
    with out_of_memory_as_request(HINT), progress_bar() as bar:
        seen = film(loaded, cameras, "normal" in config["panels"], bar)
    record = {"key": key, "prompt": loaded.prompt, "step": loaded.step, "scene": str(loaded.file)}
    source = provenance(config, weights=[loaded.file]) | {"prompt": loaded.prompt, "step": loaded.step}
    with atomic_folder(folder, overwrite=config["overwrite"], mark=MARK) as temporary:
        name = loaded.prompt or loaded.file.stem
        views = ViewSet(seen.rgba, cameras, name, loaded.prompt, source)
        write_views(temporary / VIEWS, views)
        video = write_video(temporary / VIDEO, panels(seen, config), fps=config["fps"])
        record |= {"views": len(views), "files": [f"{VIEWS}/{TRANSFORMS}", video.name]}
        (temporary / MARK).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    say(f"{folder}: {len(views)} views of step {loaded.step}, and {video.name}")
    return record


def film(loaded: Loaded, cameras: Cameras, normals: bool, bar: Any) -> Seen:
    """What each camera sees; BadOutput where a field is no longer finite."""
    task = bar.add_task("orbit", total=len(cameras))
    parts = []
    for view in range(len(cameras)):
        parts.append(see(loaded.scene, cameras[view : view + 1], step=loaded.step, normals=normals))
        bar.advance(task)
    seen = joined(parts)
    if not torch.isfinite(seen.rgba).all():
        raise BadOutput(f"{loaded.file}: the scene's pictures hold NaN: its run diverged; take an earlier step=")
    return seen


def panels(seen: Seen, config: Mapping[str, Any]) -> Float[Tensor, "views 3 height wide"]:
    """The video's frames: the pictures that `panels` names, side by side."""
    over_white = composite(seen.rgba) if config["background"] == "white" else seen.over_behind
    shown = {"rgb": over_white, "opacity": seen.opacity.expand(-1, 3, -1, -1)}
    if seen.normal is not None:
        shown["normal"] = seen.normal
    return torch.cat([shown[name] for name in config["panels"]], dim=-1)
