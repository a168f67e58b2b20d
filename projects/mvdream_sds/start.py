"""What a training starts from: a Stable Diffusion, in its original file or as a diffusers folder, or an MVDream."""

from pathlib import Path

from torch import Tensor, nn

from core.checkpoints.load import read_checkpoint
from core.checkpoints.ours import is_ours
from core.checkpoints.prediction import check_joint, check_prediction
from core.checkpoints.rename import load_strict
from core.errors import MissingWeights
from core.models.bundled import weights_file
from projects.mvdream_sds import checkpoint
from projects.mvdream_sds.checkpoint import CAMERA
from projects.mvdream_sds.weights import load_weights

# Parts of a diffusers folder and the names of their tensors here.
PARTS = {"unet": "denoiser.unet.", "vae": "latents.vae.", "text_encoder": "text_encoder.clip."}
# Their files without the endings, in safetensors and in torch's form: transformers names them so, diffusers its own as
# in `DIFFUSERS`.
FILES = {"text_encoder": ("model", "pytorch_model")}
DIFFUSERS = ("diffusion_pytorch_model", "diffusion_pytorch_model")
# What the layers of an autoencoder's attention were called when Stable Diffusion was published.
EARLIER = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def load_start(system: nn.Module, name: str) -> bool:
    """Weights for the whole system; what reads cameras keeps its initial values where they know none.

    Returns whether they know cameras.

    Args:
        name: a published MVDream; `v2-1_512-ema-pruned.ckpt` or another Stable Diffusion in its original names; a
            folder of diffusers with `unet/`, `vae/` and `text_encoder/`; a file or bundled model of ours
            (`core.checkpoints.ours`).

    Raises MissingWeights or BadCheckpoint.
    """
    if (Path(name) / "unet").is_dir():
        _load_diffusers(system, Path(name))
        return False
    path = weights_file(
        name,
        what="weights to start from",
        advice="put v2-1_512-ema-pruned.ckpt or sd-v2.1-base-4view.pt there, pass model.start=PATH (or a folder of "
        "diffusers), or start from scratch with model.start=null",
    )
    if is_ours(path):
        load_weights(system, path)
        return True
    knows_cameras = checkpoint.load_start(system, path)
    check_prediction(system.denoiser.prediction, "noise", path)
    if knows_cameras:
        check_joint(system.denoiser.joint, None, path)
    return knows_cameras


def _load_diffusers(system: nn.Module, folder: Path) -> None:
    check_prediction(system.denoiser.prediction, "noise", folder)
    state = {name: value for name, value in system.state_dict().items() if name.startswith((CAMERA, "denoiser.sched"))}
    for part, ours in PARTS.items():
        state |= {ours + key: value for key, value in _read_part(folder / part, *FILES.get(part, DIFFUSERS)).items()}
    load_strict(system, state, what=f"MVDream's start from {folder}")


def _read_part(folder: Path, safe: str, torchs: str) -> dict[str, Tensor]:
    """A network's tensors, in 32 or 16 bits, whichever is there."""
    names = [
        f"{stem}{bits}.{kind}" for stem, kind in ((safe, "safetensors"), (torchs, "bin")) for bits in ("", ".fp16")
    ]
    for path in map(folder.joinpath, names):
        if path.is_file():
            state = read_checkpoint(path)
            return {_present_name(key): value for key, value in state.items() if not key.endswith("position_ids")}
    raise MissingWeights(
        f"no {names[0]} or {names[2]} in {folder}; give a whole diffusers model (unet, vae, text_encoder)"
    )


def _present_name(key: str) -> str:
    """A tensor's name in the present libraries."""
    parts = key.removeprefix("text_model.").split(".")
    return ".".join(EARLIER.get(part, part) if "attentions" in parts else part for part in parts)
