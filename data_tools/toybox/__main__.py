"""Make the toybox data set: procedural objects with captions, meshes, cameras and renderings.

    python -m data_tools.toybox                              2000 / 50 / 30 objects into data/toybox
    python -m data_tools.toybox out=data/small objects.train=100
    python -m data_tools.toybox official=data/toybox_official official_size=256     SyncDreamer's layout as well
    python -m data_tools.toybox free=data/toybox_free        the same objects from 12 random poses each

A run that was stopped continues where it was.
"""

from typing import Any

from omegaconf import DictConfig

from core.app import app
from core.config import one_of, whole
from core.data.conventions import SPLITS


def check(cfg: dict[str, Any]) -> None:
    """Refuse what no toybox can be made with."""
    for split, count in cfg["objects"].items():
        one_of("objects", split, SPLITS)
        whole(f"objects.{split}", count, least=0)
    for key, least in {"seed": 0, "image_size": 8, "official_size": 8, "supersample": 1, "free_views": 2}.items():
        whole(key, cfg[key], least)
    if cfg["num_workers"] is not None:
        whole("num_workers", cfg["num_workers"], least=0)


@app(config_name="toybox", reads=(), check=check)
def main(cfg: DictConfig) -> None:
    """Make the toybox data set: captioned objects of coloured primitives, rendered from exact cameras."""
    import json
    import os
    from pathlib import Path

    from core.progress import progress_bar
    from data_tools.toybox.free import write_free
    from data_tools.toybox.make import Recipe, make
    from data_tools.toybox.official import write_official

    def show(steps, what: str, total: int) -> None:
        with progress_bar() as bar:
            for _ in bar.track(steps, description=what, total=total):
                pass

    root = Path(cfg.out)
    recipe = Recipe(seed=cfg.seed, image_size=cfg.image_size, supersample=cfg.supersample)
    workers = cfg.num_workers if cfg.num_workers is not None else os.cpu_count() or 1
    made = make(root, recipe, cfg.objects, num_workers=workers)
    show(made, "toybox", sum(cfg.objects.values()))
    index = json.loads((root / "index.json").read_text(encoding="utf-8"))
    if cfg.official is not None:
        for split, uids in index["splits"].items():
            written = write_official(root, Path(cfg.official) / split, split, uids, size=cfg.official_size)
            show(written, f"official layout, {split}", len(uids))
    if cfg.free is not None:
        written = write_free(root, Path(cfg.free), recipe, num_views=cfg.free_views, num_workers=workers)
        show(written, "from random poses", sum(map(len, index["splits"].values())))
    counts = ", ".join(f"{len(uids)} {split}" for split, uids in index["splits"].items())
    print(f"{root}: {counts} objects, sha256 {index['sha256'][:16]}")


if __name__ == "__main__":
    main()
