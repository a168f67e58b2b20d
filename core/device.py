"""Where to compute, and in which precision."""

from contextlib import AbstractContextManager, nullcontext

import torch

from core.errors import BadConfig

PRECISIONS = {"32": torch.float32, "bf16": torch.bfloat16, "16": torch.float16}


def choose_device(name: str) -> torch.device:
    """`auto` takes a CUDA device if there is one; a device asked for by name and missing is a BadConfig."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        if device.type == "meta":
            raise RuntimeError("it holds no numbers")
    except (RuntimeError, AssertionError) as error:
        # torch answers a name that it does not know with a list of thirty that it does
        reason = "no such device" if "device string" in str(error) else str(error).splitlines()[0]
        raise BadConfig(f"device={name} is not usable here ({reason}); use device=auto or device=cpu") from error
    return device


def autocast(device: torch.device, precision: str | int) -> AbstractContextManager:
    """Compute in `precision` (32, bf16, 16); weights stay as they are."""
    precision = str(precision)
    if precision not in PRECISIONS:
        raise BadConfig(f"precision={precision} is not one of {', '.join(PRECISIONS)}")
    if precision == "32":
        return nullcontext()
    return torch.autocast(device.type, PRECISIONS[precision])
