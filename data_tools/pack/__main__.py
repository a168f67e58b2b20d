"""View sets -> WebDataset shards with an index, from which training reads in any order.

    python -m data_tools.pack root=data/toybox out=data/toybox_packed
    python -m data_tools.pack root=their_data layout=syncdreamer out=data/packed

A shard that is there and was made from the same files is left; objects that are broken are left out and listed.
"""

from omegaconf import DictConfig, OmegaConf

from core.app import app
from core.config import whole
from core.masks import check_mask
from data_tools.layouts import known
from data_tools.layouts._settings import check as check_layout


def check(cfg: dict) -> None:
    """Refuse settings that no data set fits."""
    check_layout(cfg, known())
    whole("objects_per_shard", cfg["objects_per_shard"])
    if cfg["workers"] is not None:
        whole("workers", cfg["workers"])
    if cfg["mask"] is not None:
        check_mask(str(cfg["mask"]))


@app(config_name="pack", reads=(), check=check)
def main(cfg: DictConfig) -> None:
    """View sets -> WebDataset shards with an index, from which training reads in any order."""
    from pathlib import Path

    from data_tools.pack.make import pack_all

    made = pack_all(OmegaConf.to_container(cfg), Path(cfg.out))
    print(f"{cfg.out}: {made['objects']} objects in {made['shards']} shards, {made['skipped']} of them there before")


if __name__ == "__main__":
    main()
