"""What the denoiser is told: the prompt and what to avoid, and, by choice, from where each view looks.

View-dependent prompts are DreamFusion's (Poole et al. 2022, section 3.2) in threestudio's words. MVDream has them off:
its cameras say it better.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from core.config import number, one_of
from core.errors import BadRequest

WORDS = ("side", "front", "back", "overhead")  # in this order; where several fit, the last is said
Words = Literal["after", "before"]
Encode = Callable[[Sequence[str]], Float[Tensor, "n l e"]]


@dataclass(frozen=True)
class Directions:
    """When a view is called from the front, the back or overhead; angles in degrees, azimuth 0 is the front.

    Args:
        words: `after` the prompt ("..., front view"), or `before` it ("front view of ...").
    """

    words: Words = "after"
    front: float = 45.0
    back: float = 45.0
    overhead: float = 60.0

    def __post_init__(self) -> None:
        one_of("directions.words", self.words, ("after", "before"))
        for name in ("front", "back"):
            number(f"directions.{name}", getattr(self, name), 0, 180)
        number("directions.overhead", self.overhead, -90, 90)

    def texts(self, prompt: str) -> list[str]:
        """The prompt as seen from each of `WORDS`."""
        if self.words == "after":
            return [f"{prompt}, {word} view" for word in WORDS]
        return [f"{'backside' if word == 'back' else word} view of {prompt}" for word in WORDS]

    def choose(self, azimuth_deg: Float[Tensor, "*b"], elevation_deg: Float[Tensor, "*b"]) -> Int[Tensor, "*b"]:
        """Which of `WORDS` a view is."""
        azimuth = (azimuth_deg + 180) % 360 - 180
        chosen = torch.zeros_like(azimuth, dtype=torch.long)
        chosen[azimuth.abs() < self.front] = WORDS.index("front")
        chosen[(azimuth > 180 - self.back) | (azimuth < -180 + self.back)] = WORDS.index("back")
        chosen[elevation_deg > self.overhead] = WORDS.index("overhead")
        return chosen


class Prompts(torch.nn.Module):
    """The features of all that is said in a run."""

    plain: Tensor  # buffers
    negative: Tensor
    directed: Tensor

    def __init__(self, encode: Encode, prompt: str, negative: str, *, directions: Directions | None = None) -> None:
        """
        Args:
            encode: texts to features.
            negative: what guidance leads away from; "" for the empty text.
            directions: view-dependent prompts; None says the prompt alone.
        """
        super().__init__()
        if not prompt.strip():
            raise BadRequest("prompt is empty; describe an object")
        self.directions = directions
        texts = [prompt, negative, *(directions.texts(prompt) if directions is not None else [])]
        features = encode(texts)
        # Not in checkpoints: they follow from the settings.
        self.register_buffer("plain", features[0], persistent=False)
        self.register_buffer("negative", features[1], persistent=False)
        self.register_buffer("directed", features[2:], persistent=False)

    def forward(
        self, azimuth_deg: Float[Tensor, "b v"], elevation_deg: Float[Tensor, "b v"]
    ) -> tuple[Float[Tensor, "b _ l e"], Float[Tensor, "b 1 l e"]]:
        """What is said of each view, one text for all of them or one each; and what is to be avoided."""
        scenes = len(azimuth_deg)
        negative = self.negative.expand(scenes, 1, -1, -1)
        if self.directions is None:
            return self.plain.expand(scenes, 1, -1, -1), negative
        chosen = self.directions.choose(azimuth_deg, elevation_deg)
        return self.directed[chosen.to(self.directed.device)], negative
