"""A scene learns from no data: its cameras and noise are drawn at every step. What stands for data is the prompt."""

from typing import Any

import torch


class Nothing:
    """One empty item, as the trainer reads items."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        return {}
