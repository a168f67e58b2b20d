"""The toybox judge: which attributes of a caption some views of an object show; what text-to-3D is measured by.

It is told which colours, shapes and parts each place of a view shows: an object's colours differ, so its pixels tell
their parts (`surfaces`). How parts are arranged it learns from captions, by four views at a time: an arrangement that
is named, the best place of the best view shall show; one that is not, none shall.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.data.conventions import NUM_VIEWS
from core.data.toybox import open_pack
from core.data.toybox_captions import KINDS, labels, places
from core.metrics.attributes import agreement
from core.models.attributes import AttributeNet, shown
from core.models.bundled import latents
from core.training.module import Batch, TrainingModule
from projects.toybox.surfaces import NOTHING, shares, surfaces

PLACED = ("color", "shape", "part")  # kinds that single pixels have, as `surfaces` tells them
ENOUGH = 5  # pixels of a place that show something
QUARTERS = 4  # views of an object, a quarter of a turn apart


class ToyboxQuarters:
    """Four views of each object a quarter of a turn apart, from a random start; each from either rendering.

    Args:
        root: a folder made by data_tools.toybox.
        split: train, val or test.
        max_dropped: the fraction of objects that may be left out as broken; BadData when more are.
    """

    def __init__(self, *, root: str, split: str, max_dropped: float = 0.0) -> None:
        self.pack = open_pack(root, split, max_dropped)
        self.labels = labels(self.pack.captions)

    def __len__(self) -> int:
        return len(self.pack.uids)

    def __getitem__(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        """`pixels` [4, 3, H, W] in [-1, 1], `labels` [attributes] and `surfaces` [4, 3, H, W]."""
        start = int(torch.randint(NUM_VIEWS, (), generator=generator))
        rendering = torch.randint(2, (QUARTERS,), generator=generator).tolist()  # target or input
        views = [(place + start) % NUM_VIEWS + NUM_VIEWS * of for place, of in zip(ring(), rendering, strict=True)]
        rgba = torch.from_numpy(self.pack.images[self.pack.places[index], views]).float() / 255
        return {
            "pixels": self.pack.pixels(index, views),
            "labels": self.labels[index],
            "surfaces": surfaces(rgba, self.pack.captions[index]),
        }


def ring() -> list[int]:
    """Places of the target views at azimuths 0, 90, 180 and 270 degrees."""
    return list(range(0, NUM_VIEWS, NUM_VIEWS // QUARTERS))


class AttributeSystem(TrainingModule):
    """Sees in 64 x 64 views of a toybox object which colours, shapes, coloured parts and arrangements it has.

    Args:
        net: the network to train.
        zoom: of the views' random scale, up to 1 +- zoom, and shift, in half image sides.
        blur: greatest share of a 5 x 5 mean in a view; generated views are soft.
        noise: greatest deviation of Gaussian noise added to pixels in [-1, 1].
        place_weight: of the loss of single places, beside the arrangements'.
        light: greatest change of brightness: pixels - 1 (white stays) are multiplied by 1 +- light.
    """

    publishes = "net"

    def __init__(
        self,
        *,
        net: AttributeNet,
        place_weight: float,
        zoom: float,
        blur: float,
        noise: float,
        light: float,
        **training: Any,
    ) -> None:
        super().__init__(**training)
        self.net, self.place_weight = net, place_weight
        self.zoom, self.blur, self.noise, self.light = zoom, blur, noise, light

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Minus the log-likelihood of the arrangements (nats per object), and that of what stands where (per place)."""
        num_views = batch["pixels"].shape[1]
        pixels = rearrange(batch["pixels"], "b v c h w -> (b v) c h w")
        surfaces = rearrange(batch["surfaces"], "b v k h w -> (b v) k h w")
        if self.training:
            pixels, surfaces = self.varied(pixels, surfaces, generator)
        at_places = self.net.at_places(pixels).float()
        best = rearrange(at_places, "(b v) a y x -> b (v y x) a", v=num_views).amax(dim=1)
        named, at = batch["labels"], places("arrangement")
        arranged = F.binary_cross_entropy_with_logits(best[:, at], named[:, at].to(best), reduction="sum") / len(best)
        where = self.place_loss(at_places, surfaces)
        with torch.no_grad():
            f1 = agreement(best > 0, named, "f1").mean()
        return {"loss": arranged + self.place_weight * where, "arranged": arranged, "where": where, "f1": f1}

    def place_loss(self, logits: Float[Tensor, "n a y x"], surfaces: Int[Tensor, "n k h w"]) -> Tensor:
        """Nats per place: minus the log-likelihood of the colours, shapes and parts that it has enough pixels of."""
        total = logits.new_zeros(())
        for number, kind in enumerate(PLACED):
            at = places(kind)
            there = shares(surfaces[:, number], len(at), logits.shape[-1]) >= ENOUGH
            total = (
                total
                + F.binary_cross_entropy_with_logits(logits[:, at], there.to(logits), reduction="sum")
                / logits[:, 0].numel()
            )
        return total

    def varied(
        self, pixels: Float[Tensor, "n 3 h w"], surfaces: Int[Tensor, "n k h w"], generator: torch.Generator
    ) -> tuple[Float[Tensor, "n 3 h w"], Int[Tensor, "n k h w"]]:
        """Views as a generator might make them: mirrored, moved, scaled, soft, noisy, lighter or darker."""

        def draw(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator, device=generator.device).to(pixels)

        count = len(pixels)
        scale = 1 + self.zoom * (2 * draw(count) - 1)
        mirrored = scale * torch.where(draw(count) < 0.5, -1.0, 1.0)
        shift, zero = self.zoom * (2 * draw(count, 2) - 1), torch.zeros_like(scale)
        rows = [torch.stack([mirrored, zero, shift[:, 0]], dim=-1), torch.stack([zero, scale, shift[:, 1]], dim=-1)]
        grid = F.affine_grid(torch.stack(rows, dim=1), list(pixels.shape), align_corners=False)
        ink = F.grid_sample(pixels - 1, grid, align_corners=False)  # 0 where white, so what comes in is white
        moved = F.grid_sample(surfaces.to(pixels) - NOTHING, grid, mode="nearest", align_corners=False)
        ink = ink * (1 + self.light * (2 * draw(count, 1, 1, 1) - 1))
        ink = torch.lerp(ink, F.avg_pool2d(ink, 5, 1, 2), self.blur * draw(count, 1, 1, 1))
        noise = torch.randn(ink.shape, generator=generator, device=generator.device).to(ink)
        noisy = (ink + 1 + self.noise * draw(count, 1, 1, 1) * noise).clamp(-1, 1)
        return noisy, moved.long() + NOTHING

    def export(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The network's weights under its own names."""
        return {name.removeprefix("net."): tensor for name, tensor in state.items()}

    @torch.no_grad()
    def publish(self, folder: Path, *, root: str) -> dict[str, Any]:
        """Save the network; measure it on true test views as they are, and after the toybox autoencoder."""
        self.eval()
        self.net.save_pretrained(folder)
        test = open_pack(root, "test")
        vae = latents("toybox_vae")
        found: dict[str, list[Tensor]] = {"test": [], "test_autoencoded": []}
        for number in range(len(test.uids)):
            pixels = test.pixels(number, ring())
            found["test"].append(self.net(pixels))
            found["test_autoencoded"].append(self.net(vae.decode(vae.mode(vae.moments(pixels))).clamp(-1, 1)))
        named = labels(test.captions)
        measured = {name: measure(torch.stack(logits), named) for name, logits in found.items()}
        return {f"{name}_{key}": value for name, scores in measured.items() for key, value in scores.items()}


def measure(logits: Float[Tensor, "n v attributes"], named: Bool[Tensor, "n attributes"]) -> dict[str, float]:
    """F1 per kind of attribute of single views, of their majority and of all views pooled; of these recall too."""
    views, pooled = logits > 0, shown(logits) > 0.5
    answers = {"view": views, "majority": views.double().mean(dim=1) > 0.5, "pooled": pooled}
    found = {f"pooled_{score}": float(agreement(pooled, named, score).mean()) for score in ("recall", "precision")}
    for how, answer in answers.items():
        truth = named[:, None].expand_as(answer) if answer.ndim == 3 else named
        for kind in KINDS:
            at = places(kind)
            found[f"{how}_{kind}_f1"] = float(agreement(answer[..., at], truth[..., at], "f1").mean())
    return found
