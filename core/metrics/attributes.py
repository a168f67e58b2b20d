"""How well attributes that were found agree with those that were named: recall, precision and their mean, F1.

Scores are of one object. Where there is nothing to find or nothing was found they are defined: recall is 1 where
nothing was named, precision is 1 where nothing was found, and F1 is 2 both / (named + found), 1 where both are none.
"""

from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor

Score = Literal["recall", "precision", "f1"]


def agreement(
    found: Bool[Tensor, "*batch attributes"], named: Bool[Tensor, "*batch attributes"], score: Score
) -> Float[Tensor, "*batch"]:
    """Of what was named the share that was found, of what was found the share that was named, or F1 of the two."""
    both, num_found, num_named = ((tensor.double().sum(dim=-1)) for tensor in (found & named, found, named))
    part, whole = {
        "recall": (both, num_named),
        "precision": (both, num_found),
        "f1": (2 * both, num_named + num_found),
    }[score]
    return (part / whole.clamp(min=1)).where(whole > 0, 1.0)


def jaccard(sets: Bool[Tensor, "views attributes"]) -> Float[Tensor, ""]:
    """How far views show the same attributes: common over all, the mean over pairs of views; two empty ones agree."""
    one, other = sets.unsqueeze(0), sets.unsqueeze(1)
    both, either = ((tensor.double().sum(dim=-1)) for tensor in (one & other, one | other))
    pairs = (both / either.clamp(min=1)).where(either > 0, 1.0)
    upper = pairs.triu(diagonal=1).sum()
    return upper * 2 / (len(sets) * (len(sets) - 1))
