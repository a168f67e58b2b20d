"""The main job, end to end, on bundled weights: a held-out toybox object -> one image -> 16 views -> mesh -> report.

    make demo                                   # or: python -m launch.demo out=outputs/demo object=3 sample_num=2

Every stage is the program a user would type, started by name; the commands are printed.
"""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from core.app import app
from core.config import whole
from core.data.conventions import NUM_VIEWS


def check(cfg: dict[str, Any]) -> None:
    """Refuse an object or a view that the toybox cannot have."""
    whole("object", cfg["object"], least=0)
    whole("input_view", cfg["input_view"], least=0, most=NUM_VIEWS - 1)
    whole("sample_num", cfg["sample_num"])


@app(config_name="demo", check=check)
def main(cfg: DictConfig) -> None:
    out = Path(cfg.out)
    toybox = out / "object"
    run("data_tools.toybox", f"out={toybox}", "objects.train=0", "objects.val=0", f"objects.test={cfg.object + 1}")
    truth = toybox / "test" / f"test-{cfg.object:05d}"
    photo = truth / "input" / "images" / f"{cfg.input_view:03d}.png"
    elevation = input_elevation_deg(truth, cfg.input_view)
    run(
        "projects.syncdreamer.generate", "+experiment=syncdreamer/toybox", f"input={photo}", f"out={out / 'views'}",
        f"elevation={elevation:.2f}", f"sample_num={cfg.sample_num}", f"seed={cfg.seed}", "overwrite=true",
    )  # fmt: skip
    made = out / "views" / photo.stem
    best = made / "best"
    run(
        "projects.benchmark.reconstruct", f"views={best}", "method=neus", "preset=toybox", f"out={out / 'asset'}",
        f"seed={cfg.seed}", "overwrite=true",
    )  # fmt: skip
    write(out, truth, photo, best, cfg.input_view)


def run(module: str, *arguments: str) -> None:
    """Start a program; its error line has been printed when it fails, and its exit code becomes ours."""
    print(f"\n$ python -m {module} " + " ".join(arguments), file=sys.stderr, flush=True)
    done = subprocess.run([sys.executable, "-m", module, *arguments])
    if done.returncode:
        raise SystemExit(done.returncode)


def input_elevation_deg(truth: Path, view: int) -> float:
    """How high the camera of the input stands, from its pose."""
    frame = json.loads((truth / "input" / "transforms.json").read_text(encoding="utf-8"))["frames"][view]
    x, y, z = (row[3] for row in frame["transform_matrix"][:3])
    return math.degrees(math.atan2(z, math.hypot(x, y)))


def write(out: Path, truth: Path, photo: Path, best: Path, input_view: int) -> None:
    """The page, and its numbers: views against the true views, the mesh against the true mesh and a sphere."""
    from core.images import composite, read_image
    from core.mesh.export import read_mesh
    from core.mesh.place import sphere, turned
    from core.metrics.images import flip, psnr, ssim
    from core.metrics.shapes import chamfer, sample_surface
    from core.metrics.summary import CHAMFER, FLIP, PSNR, SSIM
    from core.report import Model, ReportItem, write_report
    from core.views import read_views

    made, true = read_views(best), read_views(truth / "target")
    # The model's ring starts at the input; the toybox's at its own azimuth 0.
    order = [(input_view + view) % len(true) for view in range(len(true))]
    true_rgb, made_rgb = true.rgb()[order], made.rgb()
    mesh = read_mesh(out / "asset" / "mesh.ply")
    true_mesh = turned(read_mesh(truth / "mesh.ply"), -2 * math.pi * input_view / len(true))
    target = sample_surface(true_mesh, 20000, seed=0)
    image = composite(read_image(photo))
    repeated = image.expand_as(true_rgb)
    metrics = {
        name: {
            PSNR.name: psnr(rgb, true_rgb).mean().item(),
            SSIM.name: ssim(rgb, true_rgb).mean().item(),
            FLIP.name: flip(rgb, true_rgb).mean().item(),
            CHAMFER.name: chamfer(sample_surface(shape, 20000, seed=1), target),
        }
        for name, rgb, shape in (
            ("SyncDreamer (toybox), then NeuS", made_rgb, mesh),
            ("trivial: the input repeated, a sphere", repeated, sphere()),
        )
    }
    film = out / "asset" / json.loads((out / "asset" / "asset.json").read_text())["turntable"]["file"]
    item = ReportItem(
        name=truth.name, views={"generated": made_rgb, "truth": true_rgb}, source=image,
        models={"": Model(mesh, film if film.suffix == ".mp4" else None)},
        caption=(truth / "caption.txt").read_text(encoding="utf-8").strip(),
    )  # fmt: skip
    write_report(
        out / "report.html", title="Turntable: one image to 16 views to a mesh", items=[item], metrics=metrics,
        provenance=made.provenance, summary="Toybox scale, a held-out object: bundled weights, no GPU.",
    )  # fmt: skip
    for path in (out / "asset" / "mesh.glb", film):
        if path.is_file():  # without any video encoder the film is a folder of pictures
            (out / path.name).write_bytes(path.read_bytes())
    print(json.dumps(metrics, indent=1))
    print(f"\n{out / 'report.html'}: open it in a browser", file=sys.stderr)


if __name__ == "__main__":
    main()
