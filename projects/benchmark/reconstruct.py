"""Views -> mesh: fit NeuS or an instant-ngp NeRF to one view set or many.

    python -m projects.benchmark.reconstruct views=DIR method=neus preset=toybox out=outputs/chair
    python -m projects.benchmark.reconstruct views=RENDERINGS rig=syncdreamer preset=medium

Leaves `mesh.glb`, `mesh.ply`, `turntable.mp4`, `metrics.csv` and `asset.json` in `out`, or, for several view sets, in
one folder each, with `results.jsonl` beside them. `asset.json` comes last: with it a result is finished, and a second
run with the same settings skips it; with other settings it refuses, unless overwrite=true. A killed run continues.
"""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from core.app import app


@app(config_name="reconstruct", reads=("method", "preset", "recipe", "field", "fit", "image", "mesh", "turntable"))
def main(cfg: DictConfig) -> None:
    """Views -> mesh: fit NeuS or an instant-ngp NeRF to one view set or many."""
    from projects.benchmark.assets import reconstruct_all

    reconstruct_all(OmegaConf.to_container(cfg), Path(cfg.out))


if __name__ == "__main__":
    main()
