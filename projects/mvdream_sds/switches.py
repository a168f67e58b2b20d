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
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),  # as Stable Diffusion has it
    "lms": ("LMSDiscreteScheduler", {}),
    "dpm2": ("KDPM2DiscreteScheduler", {}),
    "dpm2_ancestral": ("KDPM2AncestralDiscreteScheduler", {}),
    "sa": ("SASolverScheduler", {}),
}
MOST_STEPS = 500  # of theirs: near 1000 some ask for a timestep beyond the last
