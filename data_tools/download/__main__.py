"""The files that a registry names, fetched and checked.

    python -m data_tools.download registry=chairs.yaml out=data/chairs
    python -m data_tools.download registry=chairs.yaml out=data/chairs mirror=/media/disk/chairs unpack=true

A file gets its name only when its size and sha256 are what the registry says. A transfer that broke off goes on where
it stopped, also in a further run. Ends with `results.jsonl`, which lists the files that failed too.
"""

from omegaconf import DictConfig, OmegaConf

from core.app import app
from core.config import number, whole
from core.errors import BadConfig


def check(cfg: dict) -> None:
    """Refuse settings that no download has."""
    whole("workers", cfg["workers"], most=64)
    whole("retries", cfg["retries"], least=0)
    number("timeout_s", cfg["timeout_s"], 0, above=True)
    if cfg["max_unpacked_gb"] is not None:
        number("max_unpacked_gb", cfg["max_unpacked_gb"], 0, above=True)
        if not cfg["unpack"]:
            raise BadConfig(f"max_unpacked_gb={cfg['max_unpacked_gb']}: it is read with unpack=true only; leave it out")


@app(config_name="download", reads=(), check=check)
def main(cfg: DictConfig) -> None:
    """The files that a registry names, fetched and checked."""
    from pathlib import Path

    from data_tools.download.make import download_all

    records = download_all(OmegaConf.to_container(cfg), Path(cfg.out))
    skipped = sum(record["status"] == "skipped" for record in records)
    unverified = sum(not record["verified"] for record in records)
    note = f", {unverified} of all without a known sha256" if unverified else ""
    print(f"{cfg.out}: {len(records) - skipped} files fetched, {skipped} were there before{note}")


if __name__ == "__main__":
    main()
