"""Encoders of conditions: an image as one token, by CLIP's image tower (Radford et al. 2021)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import CLIPVisionModelWithProjection

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class ImageEncoder(nn.Module):
    """CLIP's image tower, from pixels in [-1, 1] of any size to one token each, not normalised.

    Args:
        max_batch: images that pass through the tower at once; a bound on memory without effect on the result.
    """

    def __init__(self, clip: CLIPVisionModelWithProjection, *, max_batch: int = 64) -> None:
        super().__init__()
        if max_batch < 1:
            raise ValueError(f"expected max_batch of at least 1, got {max_batch}")
        self.clip = clip
        self.max_batch = max_batch

    @property
    def dim(self) -> int:
        """Width of the token."""
        return self.clip.config.projection_dim

    def forward(self, pixels: Float[Tensor, "n 3 height width"]) -> Float[Tensor, "n 1 d"]:
        tokens = [self.clip(chunk).image_embeds for chunk in self.preprocess(pixels).split(self.max_batch)]
        return torch.cat(tokens)[:, None]

    def preprocess(self, pixels: Float[Tensor, "n 3 height width"]) -> Float[Tensor, "n 3 size size"]:
        """What the tower reads: resized to its size, then normalised by CLIP's mean and deviation of [0, 1] pixels."""
        size = self.clip.config.image_size
        # Quirk: Zero-1-to-3 resizes with aligned corners and no antialias; its published weights expect that.
        resized = F.interpolate(pixels, size, mode="bicubic", align_corners=True, antialias=False)
        mean, std = (pixels.new_tensor(value)[:, None, None] for value in (CLIP_MEAN, CLIP_STD))
        return ((resized + 1) / 2 - mean) / std
