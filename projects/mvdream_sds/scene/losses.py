"""What a scene is optimised for besides its likeness to what the denoiser imagines (threestudio's regularisers)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from projects.mvdream_sds.scene.annealing import Schedule, annealed, check_schedule, most
from projects.mvdream_sds.scene.renderer import Rendered

Scalar = Float[Tensor, ""]


def orient_loss(rendered: Rendered) -> Scalar:
    """Visible normals that face away from the camera (Verbin et al. 2022, eq. 11): per pixel that shows something.

    The weights are constants here: the loss turns surfaces, it does not remove them.
    """
    samples = rendered.samples
    if samples.normal is None:
        raise ValueError("the orientation loss needs normals; set scene.geometry.normal_type, or losses.orient=0")
    away = (samples.normal * samples.directions).sum(-1, keepdim=True).clamp(min=0)
    return (samples.weights.detach() * away.square()).sum() / (rendered.opacity > 0).sum().clamp(min=1)


def sparsity_loss(rendered: Rendered) -> Scalar:
    """Mean opacity, rounded off at 0 (as DreamFusion's)."""
    return (rendered.opacity.square() + 0.01).sqrt().mean()


def opaque_loss(rendered: Rendered) -> Scalar:
    """Entropy of the opacity: pixels shall be full or empty."""
    opacity = rendered.opacity.clamp(1e-3, 1 - 1e-3)
    return F.binary_cross_entropy(opacity, opacity)


def z_variance_loss(rendered: Rendered) -> Scalar:
    """Spread of depth along the rays of solid pixels; 0 where there are none."""
    solid = rendered.opacity > 0.5
    return rendered.z_variance[solid].mean() if solid.any() else rendered.z_variance.sum() * 0


REGULARISERS = {
    "orient": orient_loss,
    "sparsity": sparsity_loss,
    "opaque": opaque_loss,
    "z_variance": z_variance_loss,
}


class SceneLosses(nn.Module):
    """The weighted sum of the guidance's loss and the regularisers; each weight may be a schedule (`annealing`)."""

    def __init__(
        self,
        *,
        sds: Schedule = 1.0,
        orient: Schedule = 0.0,
        sparsity: Schedule = 0.0,
        opaque: Schedule = 0.0,
        z_variance: Schedule = 0.0,
    ) -> None:
        super().__init__()
        self.schedules = {
            "sds": sds, "orient": orient, "sparsity": sparsity, "opaque": opaque, "z_variance": z_variance
        }  # fmt: skip
        for name, schedule in self.schedules.items():
            check_schedule(f"losses.{name}", schedule)

    def weights(self, step: int) -> dict[str, float]:
        """The weight of each loss at a step."""
        return {name: annealed(schedule, step) for name, schedule in self.schedules.items()}

    @property
    def ever_needs_normal(self) -> bool:
        """Whether the orientation loss counts at some step."""
        return most(self.schedules["orient"]) > 0

    def needs_normal(self, step: int) -> bool:
        """Whether it counts at this one."""
        return annealed(self.schedules["orient"], step) > 0

    def forward(self, guidance: dict[str, Tensor], rendered: Rendered, *, step: int) -> dict[str, Tensor]:
        """ "loss", its terms `loss_*` before their weights, `lambda_*`, and what the guidance only reports.

        Regularisers with weight 0 are not computed.
        """
        weights = self.weights(step)
        terms = {name: value for name, value in guidance.items() if name.startswith("loss_")}
        if unknown := [name for name in terms if name.removeprefix("loss_") not in weights]:
            raise ValueError(f"no weight for {unknown}")
        terms |= {f"loss_{name}": term(rendered) for name, term in REGULARISERS.items() if weights[name] > 0}
        total = torch.stack([weights[name.removeprefix("loss_")] * value for name, value in terms.items()]).sum()
        shown = {f"lambda_{name}": torch.tensor(weight) for name, weight in weights.items()}
        return {"loss": total, **guidance, **terms, **shown}
