"""A registry of a folder of files: measures size and sha256 of each, for data_tools.download.

    python -m data_tools.make_registry source=mirror base_url=https://example.org/chairs licence=CC-BY-4.0 out=chairs

Leaves `registry.json` in `out`.
"""

from omegaconf import DictConfig

from core.app import app
from core.errors import BadConfig


def check(cfg: dict) -> None:
    """Refuse what no registry may state."""
    if not str(cfg["base_url"]).startswith(("http://", "https://")):
        raise BadConfig(f"base_url={cfg['base_url']}: expected the http or https address below which the files lie")
    if not str(cfg["licence"]).strip():
        raise BadConfig("licence=: state the files' licence, such as CC-BY-4.0")


@app(config_name="make_registry", reads=(), check=check)
def main(cfg: DictConfig) -> None:
    """A registry of a folder of files: measures size and sha256 of each, for data_tools.download."""
    import json
    from pathlib import Path
    from urllib.parse import quote

    from core.errors import BadData
    from core.files import atomic_file, natural_key, sha256_file
    from core.progress import progress_bar

    source, out = Path(cfg.source), Path(cfg.out)
    if not source.is_dir():
        raise BadData(f"source={cfg.source}: no such folder; give the folder of files to be measured")
    if out.resolve().is_relative_to(source.resolve()):
        raise BadConfig(f"out={cfg.out} lies in the source, whose files it would change; choose another out=")
    paths = sorted((path for path in source.rglob("*") if path.is_file()), key=natural_key)
    if not paths:
        raise BadData(f"source={cfg.source} holds no files")
    items = []
    with progress_bar() as bar:
        for path in bar.track(paths, description="measuring"):
            below = path.relative_to(source).as_posix()
            address = f"{cfg.base_url.rstrip('/')}/{quote(below)}"
            items.append({"url": address, "path": below, "sha256": sha256_file(path), "size": path.stat().st_size})
    registry = {"name": source.resolve().name, "licence": cfg.licence, "items": items}
    with atomic_file(out / "registry.json") as temporary:
        temporary.write_text(json.dumps(registry, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{out / 'registry.json'}: {len(items)} files, {sum(item['size'] for item in items):,} bytes")


if __name__ == "__main__":
    main()
