"""How much memory a generation will take, told before any weights are read: the model is built and run without data."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from core.config import instantiate
from core.device import PRECISIONS, autocast
from core.memory import module_bytes, peak_bytes, process_bytes, without_data
from core.models.latents import Latents

GIB = 2**30
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Estimate:
    """Bytes of the process with its libraries, of the weights, and of the largest step's activations.

    Args:
        batch_view_num: the setting that bounds the activations.
    """

    process: int
    weights: int
    activations: int
    batch_view_num: int
    precision: str
    device: torch.device

    @property
    def total(self) -> int:
        return self.weights + self.activations + (self.process if self.device.type == "cpu" else 0)

    def __str__(self) -> str:
        beside = f", {self.process / GIB:.2f} Python and its libraries"
        if self.device.type != "cpu":
            beside = ", beside the device's own share and what else runs there"
        return (
            f"about {self.total / GIB:.2f} GiB on {self.device} ({self.weights / GIB:.2f} weights in 32 bits, "
            f"{self.activations / GIB:.2f} activations in {PRECISIONS[self.precision]}{beside})"
        )

    @property
    def hint(self) -> str:
        """What to do where that is too much."""
        step = f"batch_view_num={self.batch_view_num}"
        less = f"set a smaller one than {step}" if self.batch_view_num > 1 else f"{step} is the least"
        return f"this takes {self}; {less}, or compute on another device"


def estimate_model(
    model: Mapping[str, Any],
    steps: Callable[[Any, Latents, Any], Iterable[int]],
    *,
    batch_view_num: int,
    precision: str,
    device: torch.device,
) -> Estimate:
    """Of a model with the parts `denoiser`, `latents` and an `image_encoder` or `text_encoder`.

    Counted are the encoding of one image, where images are encoded, or of two texts, and what `steps` says.

    Args:
        steps: of the denoiser, the latents and the encoder, the bytes of each kind of step (`core.memory.peak_bytes`).
    """
    process = process_bytes()
    # Kernels of other packages run on CUDA only, and take no more than torch's.
    denoiser = _part({**model["denoiser"], "attention": "torch"})
    reads_images = "image_encoder" in model
    latents, encoder = _part(model["latents"]), _part(model["image_encoder" if reads_images else "text_encoder"])
    latents.max_batch = batch_view_num
    with without_data(), autocast(CPU, precision):
        side = denoiser.image_size
        if reads_images:
            activations = [
                peak_bytes(lambda: encoder(torch.empty(1, 3, side, side))),
                peak_bytes(lambda: latents.moments(torch.empty(1, 3, side, side))),
            ]
        else:
            activations = [peak_bytes(lambda: encoder.embed(torch.zeros(2, encoder.length, dtype=torch.long)))]
        activations += steps(denoiser, latents, encoder)
    weights = sum(module_bytes(part) for part in (denoiser, latents, encoder))
    return Estimate(process, weights, max(activations), batch_view_num, precision, device)


def _part(node: Mapping[str, Any]) -> Any:
    """A part of the model without data; the small ones that are bundled are read from their files after all."""
    if str(node["_target_"]).startswith("core.models.bundled."):
        return instantiate(node).eval().requires_grad_(False)
    with without_data():
        return instantiate(node).eval().requires_grad_(False)
