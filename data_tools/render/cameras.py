"""From where an object is drawn: the settings about the rig, and the rig's cameras for each object."""

import inspect
from collections.abc import Mapping
from typing import Any

from core.cameras.rigs import RIGS
from core.config import check_targets, number, one_of, whole
from core.errors import BadConfig, BadMesh
from core.training.randomness import derive
from core.types import Cameras, Mesh

RIG_KEYS = ("num_views", "elevation_deg", "distance")


def draws_cameras(rig: str) -> bool:
    """Whether a rig draws its cameras at random, and so reads the seed."""
    return "seed" in inspect.signature(RIGS[rig]).parameters


def check_rig(cfg: Mapping[str, Any]) -> None:
    """Refuse, before any work, what no rig is, or this one does not read."""
    one_of("rig", cfg["rig"], sorted(RIGS))
    whole("seed", cfg["seed"], least=0)
    if cfg["num_views"] is not None:
        whole("num_views", cfg["num_views"])
    for key in ("elevation_deg", "distance"):
        values = cfg[key] if isinstance(cfg[key], list) else [cfg[key]] if cfg[key] is not None else []
        for value in values:
            number(key, value, *((-90, 90) if key == "elevation_deg" else (0, 100)), above=key == "distance")
        if len(values) == 2 and values[0] > values[1]:
            raise BadConfig(f"{key}={values}: a range goes upwards; give [{values[1]}, {values[0]}]")
    rig_cameras(cfg, "any")


def rig_cameras(cfg: Mapping[str, Any], name: str) -> Cameras:
    """The rig's cameras for the object called `name`; a rig that draws its cameras at random draws others for each."""
    function = RIGS[cfg["rig"]]
    given = {"size": cfg["size"]}
    given |= {key: cfg[key] for key in RIG_KEYS if cfg[key] is not None}
    if draws_cameras(cfg["rig"]):
        given["seed"] = derive(cfg["seed"], name)
    known = [key for key in inspect.signature(function).parameters if key in RIG_KEYS]
    for key in RIG_KEYS:
        if key in given and key not in known:
            other = f"it reads {', '.join(known)}" if known else "its cameras are fixed"
            raise BadConfig(f"{key}={cfg[key]}: rig={cfg['rig']} does not read it; {other}")
    check_targets({"_target_": f"{function.__module__}.{function.__qualname__}"} | given)
    for key in {"elevation_deg", "distance"} & given.keys():  # the signatures say float, and pairs of them
        given[key] = tuple(map(float, given[key])) if isinstance(given[key], list) else float(given[key])
    return function(**given)


def refuse_cameras_inside(cameras: Cameras, mesh: Mesh, file: str, *, scaled: bool) -> None:
    """BadMesh where a camera stands within the box around the object: it sees no outline.

    Args:
        file, scaled: the mesh's file, and whether it was normalised, for the message.
    """
    low, high = mesh.vertices.amin(0), mesh.vertices.amax(0)
    inside = ((cameras.centers > low) & (cameras.centers < high)).all(-1).nonzero()[:, 0].tolist()
    if inside:
        size = " x ".join(f"{side:.3g}" for side in (high - low).tolist())
        away = cameras.centers[inside[0]].norm().item()
        what_to_do = "give a larger distance=" if scaled else "normalise=unit_cube makes it small enough"
        raise BadMesh(
            f"the camera of view {inside[0]} stands inside {file!r}: {away:.3g} from the world's origin, in the box "
            f"around it ({size}); {what_to_do}"
        )
