"""Held-out objects -> one view set each, from one to k posed images."""

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from core.batch import Record, run_batch
from core.cameras.rigs import BLENDER_FOCAL
from core.config import whole
from core.cpu import cpu_seconds
from core.data.free_views import FreeViews
from core.data.toybox import NUM_VIEWS, open_pack
from core.device import autocast, choose_device
from core.errors import BadCamera, BadData, BadViewSet
from core.files import sha256_file
from core.foreground import with_white_as_alpha
from core.images import check_image_size
from core.models.bundled import weights_file, without_start
from core.predicting import Predictions
from core.progress import console, progress_bar
from core.provenance import provenance
from core.training.randomness import generator
from core.views import TRANSFORMS, ViewSet, read_views
from projects.viewfusion.autoregression import Draws, ViewFusion
from projects.viewfusion.fusion import Blending, free_plan, separate_plan
from projects.viewfusion.pictures import model_input
from projects.viewfusion.pipeline import load_fusion, say
from projects.viewfusion.poses import from_poses, to_cameras
from projects.viewfusion.settings import Settings
from projects.viewfusion.weights import MISSING

LENS_TOLERANCE = 0.01
RING_ELEVATION, RADIUS = math.pi / 6, 1.5  # of SyncDreamer's targets, and of all toybox cameras
# What does not decide an object's views: how many there are, and where they are computed.
ASIDE = ("out", "num_objects", "device", "batch_view_num", "overwrite")


@dataclass(frozen=True)
class Task:
    """One object.

    Args:
        pixels: of the inputs, in [-1, 1].
        inputs: their poses, spherical.
        targets: poses of all views that are written.
        given: places of those targets that are the inputs themselves, which are passed on as they are.
    """

    name: str
    number: int
    pixels: Float[Tensor, "k 3 h w"]
    inputs: Float[Tensor, "k 3"]
    targets: Float[Tensor, "n 3"]
    given: list[int]


@torch.no_grad()
def predict(cfg: DictConfig) -> None:
    """The program behind `python -m projects.viewfusion.predict`: writes `out/<object>` for every object.

    Started again, objects that are there with the same settings, weights and data are kept. BadOutput where others
    are, unless `cfg.overwrite` is set: then they are replaced. It goes on past a bad object, and fails at the end.
    """
    given: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    config = without_start(given, say)
    settings, device = Settings.of({**config, **UNASKED}), choose_device(cfg.device)
    path = weights_file(cfg.weights, advice=MISSING)
    sha256, names, task_of = SOURCES[cfg.targets](cfg)
    num_objects = len(names) if cfg.num_objects is None else cfg.num_objects
    whole("num_objects", num_objects, most=len(names))
    fusion = load_fusion(config["model"], settings, path, device)
    record = provenance(config, weights=[path], seed=cfg.seed)
    deciding = {key: value for key, value in config.items() if key not in ASIDE} | {"data": sha256}
    predictions = Predictions.of(Path(cfg.out), record, deciding, overwrite=cfg.overwrite)
    missing = predictions.missing(names[:num_objects])
    with progress_bar() as bar, autocast(device, settings.precision):
        running = bar.add_task("sampling", total=len(missing))

        def work(number: int) -> Record:
            began = cpu_seconds()
            bar.advance(running)
            task = task_of(number)
            check_image_size(task.pixels.shape[-1], fusion.denoiser.image_size)
            rgb = views_of(fusion, settings, task)
            cameras = to_cameras(task.targets, fusion.denoiser.image_size)
            views = ViewSet(with_white_as_alpha(rgb), cameras, task.name)
            predictions.write(views, cpu_seconds() - began)
            return {"folder": str(Path(cfg.out) / task.name)}

        run_batch(missing, work, out=Path(cfg.out), name=names.__getitem__, report=say)
    kept = f"; {num_objects - len(missing)} were there" if len(missing) < num_objects else ""
    console.print(f"{cfg.out}: {len(missing)} objects made{kept}", markup=False)


# Settings of `generate` that say how a picture is found and framed, and which poses are asked for.
UNASKED: dict[str, Any] = {
    "num_views": None, "mask": "none", "crop_size": -1,
}  # fmt: skip


def views_of(fusion: ViewFusion, settings: Settings, task: Task) -> Float[Tensor, "n 3 h w"]:
    """All the task's views, in [0, 1]. Each object has its own noise, so the others do not change the result."""
    blending = Blending(settings.inference_temp, settings.auto_temp, settings.window_deg)
    asked = [place for place in range(len(task.targets)) if place not in task.given]
    if settings.way == "alone":
        steps, made = separate_plan(task.inputs, task.targets[asked], blending, step_deg=settings.way_step_deg)
    else:
        steps, made = free_plan(task.inputs, task.targets[asked], blending)
    steps = fusion.plan(steps, task.inputs)
    draws = Draws(generator(settings.seed, task.number, stream="evaluate"))
    device = fusion.device
    found = fusion.views(task.pixels.to(device), steps, draws).float().cpu()
    views = torch.empty(len(task.targets), *task.pixels.shape[1:])
    views[task.given] = task.pixels[: len(task.given)]
    views[asked] = found[made]
    return (views + 1) / 2


Source = tuple[str, list[str], Callable[[int], Task]]  # hash of the data, objects' names, and what makes their tasks


def ring(cfg: DictConfig) -> Source:
    """SyncDreamer's views of the toybox: `num_inputs` input views evenly around, the first at azimuth 0."""
    pack = open_pack(cfg.root, cfg.split)
    whole("num_inputs", cfg.num_inputs, most=NUM_VIEWS)
    azimuths = torch.arange(NUM_VIEWS, dtype=torch.float64) * (2 * math.pi / NUM_VIEWS)
    chosen = [place * NUM_VIEWS // cfg.num_inputs for place in range(cfg.num_inputs)]

    def task(number: int) -> Task:
        elevations = pack.elevations[number, chosen].double()
        return Task(
            pack.uids[number],
            number,
            pack.pixels(number, [NUM_VIEWS + view for view in chosen]),
            poses(azimuths[chosen], elevations),
            poses(azimuths, torch.full_like(azimuths, RING_ELEVATION)),
            given=[],
        )

    return pack.sha256, pack.uids, task


def free(cfg: DictConfig) -> Source:
    """Random views: the first `num_inputs` are given."""
    views = FreeViews(root=cfg.free_root, split=cfg.split)
    whole("num_inputs", cfg.num_inputs, most=views.num_views - 1)
    given = list(range(cfg.num_inputs))

    def task(number: int) -> Task:
        azimuth, elevation, radius = views.angles[number].double().unbind(-1)
        targets = poses(azimuth, elevation, radius)
        return Task(views.uids[number], number, views.pixels(number, given), targets[given], targets, given)

    return views.sha256, views.uids, task


def of_views(cfg: DictConfig) -> Source:
    """View sets such as `data_tools.import_official` makes; which views are given, `cfg.given` or `num_inputs` says."""
    root = Path(cfg.root)
    folders = sorted(path.parent for path in root.glob(f"*/{TRANSFORMS}"))
    if not folders:
        raise BadViewSet(f"root={cfg.root}: no folder there has a {TRANSFORMS}; import the data set first")
    size, chosen = cfg.model.denoiser.image_size, read_given(cfg.given) if cfg.given is not None else None
    if chosen is not None:
        folders = [folder for folder in folders if folder.name in chosen]
        if missing := sorted(chosen.keys() - {folder.name for folder in folders}):
            raise BadViewSet(f"given={cfg.given} names {missing[0]!r} and {len(missing) - 1} more that root= has not")

    def task(number: int) -> Task:
        views = read_views(folders[number])
        given = list(range(cfg.num_inputs)) if chosen is None else chosen[folders[number].name]
        where = f"view set {str(folders[number])!r}"
        if not all(view < len(views) for view in given) or len(given) == len(views):
            raise BadViewSet(f"{where} has {len(views)} views; {given} cannot be given, with others to ask for")
        lens = views.cameras.intrinsics[:, 0, 0] / views.cameras.width
        if (lens / BLENDER_FOCAL - 1).abs().max() > LENS_TOLERANCE:
            raise BadCamera(f"{where}: its lens is not that of Zero-1-to-3's training (35 mm on 32 mm)")
        targets = from_poses(views.cameras.poses, where=where)
        rgba = torch.stack([model_input(views.images[view], size, alpha=cfg.alpha) for view in given])
        return Task(folders[number].name, number, rgba[:, :3] * 2 - 1, targets[given], targets, given)

    digest = hashlib.sha256()
    for path in (path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()):
        digest.update(f"{path.relative_to(root)} {sha256_file(path)}\n".encode())
    return digest.hexdigest(), [folder.name for folder in folders], task


def read_given(path: str) -> dict[str, list[int]]:
    """Which views are given, by object: `{"shoe": 3, "mug": [0, 4, 8]}`, as in ViewFusion's lists of test objects."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        given = {name: [views] if isinstance(views, int) else list(views) for name, views in content.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise BadData(f"given={path}: no JSON of {{object: view}} or {{object: [views]}} ({error})") from error
    for name, views in given.items():
        if not views or not all(type(view) is int and view >= 0 for view in views) or len({*views}) < len(views):
            raise BadData(f"given={path}: {name!r} has {views}; list different views' numbers")
    return given


SOURCES: dict[str, Callable[[DictConfig], Source]] = {"ring": ring, "free": free, "views": of_views}


def poses(
    azimuth: Float[Tensor, "n"], elevation: Float[Tensor, "n"], radius: Float[Tensor, "n"] | float = RADIUS
) -> Float[Tensor, "n 3"]:
    """Spherical poses (`projects.viewfusion.poses`) of angles in radians, elevation above the horizon."""
    return torch.stack([math.pi / 2 - elevation, azimuth, torch.as_tensor(radius).expand_as(azimuth)], dim=-1)
