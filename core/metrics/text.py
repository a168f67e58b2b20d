"""How well images fit their captions, from CLIP's features: CLIP score (Hessel et al. 2021) and CLIP-R.

As in Bootstrap3D's evaluation the score is the plain cosine (about 0.25 for a good pair, neither multiplied by 100 nor
clipped). Retrieval is a fraction here, where its script prints percent.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from core.errors import BadConfig, BadImage


def cosines(images: Float[Tensor, "n d"], texts: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """Of every image with every text; BadImage for features that are not finite or zero."""
    for name, features in (("images", images), ("texts", texts)):
        if not features.isfinite().all() or (features.norm(dim=-1) == 0).any():
            raise BadImage(f"CLIP's features of the {name} are zero, or not finite")
    return F.normalize(images.double(), dim=-1) @ F.normalize(texts.double(), dim=-1).T


def clip_score(similarity: Float[Tensor, "n m"], own: int) -> Float[Tensor, "n"]:
    """Each image's cosine with the text number `own`."""
    return similarity[:, own]


def retrieved(similarity: Float[Tensor, "n m"], own: int, *, top: int = 1) -> Float[Tensor, "n"]:
    """1 for each image whose own text is among the `top` nearest of all, else 0; of equal texts the first is nearer."""
    if not 1 <= top <= similarity.shape[1]:
        raise BadConfig(f"top={top} of {similarity.shape[1]} captions; give a number from 1 to that")
    ranked = similarity.sort(dim=1, descending=True, stable=True).indices[:, :top]
    return (ranked == own).any(dim=1).double()
