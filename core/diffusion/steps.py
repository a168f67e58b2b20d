"""How many sampling steps a rule can give. Loads no torch: programs check the number before they do.

The rules have diffusers' names. `leading`, the LDM family's: 1, 1 + c, 1 + 2c, ... with c = T // num_steps; the first
step is not at T, which shows where there are few. `trailing`: T - 1, T - 1 - T / num_steps, ... (Lin et al. 2024,
arXiv 2305.08891, table 2), which begins where x_T is.
"""

from core.errors import BadRequest

SPACINGS = ("leading", "trailing")


def check_num_steps(num_steps: int, num_timesteps: int = 1000, spacing: str = "leading") -> None:
    """BadRequest for a count that the rule cannot give.

    The official code (`leading`) silently makes 31 steps of 30, and fails at 3: such counts are refused with the
    nearest two.
    """
    if spacing == "trailing":
        if not 1 <= num_steps <= num_timesteps:
            raise BadRequest(f"{num_steps} sampling steps of {num_timesteps} timesteps; use 1 to {num_timesteps}")
    elif not 1 <= num_steps <= num_timesteps or not _is_exact(num_steps, num_timesteps):
        counts = [n for n in range(1, num_timesteps) if _is_exact(n, num_timesteps)]
        nearest = sorted(sorted(counts, key=lambda n: abs(n - num_steps))[:2])
        raise BadRequest(
            f"{num_steps} sampling steps do not divide {num_timesteps} timesteps; use {nearest[0]} or {nearest[1]}"
        )


def ldm_num_steps(num_steps: int, num_timesteps: int = 1000, *, drop_last: bool = True) -> int:
    """How many steps the LDM family's code really makes of `num_steps`: timesteps 1, 1 + c, ... as they come below T.

    Args:
        drop_last: the noisiest is left out, as Zero-1-to-3's and ViewFusion's samplers do.

    Raises BadRequest where that code fails: a timestep beyond the last, or no step at all.
    """
    stride = num_timesteps // num_steps if 1 <= num_steps <= num_timesteps else 0
    timesteps = range(1, num_timesteps + 1, stride) if stride else range(0)
    if not timesteps or timesteps[-1] >= num_timesteps:
        raise BadRequest(
            f"{num_steps} sampling steps of {num_timesteps} timesteps lead beyond the last one; use another number, "
            "such as 75, 50 or 25"
        )
    made = len(timesteps) - drop_last
    if made < 1:
        raise BadRequest(f"{num_steps} sampling steps without the last one are none; use 2 or more, or drop_last=false")
    return made


def _is_exact(num_steps: int, num_timesteps: int) -> bool:
    stride = num_timesteps // num_steps
    steps = range(0, num_timesteps, stride)
    return len(steps) == num_steps and steps[-1] + 1 < num_timesteps
