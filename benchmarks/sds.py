"""What a step of score distillation costs, part by part; and a frame of a rendered orbit.

    python -m benchmarks.sds                        # toybox size, CPU seconds
    python -m benchmarks.sds --size paper           # published size; on a GPU also step/s beside the MindSpore port's

Networks have initial weights: cost does not depend on what they know. The scene is the blob that a run starts from,
so samples per ray are those of its first steps. Seconds are CPU seconds on a CPU, and wall seconds between
synchronisations on a GPU. FLOPs are counted by torch (2 for a multiply-add); the hash grid's look-ups count none.
"""

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.parts import part
from core.compose import composed
from core.config import plain
from core.program import Program
from core.training.randomness import generator
from core.training.run import build
from core.types import Rays

# MindSpore's port on an Ascend 910*, as published: steps per second of each stage, and frames per second at 256 pixels.
PORT_STEPS, PORT_FRAMES = (0.857, 0.465), 0.439
HERE = "projects.mvdream_sds.scene"
PARTS = ("cameras", "occupancy", "render", "encode", "denoise", "backward", "optimiser")


def make(size: str, precision: str) -> Any:
    """The module of a run, with a teacher of initial weights, and features of no text in particular."""
    program = Program("mvdream_sds", None, "")
    cfg = composed(program, [f"+experiment=mvdream_sds/{size}", "prompt=x", "out=x", "text_cache=null"])
    given: dict[str, Any] = {key: plain(cfg[key]) for key in program.keys if key in cfg}
    given["model"]["text_encoder"] = {"_target_": "benchmarks.sds.AnyText", "width": _width(given), "length": 77}
    given["guidance"]["precision"] = precision
    return build(part(f"{HERE}.run_settings.distillation")({**given, "weights": None}))


def _width(given: dict[str, Any]) -> int:
    return int(given["model"]["denoiser"]["unet"]["cross_attention_dim"])


class AnyText(torch.nn.Module):
    """In the text encoder's place: features of no meaning."""

    def __init__(self, *, width: int, length: int) -> None:
        super().__init__()
        self.width, self.length = width, length

    def forward(self, captions: list[str]) -> torch.Tensor:
        return torch.randn(len(captions), self.length, self.width, generator=torch.Generator().manual_seed(0))


class Clock:
    """Seconds of named parts, and their FLOPs where those are counted."""

    def __init__(self, device: torch.device, count: bool) -> None:
        self.device, self.count = device, count
        self.seconds: dict[str, float] = {}
        self.flops: dict[str, int] = {}

    def __call__(self, name: str, work: Callable[[], Any]) -> Any:
        counter: AbstractContextManager = FlopCounterMode(display=False) if self.count else nullcontext()
        began = self._now()
        with counter:
            result = work()
        self.seconds[name] = self._now() - began
        if isinstance(counter, FlopCounterMode):
            self.flops[name] = counter.get_total_flops()
        return result

    def _now(self) -> float:
        if self.device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize(self.device)
        return time.perf_counter()


def take_step(module: Any, optimizer: torch.optim.Optimizer, step: int, clock: Clock) -> dict[str, float]:
    """A step as `ScoreDistillation.loss` and the trainer take it, with its parts apart; what is worth knowing of it."""
    module.step, scene, guidance = step, module.scene, module.guidance
    draw = generator(0, step, device=module.device)
    optimizer.zero_grad(set_to_none=True)
    clock("occupancy", lambda: scene.update_step(step, generator(0, step, stream="occupancy")))
    views = clock("cameras", lambda: module.cameras.draw(step, part(f"{HERE}.draws.Seeded")(draw)))
    rays = Rays(views.rays.origins.to(module.device), views.rays.directions.to(module.device))
    rendered = clock(
        "render", lambda: scene(rays, views.light_positions, step=step, draws=part(f"{HERE}.draws.Seeded")(draw))
    )
    latents = clock("encode", lambda: guidance.encode(rendered.rgb, draw))
    angles = (a.reshape(-1, module.cameras.num_views) for a in (views.azimuth_deg, views.elevation_deg))
    t = torch.tensor(guidance.timesteps(step)[1], device=module.device)
    poses = views.cameras.poses
    found = clock("denoise", lambda: guidance.distill(latents, module.prompts(*angles), poses, t=t, noise=draw))
    loss = module.losses(found, rendered, step=step)["loss"]
    clock("backward", loss.backward)
    clock("optimiser", optimizer.step)
    return {"views": len(poses), "side": rendered.rgb.shape[1], "samples_per_ray": rendered.samples_per_ray}


def report(module: Any, stage: int, rounds: int) -> None:
    """Prints a stage's table."""
    device, optimizer = module.device, module.configure_optimizers()
    every = module.scene.renderer.occupancy.every
    begin = [0, *module.cameras.resolution_milestones][stage]
    first = -(-begin // every) * every  # a step that begins with a look at what is occupied, as the one `every` later
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    clocks, facts = [], {}
    for step in [first, first + every, *(first + number * every + 1 for number in range(1, rounds + 1))]:
        clock = Clock(device, count=step == first)
        facts = take_step(module, optimizer, step, clock)
        clocks.append(clock)
    counted, looked, *timed = clocks  # the first also warms up, the second is there for its look
    seconds = {name: statistics.median(clock.seconds[name] for clock in timed) for name in PARTS}
    seconds["occupancy"] = looked.seconds["occupancy"] / every  # once in so many steps
    counted.flops["occupancy"] //= every
    total, flops = sum(seconds.values()), sum(counted.flops.values())
    what = "CPU-s" if device.type == "cpu" else "s"
    print(
        f"{facts['side']} pixels, {facts['views']} views: {total:.4f} {what} a step, {flops / 1e9:.1f} GFLOP, ", end=""
    )
    print(f"{facts['samples_per_ray']:.1f} samples a ray, {_memory(device)}")
    for name in PARTS:
        share = counted.flops[name] / max(flops, 1)
        of_time = seconds[name] / total
        print(f"  {name:10} {seconds[name]:8.4f} {what:5} {of_time:6.1%} of the time {share:6.1%} of the FLOPs")
    if device.type == "cuda":
        port = PORT_STEPS[stage]
        print(f"  {1 / total:.2f} step/s; the MindSpore port's {port} step/s: {1 / total / port:.1f} times")


def report_frames(module: Any, side: int, count: int) -> None:
    """Prints what frames of an orbit cost."""
    cameras = part(f"{HERE}.cameras.OrbitCameras")(num_views=count, width=side, height=side).views().cameras
    clock = Clock(module.device, count=False)
    part(f"{HERE}.views.see")(module.scene, cameras[:1])
    clock("frames", lambda: part(f"{HERE}.views.see")(module.scene, cameras))
    seconds = clock.seconds["frames"] / count
    if module.device.type == "cuda":
        print(f"rendering at {side} pixels: {1 / seconds:.2f} frame/s; the MindSpore port's {PORT_FRAMES}")
    else:
        print(f"rendering at {side} pixels: {seconds:.3f} CPU-s a frame")


def _memory(device: torch.device) -> str:
    if device.type == "cuda":
        return f"peak {torch.cuda.max_memory_allocated(device) / 2**30:.2f} GiB on the GPU"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return f"peak {peak / 2**30:.2f} GiB of the process until now"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["toybox", "paper", "paper_shading"], default="toybox")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16", "fp16"], help="of the frozen networks")
    parser.add_argument("--rounds", type=int, choices=range(1, 101), default=5, metavar="1..100")
    parser.add_argument("--stages", type=int, nargs="+", default=[0, 1], help="0: low resolution, 1: high")
    given = parser.parse_args(arguments)
    device = torch.device(given.device)
    module = make(given.size, given.precision or ("fp32" if device.type == "cpu" else "bf16")).to(device)
    module.train()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"size={given.size} device={device} ({name}), frozen networks in {module.guidance.precision}")
    for stage in given.stages:
        report(module, stage, given.rounds)
    report_frames(module, 256, 2 if device.type == "cpu" else 8)


if __name__ == "__main__":
    main(sys.argv[1:])
