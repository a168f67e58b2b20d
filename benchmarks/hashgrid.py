"""The hash grid: one lookup over all levels and corners against the plain definition, as ratios of CPU seconds.

    python -m benchmarks.hashgrid                     # toybox and paper size
    python -m benchmarks.hashgrid --points 65536 --rounds 5 --device cuda

Both are the same function (the difference is printed, tests bound it up to second derivatives). `train` is forward and
backward to the table, as every optimisation step does; `look` is a forward alone, as occupancy and pruning do;
`normals` is the gradient to the points and, through it, the one to the table. At paper size, as in every run, zeroing
and adding up a gradient of 12.6 million numbers is part of it.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from core.fields.hashgrid import HashGrid

SIZES = {
    "toybox": {"num_levels": 8, "log2_size": 14, "base_resolution": 8, "growth": 1.5},
    "paper": {"num_levels": 16, "log2_size": 19, "base_resolution": 16, "growth": 1.447269237440378},
}


def look(grid: HashGrid, points: Tensor) -> Tensor:
    with torch.no_grad():
        return grid(points)


def train(grid: HashGrid, points: Tensor) -> Tensor:
    grid(points).square().sum().backward()
    return grid.params.grad


def normals(grid: HashGrid, points: Tensor) -> Tensor:
    points = points.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(grid(points).sum(), points, create_graph=True)
    gradient.square().sum().backward()
    return grid.params.grad


def seconds(work: Callable[[HashGrid, Tensor], Tensor], grid: HashGrid, points: Tensor) -> float:
    """CPU seconds of one call; on a GPU, which works beside the CPU, those of the clock."""
    clock = time.perf_counter if points.is_cuda else time.process_time
    grid.params.grad = None
    if points.is_cuda:
        torch.cuda.synchronize()
    start = clock()
    work(grid, points)
    if points.is_cuda:
        torch.cuda.synchronize()
    return clock() - start


def difference(work: Callable[[HashGrid, Tensor], Tensor], grids: list[HashGrid], points: Tensor) -> float:
    """Largest difference of the two results, relative to the largest number in them."""
    for grid in grids:
        grid.params.grad = None
    plain, fast = (work(grid, points) for grid in grids)
    return ((plain - fast).abs().max() / plain.abs().max()).item()


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=32768)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args(arguments)
    if given.points < 1 or given.rounds < 1:
        parser.error("--points and --rounds must be at least 1")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    points = torch.rand(given.points, 3, device=given.device)
    for size, options in SIZES.items():
        grids = [HashGrid(**options, backend=backend).to(given.device) for backend in ("plain", "torch")]
        torch.nn.init.normal_(grids[0].params)
        grids[1].load_state_dict(grids[0].state_dict())
        for work in (look, train, normals):
            off = difference(work, grids, points)
            turns = [[seconds(work, grid, points) for grid in grids] for _ in range(given.rounds)]
            plain, fast = (statistics.median(column) for column in zip(*turns, strict=True))
            ratio = statistics.median(a / b for a, b in turns)
            print(
                f"{size:6}  {work.__name__:7}  {given.points} points  plain {plain:.3f} s  fast {fast:.3f} s  "
                f"ratio {ratio:.2f}  difference {off:.0e}"
            )


if __name__ == "__main__":
    main(sys.argv[1:])
