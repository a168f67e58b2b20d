"""Meshes -> view sets: draw .glb, .obj and .ply files from the cameras of a named rig.

    python -m data_tools.render input=meshes out=data/views                      SyncDreamer's 16 views of each
    python -m data_tools.render input='objects/**/*.glb' rig=zero123 num_views=12 depth=true normals=true
    python -m data_tools.render input=chair.obj up=y engine=blender
    python -m data_tools.render input=meshes rig=syncdreamer_input part=input out=data/views

Leaves one view set per object in `out`, and `results.jsonl`, which lists the objects that failed too. What is there
already with the same settings is skipped; with other settings it is refused, unless overwrite=true.
"""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from core.app import app


def check(cfg: dict[str, Any]) -> None:
    """Refuse what would fail at every object."""
    from data_tools.render.make import check_settings

    check_settings(cfg)


@app(config_name="render", reads=(), check=check)
def main(cfg: DictConfig) -> None:
    """Meshes -> view sets: draw .glb, .obj and .ply files from the cameras of a named rig."""
    from pathlib import Path

    from data_tools.render.make import render_all

    records = render_all(OmegaConf.to_container(cfg), Path(cfg.out))
    skipped = sum(record["status"] == "skipped" for record in records)
    print(f"{cfg.out}: {len(records) - skipped} objects rendered, {skipped} were there before")


if __name__ == "__main__":
    main()
