"""SyncDreamer's denoiser: the fast paths against the plain ones, as ratios of CPU seconds measured in turns.

    python -m benchmarks.denoise                        # toybox size
    python -m benchmarks.denoise --size paper --views 2  # published size, 2 of 16 views (needs about 8 GiB)

Plain: key and value projections of every depth sample, cross-attention with queries and keys, zero volumes for the
unconditional half. Fast: what the model runs. Both are the same function (the difference is printed, tests bound it).
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from core.attention.depth import DepthTransformer
from core.compose import composed
from core.config import instantiate
from core.program import Program
from core.settings import settings


def build(size: str) -> nn.Module:
    overlay = ["+experiment=syncdreamer/toybox"] if size == "toybox" else []
    program = Program("syncdreamer_generate", None, "")
    torch.manual_seed(0)
    model = instantiate(settings(program, composed(program, [*overlay, "input=x"])).model.denoiser).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("proj_out.5.weight"):
            torch.nn.init.normal_(parameter, std=0.02)  # zero at first: the depth attention would show nothing
    return model


def make_plain(model: nn.Module) -> Callable[[], None]:
    """Switch to the plain definitions; returns the switch back."""
    blocks = [module for module in model.modules() if isinstance(module, DepthTransformer)]
    processors = model.unet.attn_processors
    for block in blocks:
        block.folded = False
    model.unet.set_attn_processor({**processors, **_plain_cross_attention(processors)})

    def back() -> None:
        for block in blocks:
            block.folded = True
        model.unet.set_attn_processor(processors)

    return back


def _plain_cross_attention(processors: dict) -> dict:
    from diffusers.models.attention_processor import AttnProcessor2_0

    return {name: AttnProcessor2_0() for name in processors if "attn2" in name}


@torch.no_grad()
def step(model: nn.Module, views: int, fast: bool) -> Callable[[], Tensor]:
    """One guided denoising step of `views` views."""
    config = model.unet.config
    random = torch.Generator().manual_seed(0)
    size = config.sample_size
    x = torch.randn(1, model.num_views, 4, size, size, generator=random)
    token = torch.randn(1, 1, config.cross_attention_dim, generator=random)
    latents = torch.randn(1, 4, size, size, generator=random).expand(views, -1, -1, -1)
    t, indices = torch.tensor([500]), torch.arange(views)[None]

    def run() -> Tensor:
        view, time_ = model.embed_views(torch.zeros(1)), model.embed_time(t)
        volume = model.volume.build(x, time_, view, model.cameras)
        frustums = model.volume.frustums(volume, time_, view, model.cameras, indices, size)
        context = model.project_context(token, view[:, :views])
        arguments = (x[0, :views], t.expand(views), context, latents)
        with_image = model.predict(*arguments, frustums)
        nothing = (*arguments[:2], torch.zeros_like(context), torch.zeros_like(arguments[3]))
        empty = model.predict(*nothing, None if fast else [torch.zeros_like(f) for f in frustums])
        return empty + 2 * (with_image - empty)

    return run


@torch.no_grad()
def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["toybox", "paper"], default="toybox")
    parser.add_argument("--views", type=int, choices=range(1, 17), default=16, metavar="1..16")
    parser.add_argument("--rounds", type=int, choices=range(1, 101), default=5, metavar="1..100")
    given = parser.parse_args(arguments)
    size, views, rounds = given.size, given.views, given.rounds
    model = build(size)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    results = {}
    for number in range(rounds + 1):
        for fast in (False, True):
            back = (lambda: None) if fast else make_plain(model)
            run = step(model, views, fast)
            began = time.process_time()
            results[fast] = run()
            if number:  # the first round warms up
                seconds[fast].append(time.process_time() - began)
            back()
    plain, fast = (statistics.median(seconds[key]) for key in (False, True))
    difference = (results[True] - results[False]).abs().max() / results[False].abs().max()
    print(
        f"size={size} views={views} threads={torch.get_num_threads()}: plain {plain:.3f} CPU-s, fast {fast:.3f} CPU-s"
    )
    print(f"ratio plain/fast {plain / fast:.2f} (median of {rounds}, in turns); relative difference {difference:.1e}")


if __name__ == "__main__":
    main(sys.argv[1:])
