"""Which pixels of a plain RGB picture belong to the object.

A picture without alpha is never taken as all object in silence: the caller names a way, and gets back, beside the mask,
the words that say which way it was.
"""

import os
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from core.errors import BadCheckpoint, BadImage, BadRequest
from core.files import sha256_file
from core.images import composite, read_image, read_image_with_info
from core.masks import MODES, NETWORKS, check_mask_here, network_lacks

WHITE = 0.97  # a background pixel's darkest channel; above SyncDreamer's decoder noise on white, below object colours
GRABCUT_SIDE = 320  # GrabCut runs on a copy of at most this side: its time grows with the pixels, its borders hardly


def foreground_mask(
    rgb: Float[Tensor, "3 height width"], mode: str = "auto"
) -> tuple[Float[Tensor, "height width"], str]:
    """The object's mask in [0, 1], and a sentence on how it was found.

    Args:
        mode: `auto` (`birefnet`, else `rembg`, when the package rembg and that network's weights are installed; else
            `flood` where the picture has an even border, else `grabcut`), `white` (what is not connected to a white
            border), `none` (everything is object), one of the methods by name, or the path of a mask image (its alpha,
            or else its brightness).

    Raises BadImage when nothing remains.
    """
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "white": white_mask,
        "none": _everything,
        "flood": flood_mask,
        "grabcut": grabcut_mask,
    }
    ways |= {word: partial(_by_network, word) for word in NETWORKS}
    if mode == "auto":
        mask, label = _automatic(rgb)
    elif mode in ways:
        mask, label = ways[mode](rgb), f"mask={mode}"
    else:
        mask, label = _from_file(rgb, mode), f"mask from {Path(mode).name!r}"
    if not (mask > 0).any():
        raise BadImage(f"no foreground pixels ({label}); choose another mask ({', '.join(MODES)}, or a mask's path)")
    return mask, label


def read_object(path: Path, mask: str) -> tuple[Float[Tensor, "4 h w"], str]:
    """A picture whose alpha marks the object, and how the mask was found.

    Alpha that is the same everywhere marks nothing: most programs write a full one into every PNG.
    """
    rgba, info = read_image_with_info(path)
    if mask in ("alpha", "auto") and rgba[3].min() < rgba[3].max():
        return rgba, "the picture's alpha" if mask == "alpha" else "mask=auto: the picture's alpha"
    if mask == "alpha" and rgba[3].max() == 0:
        raise BadImage(f"{path}: no foreground pixels: alpha is 0 everywhere; give a picture with a visible object")
    if mask == "alpha":
        lack = "has the same alpha everywhere, which marks no object" if info.has_alpha else "has no alpha channel"
        raise BadImage(
            f"{path} {lack}; pass mask=auto to find the object, mask=white for a white background, or mask=none to use "
            "the whole picture"
        )
    alpha, how = foreground_mask(composite(rgba), mask)
    return torch.cat([rgba[:3], alpha[None]]), how


def with_white_as_alpha(rgb: Float[Tensor, "v 3 h w"]) -> Float[Tensor, "v 4 h w"]:
    """Of views painted on white: white joined to the border becomes transparent. An all-white view stays empty."""
    return with_alpha(rgb, "white")[0]


def with_alpha(rgb: Float[Tensor, "v 3 h w"], mode: str) -> tuple[Float[Tensor, "v 4 h w"], list[str]]:
    """Views with the masks that `foreground_mask` finds, and its words for each; a view without one is empty."""
    masks, labels = [], []
    for image in rgb:
        try:
            mask, label = foreground_mask(image, mode)
        except BadImage:
            mask, label = torch.zeros_like(image[0]), f"mask={mode}: nothing found"
        masks.append(mask)
        labels.append(label)
    return torch.cat([rgb, torch.stack(masks)[:, None]], dim=1), labels


def mask_sha256(mask: str) -> str | None:
    """Of a mask image, by which results know their mask; None for a way of finding one.

    BadRequest for a file that is no image: it is told before a picture is blamed for it.
    """
    if mask in ("alpha", *MODES):
        return None
    try:
        read_image(mask)
    except BadImage as error:
        raise BadRequest(f"mask: {error}") from error
    return sha256_file(mask)


def white_mask(rgb: Float[Tensor, "3 height width"]) -> Float[Tensor, "height width"]:
    """Everything but the white that touches the border; white inside the object stays object."""
    return _not_connected_to_border(rgb.amin(dim=0) >= WHITE)


def flood_mask(rgb: Float[Tensor, "3 height width"]) -> Float[Tensor, "height width"]:
    """Everything but what touches the border and has the border's median colour, within its spread, in CIE Lab."""
    distance, tolerance = _distance_from_border_colour(rgb)
    return _not_connected_to_border(distance <= tolerance)


def grabcut_mask(rgb: Float[Tensor, "3 height width"]) -> Float[Tensor, "height width"]:
    """GrabCut (Rother et al. 2004) from a rectangle 4 % inside the border; for backgrounds that are not even."""
    full = np.ascontiguousarray(rearrange((rgb * 255).round().byte(), "c h w -> h w c").cpu().numpy())
    height, width = full.shape[:2]
    ratio = min(1.0, GRABCUT_SIDE / max(height, width))
    small = cv2.resize(full, None, fx=ratio, fy=ratio, interpolation=cv2.INTER_AREA) if ratio < 1 else full
    rows, columns = small.shape[:2]
    edge = (max(1, round(0.04 * columns)), max(1, round(0.04 * rows)))
    box = (*edge, columns - 2 * edge[0], rows - 2 * edge[1])
    if box[2] < 2 or box[3] < 2:
        return rgb.new_zeros(height, width)
    labels, background, foreground = np.zeros((rows, columns), np.uint8), np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)  # GrabCut's clustering draws from OpenCV's own global state; the mask must be repeatable
    cv2.grabCut(small, labels, box, background, foreground, 5, cv2.GC_INIT_WITH_RECT)
    mask = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.float32)
    enlarged = cv2.resize(mask, (width, height), interpolation=cv2.INTER_LINEAR)
    return torch.from_numpy((enlarged > 0.5).astype(np.float32)).to(rgb)


def _automatic(rgb: Tensor) -> tuple[Tensor, str]:
    for word, network in NETWORKS.items():
        if network_lacks(word) is None:
            return _by_network(word, rgb), f"mask=auto: {network} by rembg"
    missing = "rembg or its weights are not installed"
    _, tolerance = _distance_from_border_colour(rgb)
    mask = flood_mask(rgb)
    if tolerance <= 25 and 0.005 <= float(mask.mean()) <= 0.97:
        return mask, f"mask=auto: flood from an even border ({missing})"
    label = f"mask=auto: GrabCut, a rough guess on an uneven background ({missing}); give alpha or mask="
    return grabcut_mask(rgb), label


def _by_network(word: str, rgb: Tensor) -> Tensor:
    """The soft mask of a segmentation network that the package rembg runs."""
    check_mask_here(word)
    from rembg import remove  # optional, heavy (onnxruntime)

    image = np.ascontiguousarray(rearrange((rgb * 255).round().byte(), "c h w -> h w c").cpu().numpy())
    mask = remove(image, session=_session(word), only_mask=True)
    return torch.from_numpy(np.array(mask, dtype=np.float32) / 255).to(rgb)


@cache
def _session(word: str) -> Any:
    """A network in memory: hundreds of megabytes, so once for all pictures."""
    from rembg import new_session

    try:
        return new_session(NETWORKS[word])
    except Exception as error:  # onnxruntime's own, about a broken file
        reason = f"{type(error).__name__}: {error}"
        raise BadCheckpoint(f"the weights of mask={word} cannot be loaded ({reason}); copy them again") from error


def _everything(rgb: Tensor) -> Tensor:
    return torch.ones_like(rgb[0])


def _from_file(rgb: Tensor, path: str) -> Tensor:
    if not os.path.exists(path):  # noqa: PTH110 (a Path raises where the text is too long for a name)
        raise BadImage(f"mask {path!r} is neither a mode ({', '.join(MODES)}) nor a file; check the spelling")
    rgba, info = read_image_with_info(path)
    if rgba.shape[1:] != rgb.shape[1:]:
        raise BadImage(
            f"mask {path!r} is {info.width} x {info.height}, its image {rgb.shape[2]} x {rgb.shape[1]}; make them equal"
        )
    return (rgba[3] if info.has_alpha else rgba[:3].mean(dim=0)).to(rgb)


def _distance_from_border_colour(rgb: Tensor) -> tuple[Tensor, float]:
    """Lab distance [H, W] of each pixel from the border's median colour, and the distance that still counts as it."""
    lab = cv2.cvtColor(np.ascontiguousarray(rearrange(rgb, "c h w -> h w c").cpu().float().numpy()), cv2.COLOR_RGB2Lab)
    border = np.concatenate([lab[0], lab[-1], lab[:, 0], lab[:, -1]])
    distance = np.linalg.norm(lab - np.median(border, axis=0), axis=-1)
    spread = np.median(np.linalg.norm(border - np.median(border, axis=0), axis=-1))
    return torch.from_numpy(distance).to(rgb.device), max(8.0, 4.0 * float(spread))


def _not_connected_to_border(background: Tensor) -> Tensor:
    """1 where a pixel is not background, or is background that no path of background pixels joins to the border."""
    candidates = background.cpu().numpy().astype(np.uint8)
    _, labels = cv2.connectedComponents(candidates, connectivity=4)
    border = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    outside = np.isin(labels, border[border > 0])
    return torch.from_numpy((~outside).astype(np.float32)).to(background.device)
