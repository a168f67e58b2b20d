"""Official data layouts: one file each, which reads and writes it.

A module of this folder whose name has no leading underscore is a layout, and holds `LAYOUT` (see `_shared.Layout`); a
new layout is one new file. Importing this package loads none of them, so that a program knows the names at once.
"""

import pkgutil
from importlib import import_module
from typing import TYPE_CHECKING

from core.config import one_of

if TYPE_CHECKING:
    from data_tools.layouts._shared import Layout

OURS = "views"  # the layout of this project: folders of view sets


def known() -> list[str]:
    """The layouts' names, as settings spell them."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def official() -> list[str]:
    """The layouts of others."""
    return [name for name in known() if name != OURS]


def load(name: str) -> "Layout":
    """The layout of that name; BadConfig lists those there are."""
    one_of("layout", name, known())
    return import_module(f"{__name__}.{name}").LAYOUT
