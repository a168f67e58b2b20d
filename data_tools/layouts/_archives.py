"""Archives (.zip, .tar, .tar.gz ...) as data folders: looked through before anything is unpacked, gone afterwards."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from core.errors import BadData, BadOutput, UserError
from data_tools.archives import BROKEN, archive_suffix, extract

RUBBISH = "__MACOSX"  # what a Mac adds to a zip


@contextmanager
def unpacked(source: Path, out: Path, holds: Callable[[Path], object]) -> Iterator[Path]:
    """`source` itself; or where it is an archive, the folder of its files: a temporary one in `out`.

    Args:
        holds: raises a UserError for a folder that is no data set. If that of an archive is none but has one folder,
            that folder is taken.

    Raises BadData, and unpacks nothing, if a member would land elsewhere (`../`, a link) or is neither file nor folder,
    or if all together are larger than what is free in `out`.
    """
    kind = archive_suffix(source) if source.is_file() else None
    if kind is None:
        yield source
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
        place = tempfile.TemporaryDirectory(prefix=".tmp-", dir=out)
    except OSError as error:
        raise BadOutput(f"cannot write {str(out)!r}: {error.strerror or error}; choose another out=") from error
    with place as temporary:
        folder = Path(temporary) / source.name.removesuffix(kind)  # objects may be named after it
        folder.mkdir()
        try:
            free = shutil.disk_usage(out).free
            over = f"and {free / 1e9:.1f} GB are free; unpack it yourself where there is room, and give that folder"
            extract(source, folder, free, over)
        except BROKEN as error:
            if isinstance(error, OSError) and error.errno and error.filename != str(source):  # gzip's have no number
                raise BadOutput(f"cannot unpack {str(source)!r}: {error.strerror}; choose another out=") from error
            raise BadData(f"{str(source)!r} is broken or no archive ({type(error).__name__}: {error})") from error
        yield _top(folder, holds)


def _top(folder: Path, holds: Callable[[Path], object]) -> Path:
    try:
        holds(folder)
    except UserError:
        inner = [path for path in folder.iterdir() if path.name != RUBBISH and not path.name.startswith(".")]
        if len(inner) == 1 and inner[0].is_dir():
            return inner[0]
    return folder
