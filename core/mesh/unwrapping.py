"""A surface cut and laid flat by xatlas, in a process of its own: `python core/mesh/unwrapping.py MESH.npz FLAT.npz`.

On a large, rough surface xatlas works for minutes, in one call that hears no signal. A signal that ends our process
tidily ends this one first.
This file is run as it stands, so it imports nothing heavy and nothing of ours at its top.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np


def unwrap(
    vertices: np.ndarray, faces: np.ndarray, *, size: int, padding: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where each vertex of the cut surface comes from [n], its faces [f, 3] and places [n, 2] in [0, 1].

    Args:
        vertices, faces: of floats [v, 3] and of integers [f, 3].
        size: of the texture, pixels.
        padding: pixels between its islands.

    Raises BadMesh where xatlas fails, BadOutput where temporary files cannot be written.
    """
    from core.errors import BadMesh, BadOutput

    try:
        with tempfile.TemporaryDirectory(prefix="unwrap-") as folder:
            given, flat = Path(folder) / "mesh.npz", Path(folder) / "flat.npz"
            np.savez(given, vertices=vertices, faces=faces, size=size, padding=padding)
            command = [sys.executable, "-P", str(Path(__file__).resolve()), str(given), str(flat)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode or not flat.is_file():
                ended = f"ended by signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
                last = (done.stderr.strip().splitlines() or [ended])[-1]
                raise BadMesh(
                    f"xatlas cannot unwrap this surface of {len(faces)} faces ({last}); unless memory is full, make it "
                    "simpler or cleaner"
                )
            with np.load(flat) as arrays:
                return arrays["origin"], arrays["faces"], arrays["uv"]
    except OSError as error:
        raise BadOutput(
            f"cannot write to {tempfile.gettempdir()!r} ({error.strerror or error}); free space there, or set TMPDIR"
        ) from error


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
