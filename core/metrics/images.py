"""Scores of images against the truth: PSNR, SSIM in three readings, FLIP, and the overlap of masks.

Images are [*B, 3, H, W] in [0, 1], already laid over a background (`core.images.composite`; white in all our tables).
Every function gives one score per image, on the CPU, never a mean over a subset.
"""

from typing import Literal

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from core.errors import BadImage

# [*B, 3, H, W]. The sizes are checked by `check_pair`, whose message is for users; so the annotation leaves them open.
Images = Float[Tensor, "... _ _ _"]

PSNR_CAP = 100.0  # dB; identical images would score infinity and spoil every mean
SSIM_WINDOW = 11


def psnr(prediction: Images, target: Images) -> Float[Tensor, "..."]:
    """10 log10(1 / MSE) over all pixels, background included; `PSNR_CAP` at most (`identical` flags the cause)."""
    check_pair(prediction, target)
    return decibels((prediction.double() - target.double()).square().mean(dim=(-3, -2, -1))).cpu()


def decibels(squared_error: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The PSNR of a mean squared error of images in [0, 1], at most `PSNR_CAP`."""
    return (-10 * squared_error.log10()).clamp(max=PSNR_CAP)


def psnr_in_single_precision(prediction: Images, target: Images) -> Float[Tensor, "..."]:
    """PSNR as SyncDreamer's evaluation computes it; comparable with the paper's numbers only."""
    # Quirk: it sums float32 values one after the other, channel by channel, which is 0.0013 dB off at 256 x 256.
    check_pair(prediction, target)
    errors = np.square(_arrays(prediction) - _arrays(target))
    means = torch.tensor([error.reshape(-1, 3).mean(axis=0).mean() for error in errors], dtype=torch.float64)
    return (-10 * means.log10()).clamp(max=PSNR_CAP).view(prediction.shape[:-3])


def psnr_of_all(prediction: Images, target: Images) -> Float[Tensor, "1"]:
    """One PSNR of all images together, from their common mean squared error: Ouroboros3D's, over a sample's views."""
    check_pair(prediction, target)
    return decibels((prediction.double() - target.double()).square().mean()).cpu()[None]


def identical(prediction: Images, target: Images) -> Bool[Tensor, "..."]:
    """Which images equal the truth bit for bit: their PSNR is the cap, not a measurement."""
    check_pair(prediction, target)
    return (prediction == target).flatten(start_dim=-3).all(dim=-1).cpu()


def ssim(prediction: Images, target: Images) -> Float[Tensor, "..."]:
    """SSIM (Wang et al. 2004): 11 x 11 Gaussian window of sigma 1.5, and the range 1 that images in [0, 1] have."""
    return _ssim(prediction, target)


def ssim_data_range(prediction: Images, target: Images) -> Float[Tensor, "..."]:
    """SSIM as SyncDreamer's evaluation computes it; comparable with the paper's numbers only."""
    # Quirk: the range is that of the pair's values (the larger max - min), so faint images score lower. Where both
    # images are constant it would be 0 and the score undefined; there it is 1, as in `ssim`.
    return _ssim(prediction, target, of_data="pair")


def ssim_range_of_all(prediction: Images, target: Images) -> Float[Tensor, "..."]:
    """SSIM as torchmetrics computes it by default for a batch, which Ouroboros3D uses: the range is the batch's."""
    return _ssim(prediction, target, of_data="all")


def flip(prediction: Images, target: Images) -> Float[Tensor, "..."]:
    """Mean LDR-FLIP (Andersson et al. 2020), 0 (equal) to 1: the difference a person sees when flipping between two.

    It models contrast sensitivity, colour and edges at 67 pixels per degree of the visual field, and downloads nothing.
    """
    check_pair(prediction, target)
    scores = [_flip(*pair)[1] for pair in zip(_arrays(prediction), _arrays(target), strict=True)]
    return torch.tensor(scores, dtype=torch.float64).view(prediction.shape[:-3])


def flip_map(prediction: Float[Tensor, "3 h w"], target: Float[Tensor, "3 h w"]) -> Float[Tensor, "h w"]:
    """LDR-FLIP of every pixel of one pair of images."""
    check_pair(prediction, target)
    return torch.from_numpy(_flip(_arrays(prediction)[0], _arrays(target)[0])[0][..., 0]).double()


def _flip(test: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, float]:
    import flip_evaluator  # NVIDIA's own implementation, in C++

    return flip_evaluator.evaluate(reference, test, "LDR", inputsRGB=True, applyMagma=False)[:2]


def mask_iou(prediction: Tensor, target: Tensor) -> Float[Tensor, "..."]:
    """Intersection over union of masks [*B, H, W] (object where above 0.5); two empty masks agree: 1."""
    if prediction.shape != target.shape:
        raise BadImage(f"masks of different shapes: {tuple(prediction.shape)} and {tuple(target.shape)}")
    if not (torch.isfinite(prediction).all() and torch.isfinite(target).all()):
        raise BadImage("a mask contains NaN or infinity")
    a, b = prediction > 0.5, target > 0.5
    union = (a | b).sum(dim=(-2, -1))
    intersection = (a & b).sum(dim=(-2, -1))
    return torch.where(union > 0, intersection / union.clamp(min=1), 1.0).double().cpu()


def _ssim(prediction: Tensor, target: Tensor, *, of_data: Literal["pair", "all"] | None = None) -> Tensor:
    check_pair(prediction, target)
    if min(prediction.shape[-2:]) < SSIM_WINDOW:
        raise BadImage(f"SSIM's window of {SSIM_WINDOW} pixels does not fit images {tuple(prediction.shape)}")
    scores = []
    everything = _spread(prediction, target)
    for a, b in zip(_flat(prediction), _flat(target), strict=True):
        spread = {"pair": _spread(a, b), "all": everything, None: 1.0}[of_data]
        data_range = spread if spread > 0 else 1.0
        score = structural_similarity_index_measure(a[None], b[None], data_range=data_range)
        assert isinstance(score, Tensor)  # it is a tuple only when the full picture is asked for
        scores.append(score)
    return torch.stack(scores).double().view(prediction.shape[:-3])


def _spread(a: Tensor, b: Tensor) -> float:
    return max((images.max() - images.min()).item() for images in (a.float(), b.float()))


def _flat(images: Tensor) -> Tensor:
    return images.detach().cpu().float().reshape(-1, *images.shape[-3:])


def _arrays(images: Tensor):
    return rearrange(_flat(images), "b c h w -> b h w c").contiguous().numpy()


def check_pair(prediction: Tensor, target: Tensor) -> None:
    """BadImage unless both are finite RGB images in [0, 1] of one shape; what a measure of pairs asks first."""
    if prediction.shape != target.shape:
        raise BadImage(
            f"images of different shapes: predicted {tuple(prediction.shape)}, true {tuple(target.shape)}; "
            "metrics resize nothing, render both at one size"
        )
    if prediction.ndim < 3 or prediction.shape[-3] != 3 or 0 in prediction.shape:
        raise BadImage(
            f"expected RGB images [*, 3, H, W], got {tuple(prediction.shape)}; lay RGBA on a background first"
        )
    for name, images in (("predicted", prediction), ("true", target)):
        if not torch.isfinite(images).all():
            raise BadImage(f"the {name} images contain NaN or infinity")
        if images.min() < -1e-4 or images.max() > 1 + 1e-4:
            raise BadImage(f"the {name} images lie in [{images.min():.3g}, {images.max():.3g}]; expected [0, 1]")
