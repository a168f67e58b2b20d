"""A surface cut and laid flat by xatlas, in a process of its own: `python core/mesh/unwrapping.py MESH.npz FLAT.npz`.

On a large, rough surface xatlas works for minutes, in one call that hears no signal. Its process is ended with ours.
This file is run as it stands, so it imports nothing heavy and nothing of ours at its top.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np


def unwrap(vertices: Any, faces: Any, *, size: int, padding: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where each vertex of the cut surface comes from [n], its faces [f, 3] and places [n, 2] in [0, 1].

    Args:
        vertices, faces: arrays [v, 3] and [f, 3].
        size: of the texture, pixels.
        padding: pixels between its islands.

    Raises BadMesh where xatlas fails.
    """
    from core.errors import BadMesh

    with tempfile.TemporaryDirectory(prefix="unwrap-") as folder:
        given, flat = Path(folder) / "mesh.npz", Path(folder) / "flat.npz"
        np.savez(given, vertices=vertices, faces=faces, size=size, padding=padding)
        command = [sys.executable, str(Path(__file__).resolve()), str(given), str(flat)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not flat.is_file():
            last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise BadMesh(
                f"xatlas cannot unwrap this surface of {len(faces)} faces ({last}); make it simpler or cleaner"
            )
        with np.load(flat) as arrays:
            return arrays["origin"], arrays["faces"], arrays["uv"]


def main(given: str, flat: str) -> None:
    import xatlas  # a compiled package that only this needs

    with np.load(given) as mesh:
        atlas, options = xatlas.Atlas(), xatlas.PackOptions()
        atlas.add_mesh(mesh["vertices"], mesh["faces"])
        options.resolution, options.padding = int(mesh["size"]), int(mesh["padding"])
    atlas.generate(pack_options=options)
    origin, faces, uv = atlas[0]
    np.savez(flat, origin=origin.astype(np.int64), faces=faces.astype(np.int64), uv=uv.astype(np.float32))


if __name__ == "__main__":
    main(*sys.argv[1:])
