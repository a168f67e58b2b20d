"""Where to compute, and in which precision. Importing it loads no torch: programs check these words before they do."""

import re
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from core.errors import BadConfig

if TYPE_CHECKING:
    import torch

PRECISIONS = {"32": "float32", "bf16": "bfloat16", "16": "float16"}


def check_device(name: str) -> None:
    """Refuses what is no device's name, wherever the program will run."""
    if not re.fullmatch(r"auto|(cpu|cuda|mps|xpu)(:\d+)?", str(name)):
        raise BadConfig(f"device={name} is not usable here (no such device); use device=auto or device=cpu")


def choose_device(name: str) -> "torch.device":
    """`auto` takes a CUDA device if there is one; a device asked for by name and missing is a BadConfig."""
    import torch

    check_device(name)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise BadConfig(f"device={name} is not usable here ({reason}); use device=auto or device=cpu") from error
    return device


def autocast(device: "torch.device", precision: str | int) -> AbstractContextManager:
    """Compute in `precision` (32, bf16, 16); weights stay as they are."""
    import torch

    precision = str(precision)
    if precision not in PRECISIONS:
        raise BadConfig(f"precision={precision} is not one of {', '.join(PRECISIONS)}")
    if precision == "32":
        return nullcontext()
    return torch.autocast(device.type, getattr(torch, PRECISIONS[precision]))
