"""How many sampling steps the official rule can give. Loads no torch: programs check the number before they do."""

from core.errors import BadRequest


def check_num_steps(num_steps: int, num_timesteps: int = 1000) -> None:
    """BadRequest for a count that 1, 1 + c, 1 + 2c, ... with c = T // num_steps cannot give.

    The official rule silently makes 31 steps of 30, and fails at 3: such counts are refused with the nearest two.
    """
    if not 1 <= num_steps <= num_timesteps or not _is_exact(num_steps, num_timesteps):
        counts = [n for n in range(1, num_timesteps) if _is_exact(n, num_timesteps)]
        nearest = sorted(sorted(counts, key=lambda n: abs(n - num_steps))[:2])
        raise BadRequest(
            f"{num_steps} sampling steps do not divide {num_timesteps} timesteps; use {nearest[0]} or {nearest[1]}"
        )


def _is_exact(num_steps: int, num_timesteps: int) -> bool:
    stride = num_timesteps // num_steps
    steps = range(0, num_timesteps, stride)
    return len(steps) == num_steps and steps[-1] + 1 < num_timesteps
