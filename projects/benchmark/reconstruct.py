"""Views -> mesh: fit NeuS or an instant-ngp NeRF to one view set or many.

    python -m projects.benchmark.reconstruct views=DIR method=neus preset=toybox out=outputs/chair
    python -m projects.benchmark.reconstruct views=RENDERINGS rig=syncdreamer preset=medium

Leaves `mesh.glb`, `mesh.ply`, `turntable.mp4`, `metrics.csv` and `asset.json` in `out`, or, for several view sets, in
one folder each, with `results.jsonl` beside them. `asset.json` comes last: with it a result is finished, and a second
run with the same settings skips it; with other settings it refuses, unless overwrite=true. A killed run continues.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from core.app import app
from core.config import check_targets, instantiate, number, one_of, whole
from core.device import check_device
from core.errors import BadConfig
from core.masks import check_mask


def check(cfg: dict[str, Any]) -> None:
    """Refuse what would fail only after the fit, or at every view set."""
    check_device(cfg["device"])
    image, mesh = cfg["image"], cfg["mesh"]
    if image["max_size"] is not None:
        whole("image.max_size", image["max_size"], least=8)
    number("image.pixel_offset", image["pixel_offset"], 0, 1)
    whole("mesh.resolution", mesh["resolution"], least=8)
    number("mesh.min_component", mesh["min_component"], 0, 1)
    if mesh["texture_size"] != 0:  # 0: vertex colours alone
        whole("mesh.texture_size", mesh["texture_size"], least=16)

    if cfg["mask"] is not None:
        check_mask(str(cfg["mask"]))

    import torch  # the rest is known to classes that compute; what came before is told at once

    from core.cameras.rigs import RIGS

    if cfg["rig"] is not None:
        one_of("rig", cfg["rig"], sorted(RIGS))
        _check_rig(cfg["rig"], cfg["rig_options"] or {})
    elif cfg["rig_options"] is not None:
        raise BadConfig(f"rig_options={cfg['rig_options']} without rig=; name the rig, or leave them away")
    built = {key: cfg[key] for key in ("fit", "turntable", "field")}
    check_targets(built)
    with torch.random.fork_rng(devices=[]):
        for node in built.values():
            instantiate(node)


def _check_rig(rig: str, options: Any) -> None:
    """Refuse options that the rig does not read, or cannot have."""
    from core.cameras.rigs import RIGS
    from core.cameras.rigs import rig as rig_cameras

    if not isinstance(options, Mapping):
        raise BadConfig(f"rig_options={options}: expected {{key: value, ...}}")
    function = RIGS[rig]
    check_targets({"_target_": f"{function.__module__}.{function.__qualname__}", "size": 64, **options})
    rig_cameras(rig, size=64, **options)


@app(
    config_name="reconstruct",
    reads=("method", "preset", "recipe", "field", "fit", "image", "mesh", "turntable"),
    check=check,
)
def main(cfg: DictConfig) -> None:
    """Views -> mesh: fit NeuS or an instant-ngp NeRF to one view set or many."""
    from projects.benchmark.assets import reconstruct_all

    reconstruct_all(OmegaConf.to_container(cfg), Path(cfg.out))


if __name__ == "__main__":
    main()
