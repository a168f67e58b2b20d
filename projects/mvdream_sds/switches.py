"""The words for how views are sampled. Loads no torch."""

from typing import Any

OFFICIAL = "ddim"
# Our word -> diffusers' class, and what it is given beside the model's betas.
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    OFFICIAL: ("", {}),  # the official loop, written out in `sampler`
    "ddpm": ("DDPMScheduler", {"clip_sample": False}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpmpp": ("DPMSolverMultistepScheduler", {}),
    "dpmpp_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "deis": ("DEISMultistepScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
}
MOST_STEPS = 500  # of theirs: near 1000 some ask for a timestep beyond the last
