"""Held-out losses and a picture to look at, with the same draws every time, so that steps can be compared."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor
from torch.utils.data import default_collate

from core.modes import evaluated
from core.training.ema import EMA
from core.training.loader import Items
from core.training.module import TrainingModule
from core.training.randomness import derive, generator


@contextmanager
def evaluating(module: TrainingModule, ema: EMA | None, seed: int, fabric: Fabric) -> Iterator[None]:
    """Within the block: averaged weights, evaluation mode, no gradients, the run's precision, a fixed global seed."""
    torch.manual_seed(derive(seed, "evaluate"))
    averaged = ema.swapped() if ema is not None else nullcontext()
    with evaluated(module), torch.no_grad(), fabric.autocast(), averaged:
        yield


def validate(
    module: TrainingModule, items: Items, batch_size: int, most: int | None, fabric: Fabric
) -> dict[str, float]:
    """Means of the loss's terms over the first `most` batches (None: all); each rank takes its share of them."""
    starts = list(range(0, len(items), batch_size))[:most]
    sums: dict[str, Tensor] = {}
    total = torch.zeros((), dtype=torch.float64)
    for number, start in list(enumerate(starts))[fabric.global_rank :: fabric.world_size]:
        batch = _batch(items, range(start, min(start + batch_size, len(items))), module.seed)
        draw = generator(module.seed, number, stream="validate", device=module.device)
        size = min(batch_size, len(items) - start)
        for name, value in module.loss(fabric.to_device(batch), draw).items():
            sums[name] = sums.get(name, torch.zeros((), dtype=torch.float64)) + value.detach().double().cpu() * size
        total = total + size
    return {f"val/{name}": value for name, value in _means(sums, total, fabric).items()}


def preview(module: TrainingModule, items: Items, count: int, fabric: Fabric) -> Tensor | None:
    """The module's picture of the first `count` items."""
    batch = _batch(items, range(min(count, len(items))), module.seed)
    draw = generator(module.seed, 0, stream="preview", device=module.device)
    picture = module.preview(fabric.to_device(batch), draw)
    return None if picture is None else picture.detach().float().cpu()


def _batch(items: Items, indices: range, seed: int) -> Any:
    return default_collate([items.__getitem__(i, generator(seed, i, stream="validate-item")) for i in indices])


def _means(sums: dict[str, Tensor], total: Tensor, fabric: Fabric) -> dict[str, float]:
    if fabric.world_size > 1:
        parts: list[Any] = [None] * fabric.world_size
        torch.distributed.all_gather_object(parts, ({name: value.item() for name, value in sums.items()}, total.item()))
        names = list(dict.fromkeys(name for part, _ in parts for name in part))
        count = sum(size for _, size in parts)
        return {name: sum(part.get(name, 0.0) for part, _ in parts) / max(count, 1) for name in names}
    return {name: value.item() / total.item() for name, value in sums.items()}
