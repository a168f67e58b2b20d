"""Pictures: reading any of them as RGBA, writing PNG, compositing, and the framing that SyncDreamer's input wants.

Images are [4, H, W] or [3, H, W] in [0, 1], sRGB as stored (profiles are ignored), alpha straight, not premultiplied.
`pixels` means the same in [-1, 1].
"""

# ruff: noqa: PTH110, PTH112  os.path answers False where a Path raises (names too long)
import io
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

from core.errors import BadConfig, BadData, BadImage
from core.files import atomic_file, sha256_file

MAX_PIXELS = 100_000_000  # as floats such an RGBA image takes 1.6 GB; a compressed bomb claims far more


@dataclass(frozen=True)
class ImageInfo:
    """What the file held before everything became RGBA."""

    has_alpha: bool
    width: int
    height: int
    mode: str
    format: str | None


def read_image(path: str | Path) -> Float[Tensor, "4 height width"]:
    """The picture in a file as RGBA; alpha is 1 where the file has none (ask `read_image_with_info` whether it has).

    EXIF rotation is applied. Of an animation the first frame is read. Palette, gray, CMYK and 1-bit pictures become
    RGB; 16-bit gray keeps its precision, 16-bit colour is read through its high byte (off by at most 1/255).
    Raises BadImage for a file that is missing, empty, broken, no picture, or larger than `MAX_PIXELS`.
    """
    return read_image_with_info(path)[0]


def read_image_with_info(path: str | Path) -> tuple[Float[Tensor, "4 height width"], ImageInfo]:
    """`read_image`, and what the file held: its mode, its size after rotation, and whether it has alpha."""
    image = _open(path)
    info = ImageInfo(bool(image.has_transparency_data), image.width, image.height, image.mode, image.format)
    values = _rgba(image, str(path))
    return rearrange(torch.from_numpy(np.ascontiguousarray(values)), "h w c -> c h w"), info


def decode_image(content: bytes, name: str) -> Float[Tensor, "4 height width"]:
    """`read_image` of a file's content; `name` says in messages where it came from."""
    values = _rgba(_decoded(io.BytesIO(content), repr(name)), name)
    return rearrange(torch.from_numpy(np.ascontiguousarray(values)), "h w c -> c h w")


def image_sha256(path: str | Path) -> str:
    """Of a picture's file, by which results know what they were made of; BadImage for one that cannot be read."""
    try:
        return sha256_file(path)
    except OSError as error:
        raise BadImage(f"image {str(path)!r} cannot be read: {error.strerror or error}; give another") from error


def write_image(path: str | Path, image: Float[Tensor, "channels height width"]) -> None:
    """Write [3 or 4, H, W] as an 8-bit PNG, whole or not at all; values are clipped to [0, 1] and rounded."""
    if image.ndim != 3 or image.shape[0] not in (3, 4) or 0 in image.shape:
        raise ValueError(f"expected an image [3 or 4, H, W], got {tuple(image.shape)} for {str(path)!r}")
    if not torch.isfinite(image).all():
        raise ValueError(f"the image for {str(path)!r} contains NaN or infinity")
    encoded = encode_png(image)
    with atomic_file(path) as temporary:
        temporary.write_bytes(encoded)


def encode_png(image: Float[Tensor, "channels height width"]) -> bytes:
    """PNG file content of a [3 or 4, H, W] image."""
    buffer = io.BytesIO()
    to_pil(image).save(buffer, format="PNG")
    return buffer.getvalue()


def to_pil(image: Float[Tensor, "channels height width"]) -> Image.Image:
    """[3 or 4, H, W] in [0, 1] -> 8-bit Pillow image, rounded."""
    values = (image.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(rearrange(values, "c h w -> h w c").cpu().contiguous().numpy())


def from_pil(image: Image.Image) -> Float[Tensor, "channels height width"]:
    """8-bit Pillow image -> [3 or 4, H, W] in [0, 1]."""
    values = torch.from_numpy(np.array(image, dtype=np.uint8))
    return rearrange(values, "h w c -> c h w").float() / 255


def composite(
    rgba: Float[Tensor, "*batch 4 height width"], background: float | Float[Tensor, "3"] = 1.0
) -> Float[Tensor, "*batch 3 height width"]:
    """Lay RGBA over a background of one gray value or one colour [3]; white by default."""
    rgb, alpha = rgba[..., :3, :, :], rgba[..., 3:, :, :]
    under = background[:, None, None] if isinstance(background, Tensor) else background
    # Quirk: SyncDreamer adds before it subtracts, and truncates afterwards; another order changes 8-bit values.
    return rgb * alpha + under - alpha * under


def training_image(rgba: Float[Tensor, "*batch 4 height width"]) -> Float[Tensor, "*batch 3 height width"]:
    """A rendering as SyncDreamer's training sees it: on white, and cut (not rounded) to 8 bits."""
    return truncated(composite(rgba))


def truncated(image: Float[Tensor, "*batch channels height width"]) -> Float[Tensor, "*batch channels height width"]:
    """Values in [0, 1] cut (not rounded) to 8 bits, as the official programs write their pictures."""
    return (image * 255).to(torch.uint8).float() / 255


def training_pixels(rgba: Float[Tensor, "4 height width"], size: int) -> Float[Tensor, "3 size size"]:
    """`training_image` in [-1, 1], resized to a square (Pillow's bicubic) where it has another size."""
    return resized_pixels(training_image(rgba), size)


def resized_pixels(image: Float[Tensor, "3 height width"], size: int) -> Float[Tensor, "3 size size"]:
    """An image in [0, 1] -> a square's pixels in [-1, 1], resized through 8 bits (Pillow's bicubic) where need be."""
    if image.shape[1:] != (size, size):
        image = from_pil(to_pil(image).resize((size, size), Image.Resampling.BICUBIC))
    return image * 2 - 1


def check_image_size(size: int, model_size: int) -> None:
    """BadData for images of another side than the model's: it would compute with them, and learn or say nonsense."""
    if size != model_size:
        raise BadData(
            f"the data has images of {size} x {size} pixels, the model of {model_size} x {model_size}; choose other "
            f"data, or make it with image_size={model_size}"
        )


def contact_sheet(
    images: Float[Tensor, "num_images 3 height width"], columns: int
) -> Float[Tensor, "3 sheet_height sheet_width"]:
    """Images in rows of `columns`, in reading order; the last row is filled up with white."""
    if columns < 1 or len(images) == 0:
        raise ValueError(f"expected at least one column and one image, got {columns} and {len(images)}")
    missing = -len(images) % columns
    images = torch.cat([images, images.new_ones(missing, *images.shape[1:])])
    return rearrange(images, "(rows columns) c h w -> c (rows h) (columns w)", columns=columns)


def prepare_input(
    rgba: Float[Tensor, "4 height width"], *, crop_size: int, size: int, background: float = 1.0
) -> Float[Tensor, "3 size size"]:
    """Frame a picture as SyncDreamer's `generate` does (`framed`), on a gray value; returns pixels in [-1, 1]."""
    return composite(framed(rgba, crop_size=crop_size, size=size), background) * 2 - 1


def framed(rgba: Float[Tensor, "4 height width"], *, crop_size: int, size: int) -> Float[Tensor, "4 size size"]:
    """A picture with its object where SyncDreamer's input wants it, on a transparent square.

    Args:
        crop_size: the longer side of the object's bounding box becomes this many pixels (200 of 256 is usual);
            -1 keeps the framing: the picture is padded to a square with transparency and resized.
        size: side of the result.

    Raises BadImage when no pixel has alpha above 0, or the object is too thin to be scaled.
    """
    if crop_size != -1 and not 1 <= crop_size <= size:
        raise BadConfig(f"crop_size={crop_size} must be -1 (keep the framing) or between 1 and the image size {size}")
    if not (rgba[3] > 0).any():
        raise BadImage("no foreground pixels: alpha is 0 everywhere; give a picture with a visible object")
    image = to_pil(rgba)
    return from_pil(_padded(image, size) if crop_size == -1 else _cropped(image, crop_size, size))


def _padded(image: Image.Image, size: int) -> Image.Image:
    side = max(image.size)
    square = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square.resize((size, size), Image.Resampling.BICUBIC)


def _cropped(image: Image.Image, crop_size: int, size: int) -> Image.Image:
    rows, columns = np.nonzero(np.asarray(image)[..., 3])
    # Quirk: the box ends at the last object pixel and excludes it, so the object loses its last row and column.
    left, top, right, bottom = (int(edge) for edge in (columns.min(), rows.min(), columns.max(), rows.max()))
    scale = crop_size / max(right - left, bottom - top, 1)
    width, height = int(scale * (right - left)), int(scale * (bottom - top))
    if width < 1 or height < 1:
        raise BadImage(
            f"the object is {right - left + 1} x {bottom - top + 1} pixels, too thin to scale to {crop_size}; "
            "give a larger picture, or crop_size=-1 to keep the framing"
        )
    item = image.crop((left, top, right, bottom)).resize((width, height), Image.Resampling.BICUBIC)
    canvas = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    canvas.paste(item, ((size - width) // 2, (size - height) // 2))
    return canvas


def _open(path: str | Path) -> Image.Image:
    """Decode a file with Pillow, upright; every way in which that can fail becomes BadImage."""
    name = repr(str(path))
    if os.path.isdir(path):
        raise BadImage(f"image {name} is a folder; give a file")
    if not os.path.exists(path):
        raise BadImage(f"image {name} does not exist; check the path")
    try:
        if Path(path).stat().st_size == 0:
            raise BadImage(f"image {name} is empty (0 bytes); copy it again")
    except OSError as error:
        raise BadImage(f"image {name} cannot be read ({error.strerror or error}); give another") from error
    return _decoded(path, name)


def _decoded(source: str | Path | io.BytesIO, name: str) -> Image.Image:
    """The upright picture in a file or in its content."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is ours and stricter
            with Image.open(source) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise BadImage(
                        f"image {name} has {image.width} x {image.height} pixels, more than the limit of "
                        f"{MAX_PIXELS:,}; make it smaller"
                    )
                image.load()
                upright = ImageOps.exif_transpose(image)
                upright.format = image.format
                return upright
    except BadImage:
        raise
    except Image.DecompressionBombError:
        raise BadImage(f"image {name} has more pixels than the limit of {MAX_PIXELS:,}; make it smaller") from None
    except Exception as error:  # Pillow's decoders raise almost anything on broken files
        kind = "cannot be read" if isinstance(error, PermissionError) else "is broken or no image"
        raise BadImage(
            f"image {name} {kind} ({type(error).__name__}: {_without(error, source)}); give another"
        ) from error


def _without(error: Exception, path: str | Path | io.BytesIO) -> str:
    """The error's text without the path, which the message names already."""
    text = str(error)
    for shown in (repr(str(path)), str(path)):
        text = text.replace(f"file {shown}", "file").replace(shown, "file")
    return text


def _rgba(image: Image.Image, name: str) -> np.ndarray:
    """float32 [H, W, 4] in [0, 1] of a decoded image of any mode."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _deep_gray(image, name)
    if image.mode not in ("RGB", "RGBA"):
        # Modes with alpha or a transparent colour go to RGBA directly; others (CMYK, YCbCr, L, P, 1) by way of RGB.
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    return np.asarray(image.convert("RGBA"), dtype=np.float32) / 255


def _deep_gray(image: Image.Image, name: str) -> np.ndarray:
    """Gray of 16 bits, of 32-bit integers that fit in 16, or of floats in [0, 1]."""
    values = np.asarray(image)
    top = 1.0 if image.mode == "F" else 65535.0
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > top:
        raise BadImage(f"image {name!r} (mode {image.mode}) has values outside 0..{top:g}; save it with 8 or 16 bits")
    gray = (values / top).astype(np.float32)
    transparent: int | None = image.info.get("transparency")
    alpha = np.ones_like(gray) if transparent is None else (values != transparent).astype(np.float32)
    return np.stack([gray, gray, gray, alpha], axis=-1)
