"""What `core.metrics.sfm` runs as a process of its own: COLMAP on a folder, one line of JSON as the answer.

COLMAP ends its process where it meets what it did not expect; here that costs one object.
Imports no torch, and the optional pycolmap only when it runs.

    python colmap_job.py FOLDER     FOLDER/images/*.png and FOLDER/job.json
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np


def main(folder: Path) -> dict[str, Any]:
    """Number of points, of registered views, and the mean reprojection error in pixels; `cause` where there is none."""
    import pycolmap

    log: Any = pycolmap.logging
    log.minloglevel = pycolmap.logging.ERROR
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    pycolmap.set_random_seed(job["seed"])
    database, images = folder / "database.db", folder / "images"
    extraction = pycolmap.FeatureExtractionOptions(num_threads=job["num_threads"], use_gpu=False)
    matching = pycolmap.FeatureMatchingOptions(num_threads=job["num_threads"], use_gpu=False)
    reader = pycolmap.ImageReaderOptions(camera_model="PINHOLE")
    pycolmap.extract_features(
        database,
        images,
        camera_mode=pycolmap.CameraMode.PER_IMAGE,
        reader_options=reader,
        extraction_options=extraction,
        device=pycolmap.Device.cpu,
    )
    known = set_intrinsics(database, job["views"])
    pycolmap.match_exhaustive(database, matching_options=matching, device=pycolmap.Device.cpu)
    with pycolmap.Database.open(database) as db:
        if db.num_keypoints() == 0:
            return none("no features were found in any view")
        if db.num_verified_image_pairs() == 0:
            return none("no two views have matches that fit one motion")
    (folder / "sparse").mkdir()
    options = pycolmap.IncrementalPipelineOptions(
        num_threads=job["num_threads"],
        random_seed=job["seed"],
        ba_refine_focal_length=False,
        ba_refine_principal_point=False,
        ba_refine_extra_params=False,
    )
    if job["poses"] == "known":
        found = pycolmap.triangulate_points(known, database, images, folder / "sparse", options=options)
    else:
        models = pycolmap.incremental_mapping(database, images, folder / "sparse", options=options)
        if not models:
            return none("no initial pair of views was found")
        found = max(models.values(), key=lambda model: (model.num_reg_images(), model.num_points3D()))
    if found.num_points3D() == 0:
        return none("no point was triangulated")
    return {
        "num_points": found.num_points3D(),
        "num_registered": found.num_reg_images(),
        "error_pixels": found.compute_mean_reprojection_error(),
        "cause": "",
    }


def set_intrinsics(database: Path, views: list[dict[str, Any]]) -> Any:
    """Give every image its own known camera; returns a model of these cameras at their poses, without points."""
    import pycolmap

    model = pycolmap.Reconstruction()
    with pycolmap.Database.open(database) as db:
        for view in views:
            image: Any = db.read_image_with_name(view["file"])
            camera = db.read_camera(image.camera_id)
            camera.params = view["intrinsics"]
            camera.has_prior_focal_length = True
            db.update_camera(camera)
            model.add_camera_with_trivial_rig(camera)
            pose = pycolmap.Rigid3d(np.array(view["world_to_camera"])[:3])
            placed = pycolmap.Image(name=image.name, camera_id=camera.camera_id, image_id=image.image_id)
            model.add_image_with_trivial_frame(placed, pose)
    return model


def none(cause: str) -> dict[str, Any]:
    """The answer of a reconstruction that failed."""
    return {"num_points": 0, "num_registered": 0, "error_pixels": None, "cause": cause}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
