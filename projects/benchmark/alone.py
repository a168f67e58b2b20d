"""Measures of predicted views without the truth: what stands in a protocol's `alone`. The arithmetic is core's.

Every measure takes the pictures as the protocol laid them on its background; silhouettes are their masks.
"""

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from core.metrics.consistency import agreement
from core.metrics.halves import half_agreement
from core.metrics.matches import neighbours, reprojection_error, sift_matches
from core.metrics.sfm import check_pycolmap, colmap
from projects.benchmark.pictures import Pictures, needed_cameras


def neighbour_matches(views: Pictures) -> Float[Tensor, "pairs"]:
    """SIFT matches from each view to the next, as ViewFusion counts them."""
    return sift_matches(views.images).double()


class NeighbourReprojection:
    """Pixels between matched features and their triangulated points' images, per pair of neighbours with matches.

    How many pairs have any is kept as a note; an object without one fails.
    """

    def __init__(self) -> None:
        self.note = ""

    def __call__(self, views: Pictures) -> Float[Tensor, "pairs"]:
        self.note = ""
        errors = reprojection_error(views.images, needed_cameras(views))
        self.note = f"{len(errors)} of {len(neighbours(len(views)))} pairs of neighbours have matches"
        return errors


def halves(views: Pictures) -> float:
    """Overlap of the visual hulls of every other view and of the rest."""
    return half_agreement(views.masks, needed_cameras(views))


def coherence(views: Pictures) -> float:
    """Silhouettes times colours on the visual hull of all views (`core.metrics.consistency`)."""
    return agreement(views.images, views.masks, needed_cameras(views)).score


class ColmapPoints:
    """Points that COLMAP triangulates; a reconstruction that fails has 0, and its cause is kept as a note.

    Raises BadConfig, when it is built, without the optional package pycolmap.
    """

    def __init__(self, *, poses: Literal["known", "unknown"] = "known", seed: int = 0) -> None:
        check_pycolmap()
        self.poses, self.seed = poses, seed
        self.note = ""

    def __call__(self, views: Pictures) -> float:
        found = colmap(views.images, needed_cameras(views), poses=self.poses, seed=self.seed)
        self.note = (
            found.cause or f"{found.num_registered} of {len(views)} views, error {found.error_pixels:.2f} pixels"
        )
        return float(found.num_points)
