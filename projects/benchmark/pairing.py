"""Predicted views beside the true ones that they belong to: chosen, matched, aligned and cropped as a protocol says."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from core.errors import BadImage, BadViewSet
from projects.benchmark.blame import blamed_on
from projects.benchmark.pictures import Pictures, needed_cameras, read, refuse_blank
from projects.benchmark.protocol import Protocol

PREDICTED, TRUE = "predicted views", "true views"  # how a message about either begins


def pair(protocol: Protocol, name: str, pred: Path, gt: Path) -> tuple[Pictures, Pictures]:
    """An object's predicted and true views, ready to be compared; a UserError says what prevents it, and where."""
    given = protocol.input_of(name, gt)
    with blamed_on(TRUE):
        true = read(protocol.truth, protocol.truth.path(gt, "views", name), protocol, given)
    with blamed_on(PREDICTED):
        made = read(protocol.prediction, protocol.prediction.path(pred, "views", name), protocol, given)
    if protocol.match == "camera":
        with blamed_on(PREDICTED):
            made = made.chosen(at_azimuths(made, protocol.azimuths_deg or (), protocol.match_within_deg))
        with blamed_on(TRUE):
            needed_cameras(true)
        true = true.chosen(by_direction(made, true, protocol.match_within_deg))
    else:
        with blamed_on(TRUE):
            true = true.chosen(targets(protocol, true, given))
        with blamed_on(PREDICTED):
            made = made.chosen(matching(protocol, made, true, given))
    refuse_blank(made)
    if made.images.shape[2:] != true.images.shape[2:]:
        sizes = [f"{len(p)} views of {tuple(p.images.shape[2:])} pixels" for p in (made, true)]
        raise BadViewSet(f"{sizes[0]}, the truth has {sizes[1]}; nothing is resized or left out")
    if protocol.alignment == "zoom":
        made = zoomed(made, zoom_factor(made, true))
    if protocol.crop is not None:
        window = box_of(true, protocol.crop)
        made, true = (cropped(pictures, window, protocol) for pictures in (made, true))
    return made, true


def single(protocol: Protocol, name: str, pred: Path, gt: Path) -> Pictures:
    """An object's predicted views for measures that see no true ones beside them."""
    given = protocol.input_of(name, gt)
    with blamed_on(PREDICTED):
        made = read(protocol.prediction, protocol.prediction.path(pred, "views", name), protocol, given)
        if protocol.match == "camera":
            made = made.chosen(at_azimuths(made, protocol.azimuths_deg or (), protocol.match_within_deg))
        elif protocol.views is not None:
            made = made.chosen(targets(protocol, made, None))
    refuse_blank(made)
    return made


def whole_truth(protocol: Protocol, name: str, gt: Path) -> Pictures:
    """All true views of an object, scored or not."""
    with blamed_on(TRUE):
        return read(protocol.truth, protocol.truth.path(gt, "views", name), protocol, protocol.input_of(name, gt))


def targets(protocol: Protocol, true: Pictures, input_view: int | None) -> list[int]:
    """Places of the views that are scored."""
    wanted = list(true.numbers) if protocol.views is None else list(protocol.views)
    if not protocol.score_input:
        wanted = [view for view in wanted if view != input_view]
    lacking = [view for view in wanted if view not in true.numbers]
    if lacking or not wanted:
        raise BadViewSet(f"{true.name}: {len(true)} views, the protocol wants view {lacking[0] if lacking else 'any'}")
    return [list(true.numbers).index(view) for view in wanted]


def matching(protocol: Protocol, made: Pictures, true: Pictures, input_view: int | None) -> list[int]:
    """For each scored view, the place of the predicted one that belongs to it."""
    if protocol.match == "order":
        if len(made) != len(true):
            raise BadViewSet(f"{made.name}: {len(made)} views, the protocol scores {len(true)} in their order")
        return list(range(len(made)))
    places = {number: place for place, number in enumerate(made.numbers)}
    lacking = [number for number in true.numbers if number not in places]
    extra = set(made.numbers) - set(true.numbers) - {input_view} if protocol.views is None else set()
    if lacking or extra:
        fault = f"view {lacking[0]} is not there" if lacking else f"view {min(extra)} is none of the truth's"
        sizes = [f"{len(pictures)} views of {tuple(pictures.images.shape[2:])} pixels" for pictures in (made, true)]
        raise BadViewSet(f"{fault}: {sizes[0]}, the truth has {len(true)} to be scored; nothing is left out")
    return [places[number] for number in true.numbers]


def at_azimuths(made: Pictures, azimuths_deg: Sequence[float], within_deg: float) -> list[int]:
    """Places of the views that stand at these azimuths."""
    centers = needed_cameras(made).centers.double()
    found = torch.atan2(centers[:, 1], centers[:, 0]).rad2deg()
    apart = (found - torch.tensor(list(azimuths_deg), dtype=torch.float64)[:, None] + 180).remainder(360) - 180
    nearest, places = apart.abs().min(dim=1)
    if (nearest > within_deg).any():
        worst = int(nearest.argmax())
        raise BadViewSet(
            f"{made.name}: no view within {within_deg:g} degrees of azimuth {azimuths_deg[worst]:g}, which is scored"
        )
    return places.tolist()


def by_direction(made: Pictures, true: Pictures, within_deg: float) -> list[int]:
    """For each predicted view, the place of the true one whose camera stands there too, seen from the origin."""
    directions = [F.normalize(needed_cameras(pictures).centers.double(), dim=-1) for pictures in (made, true)]
    # Angles by the half chord: the arc cosine has no digits left near 0.
    chords = torch.cdist(directions[0], directions[1], compute_mode="donot_use_mm_for_euclid_dist")
    nearest, places = (2 * (chords / 2).clamp(max=1).asin()).rad2deg().min(dim=1)
    if (nearest > within_deg).any():
        worst = int(nearest.argmax())
        raise BadViewSet(
            f"the truth has no view within {within_deg:g} degrees of predicted view {made.numbers[worst]} (the nearest "
            f"is {nearest[worst]:.1f} degrees away); render it with the method's rig"
        )
    return places.tolist()


def extent(masks: Float[Tensor, "v h w"]) -> Float[Tensor, "v"]:
    """The longer side of each silhouette's bounding box, in pixels; 0 for an empty one."""
    shown = masks > 0.5
    sides = [shown.any(dim=axis).float() for axis in (1, 2)]
    spans = [side.cumsum(dim=1).clamp(max=1) * side.flip(1).cumsum(dim=1).clamp(max=1).flip(1) for side in sides]
    return torch.stack([span.sum(dim=1) for span in spans]).amax(dim=0)


def zoom_factor(made: Pictures, true: Pictures) -> float:
    """The median over views of how much larger the true silhouette is."""
    sizes = extent(made.masks), extent(true.masks)
    both = (sizes[0] > 0) & (sizes[1] > 0)
    if not both.any():
        raise BadImage("alignment=zoom: no object was found in any view; is the background the protocol's?")
    return float((sizes[1][both].double() / sizes[0][both].double()).median())


def zoomed(made: Pictures, factor: float) -> Pictures:
    """Enlarged about the middle; what comes in from outside repeats the border."""
    if factor == 1:
        return made
    planes = torch.cat([made.images, made.masks[:, None]], dim=1)
    matrix = planes.new_tensor([[1 / factor, 0, 0], [0, 1 / factor, 0]]).expand(len(planes), 2, 3)
    grid = F.affine_grid(matrix, list(planes.shape), align_corners=False)
    shown = F.grid_sample(planes, grid, padding_mode="border", align_corners=False)
    return replace(made, images=shown[:, :3].clamp(0, 1), masks=shown[:, 3].clamp(0, 1), cameras=None)


def box_of(true: Pictures, margin: float) -> tuple[int, int, int]:
    """Top, left and side of the window around all true silhouettes of an object."""
    largest = float(extent(true.masks).max())
    if largest == 0:
        raise BadImage(f"{true.name}: no object was found in the true views; there is nothing to crop to")
    side = max(1, round(largest * margin))
    shown = (true.masks > 0.5).any(dim=0).nonzero().double()
    middle = (shown.amin(dim=0) + shown.amax(dim=0) + 1) / 2
    top, left = (round(float(value) - side / 2) for value in middle)
    return top, left, side


def cropped(pictures: Pictures, window: tuple[int, int, int], protocol: Protocol) -> Pictures:
    """The window of every view; outside the picture is background."""
    top, left, side = window
    height, width = pictures.masks.shape[-2:]
    pad = (-left, left + side - width, -top, top + side - height)
    images = F.pad(pictures.images, pad, value=protocol.background)
    return replace(pictures, images=images, masks=F.pad(pictures.masks, pad), cameras=None)
