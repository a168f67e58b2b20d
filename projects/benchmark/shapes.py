"""Chamfer distances of reconstructed meshes to true ones, beside a sphere's; in world units, without alignment."""

from omegaconf import DictConfig

from core.app import app


@app(config_name="shapes")
def main(cfg: DictConfig) -> float:
    import json
    from pathlib import Path

    from core.files import atomic_file
    from core.metrics.summary import CHAMFER
    from core.progress import console
    from projects.benchmark.surfaces import compare

    result = compare(Path(cfg.pred), Path(cfg.truth), num_points=cfg.num_points, seed=cfg.seed)
    with atomic_file(Path(cfg.out) / "shapes.json") as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    mean = {name: CHAMFER.text(value) for name, value in result["mean"].items()}
    console.print(
        f"{len(result['objects'])} objects: Chamfer {mean['mesh']}, sphere {mean['sphere']}; "
        f"missing: {', '.join(result['missing']) or 'none'}",
        markup=False,
    )
    return result["mean"]["mesh"]


if __name__ == "__main__":
    main()
