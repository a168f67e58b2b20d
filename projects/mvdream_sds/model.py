"""MVDream's denoiser (Shi et al. 2023, arXiv 2308.16512): all views of an object at once, from a text and cameras.

A stock diffusers UNet with two changes: its self-attention runs over the tokens of all views together (section 3.1),
and an embedding of each view's camera joins that of the timestep (section 3.2). Only the latter has weights.
"""

import math
from typing import Literal

from diffusers import UNet2DConditionModel
from diffusers.models.embeddings import TimestepEmbedding
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn

from core.attention.multiview import use_joint_attention
from core.diffusion.schedules import NoiseSchedule
from core.models.unet import walk_unet
from projects.mvdream_sds.cameras import CAMERA_DIM

LEAST_LOG_VARIANCE = math.log(1e-20)  # of the posterior, whose variance is 0 at t = 0


class MultiViewDenoiser(nn.Module):
    """Noise of all views of an object."""

    def __init__(
        self,
        *,
        unet: UNet2DConditionModel,
        image_size: int = 256,
        num_views: int = 4,
        camera_dim: int = CAMERA_DIM,
        joint: bool = True,
        attention: Literal["torch", "eager", "xformers"] = "torch",
        recompute: bool = False,
        prediction: Literal["noise", "velocity"] = "noise",
        beta_end: float = 0.012,
    ) -> None:
        """
        Args:
            image_size: side of the images that it was trained with, in pixels.
            num_views: of an object that it was trained with; it takes any number.
            joint: self-attention over all views; False keeps it within each view, a model of the same weights that
                knows the other views from the text and the cameras only.
            attention: the kernel of the UNet's attention; the same to rounding.
            recompute: recompute activations in the backward pass instead of keeping them.
            prediction: what the UNet's output means; published weights give the noise.
            beta_end: the last beta; published: 0.012, which leaves some of the image in x_T.
        """
        super().__init__()
        self.image_size = image_size
        self.num_views = num_views
        self.joint = joint
        self.recompute = recompute
        self.prediction = prediction
        use_joint_attention(unet, attention)
        self.unet = unet
        self.camera_embed = TimestepEmbedding(camera_dim, unet.time_embedding.linear_2.out_features)
        self.schedule = NoiseSchedule(end=beta_end, least_log_variance=LEAST_LOG_VARIANCE)

    def predict(
        self,
        x: Float[Tensor, "b v c h w"],
        t: Int[Tensor, "b"],
        context: Float[Tensor, "b _ l e"],
        camera: Float[Tensor, "b v d"] | None,
    ) -> Float[Tensor, "b v c h w"]:
        """The noise in x_t, whatever the UNet predicts.

        One view without a camera makes it the plain Stable Diffusion that it was trained from ("2D mode").

        Args:
            t: timestep, one for all views of an object; 0 is the least noise.
            context: of the text: [b, 1, l, e], the same for all views, or [b, v, l, e].
            camera: `cameras.condition` of each view. None adds nothing, which is not the embedding of zeros.
        """
        b, v = x.shape[:2]
        if context.shape[1] not in (1, v):
            raise ValueError(f"expected a context of 1 or {v} views, got {tuple(context.shape)}")
        output = walk_unet(
            self.unet,
            rearrange(x, "b v c h w -> (b v) c h w"),
            repeat(t, "b -> (b v)", v=v),
            rearrange(context.expand(b, v, -1, -1), "b v l e -> (b v) l e"),
            added_embedding=None if camera is None else self.camera_embed(rearrange(camera, "b v d -> (b v) d")),
            attention_options={"num_views": v if self.joint else 1},
            recompute=self.recompute and self.training,
        )
        output = rearrange(output, "(b v) c h w -> b v c h w", v=v)
        return self.schedule.noise_of(output, x, t, prediction=self.prediction)
