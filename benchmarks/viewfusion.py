"""ViewFusion's circle of views: the exact savings against the official loop, in evaluations, CPU and wall seconds.

    python -m benchmarks.viewfusion                          # toybox size, 36 views, 3 steps each
    python -m benchmarks.viewfusion --size paper --views 6   # published size (needs about 8 GiB and patience)

Plain: for every reference of a view its own unconditional evaluation and its own update in every step, cross-attention
with queries and keys, self-attention with its scores written out, and all references encoded anew for each view. Fast:
what `generate` runs. Both are the same function (the difference is printed, tests bound it); the weights are random.
Then the fast way without one of its savings: cross-attention with queries and keys, and one condition at a time.
"""

import argparse
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from benchmarks.parts import part
from core.attention.multiview import use_self_attention
from core.compose import composed
from core.config import instantiate
from core.program import Program
from core.settings import settings

HERE = "projects.viewfusion"
WAYS = ("plain", "fast", "without_constant_attention", "without_batches")


def build(size: str) -> Any:
    overlay = ["+experiment=viewfusion/toybox"] if size == "toybox" else []
    program = Program("viewfusion_generate", None, "")
    torch.manual_seed(0)
    system = instantiate(settings(program, composed(program, [*overlay, "input=x"])).model)
    return system.eval().requires_grad_(False)


def count(system: Any, counts: Counter) -> None:
    """From now on, counts the images that pass through each network."""

    def counted(run: Callable[..., Tensor], word: str) -> Callable[..., Tensor]:
        def wrapped(*given: Tensor) -> Tensor:
            counts[word] += len(given[0])
            return run(*given)

        return wrapped

    system.denoiser.predict = counted(system.denoiser.predict, "UNet")
    system.latents.moments = counted(system.latents.moments, "VAE")
    system.image_encoder.forward = counted(system.image_encoder.forward, "CLIP")


class Circle:
    """One circle of views from one random picture, made in either way with the same noise."""

    def __init__(self, system: Any, views: int, steps: int, noise: str) -> None:
        side = system.denoiser.image_size
        use_self_attention(system.denoiser.unet, "torch")  # as `generate` does
        self.system, self.noise = system, noise
        self.pixels = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1
        start = torch.tensor([[1.0, 0.0, 1.5]], dtype=torch.float64)
        self.plan = part(f"{HERE}.fusion.circle_plan")(start, views)
        self.networks = {name: getattr(system, name) for name in ("denoiser", "latents", "image_encoder")}
        self.fusion = self.sampler(steps, rows_per_batch=32)
        self.one_by_one = self.sampler(steps, rows_per_batch=1)

    def sampler(self, steps: int, rows_per_batch: int) -> Any:
        given = {"num_steps": steps, "spacing": "trailing", "drop_last": False, "rows_per_batch": rows_per_batch}
        return part(f"{HERE}.autoregression.ViewFusion")(**self.networks, noise=self.noise, **given)

    def draws(self) -> Any:
        return part(f"{HERE}.autoregression.Draws")(torch.Generator().manual_seed(2))

    def fast(self) -> Tensor:
        return self.fusion.views(self.pixels, self.plan, self.draws())

    def without_batches(self) -> Tensor:
        return self.one_by_one.views(self.pixels, self.plan, self.draws())

    def without_constant_attention(self) -> Tensor:
        with self.plain_cross_attention():
            return self.fast()

    def plain(self) -> Tensor:
        with self.plain_cross_attention():
            use_self_attention(self.system.denoiser.unet, "eager")  # scores written out, as officially
            options = {"schedule": self.fusion.schedule, "noise": self.noise}
            return part(f"{HERE}.reference.plain_views")(
                **self.networks, inputs=self.pixels, steps=self.plan, normal=self.draws().normal, **options
            )

    @contextmanager
    def plain_cross_attention(self) -> Iterator[None]:
        """Within it, cross-attention has queries and keys; afterwards all attention is as it was."""
        unet = self.system.denoiser.unet
        processors = unet.attn_processors
        part(f"{HERE}.reference.use_plain_cross_attention")(unet)
        try:
            yield
        finally:
            unet.set_attn_processor(processors)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["toybox", "paper"], default="toybox")
    parser.add_argument("--views", type=int, choices=range(2, 361), default=36, metavar="2..360")
    parser.add_argument("--steps", type=int, choices=range(1, 1001), default=3, metavar="1..1000")
    parser.add_argument("--noise", choices=["shared", "per_condition"], default="per_condition")
    parser.add_argument("--rounds", type=int, choices=range(1, 101), default=2, metavar="1..100")
    given = parser.parse_args(arguments)
    system, counts = build(given.size), Counter[str]()
    Circle(system, 3, 1, given.noise).fast()  # warms up
    circle = Circle(system, given.views, given.steps, given.noise)
    count(system, counts)
    seconds: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    found, counted = {}, {}
    for _ in range(given.rounds):
        for way in WAYS:
            counts.clear()
            began = time.process_time(), time.perf_counter()
            found[way] = getattr(circle, way)()
            seconds[way].append((time.process_time() - began[0], time.perf_counter() - began[1]))
            counted[way] = dict(counts)
    print(
        f"size={given.size} views={given.views} steps={given.steps} noise={given.noise} "
        f"threads={torch.get_num_threads()}, median of {given.rounds} in turns"
    )
    for word in ("UNet", "VAE", "CLIP"):
        plain, fast = counted["plain"][word], counted["fast"][word]
        print(f"{word} evaluations: plain {plain}, fast {fast}, ratio {plain / fast:.2f}")
    median = {way: [statistics.median(times[place] for times in seconds[way]) for place in (0, 1)] for way in WAYS}
    for place, word in enumerate(("CPU", "wall")):
        plain, fast = median["plain"][place], median["fast"][place]
        print(f"{word} seconds: plain {plain:.2f}, fast {fast:.2f}, ratio {plain / fast:.2f}")
    for way in WAYS[2:]:
        alone = median[way][0]
        print(f"CPU seconds {way.replace('_', ' ')}: {alone:.2f}, ratio to fast {alone / median['fast'][0]:.2f}")
    print(f"largest difference of a pixel in [-1, 1]: {(found['plain'] - found['fast']).abs().max():.1e}")


if __name__ == "__main__":
    main(sys.argv[1:])
