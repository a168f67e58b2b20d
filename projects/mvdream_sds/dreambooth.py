"""Multi-view DreamBooth: a subject of a few pictures, learnt in 2D and then seen from all sides.

Shi et al. 2023, section 3.4: the whole UNet learns the pictures, as single images without cameras, and is held near its
old weights by lambda |theta - theta_0|_1 / N. DreamBooth itself (Ruiz et al. 2023, eq. 2) instead goes on learning
pictures of the subject's class that the model made before (prior preservation). Either or both can be had.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from core.config import number, whole
from core.errors import BadConfig, BadData
from core.files import list_inputs
from core.training.loader import Items
from projects.mvdream_sds.captioned import CaptionedFolder
from projects.mvdream_sds.system import MultiViewSystem


class SubjectImages:
    """Pictures of a subject, each beside one of its class.

    Args:
        root: a folder of a few pictures of the subject.
        prompt: their caption, with a word for the subject ("a photo of sks dog").
        image_size: side of the square that is read of each.
        class_root: a folder of pictures of other things of that class; None: none, for `prior_weight=0`. Let the model
            make them before it learns: projects.mvdream_sds.generate with `class_prompt` and without cameras.
        class_prompt: their caption ("a photo of a dog").
        num_class_images: how many of them must be there.
    """

    def __init__(
        self,
        *,
        root: str,
        prompt: str,
        image_size: int,
        class_root: str | None = None,
        class_prompt: str | None = None,
        num_class_images: int = 100,
    ) -> None:
        whole("num_class_images", num_class_images)
        if (class_root is None) != (class_prompt is None):
            raise BadConfig(f"class_root={class_root}, class_prompt={class_prompt}: give both, or neither")
        if not prompt.strip():
            raise BadConfig(
                "data.prompt is empty; give the caption of the pictures, such as data.prompt='a photo of sks dog'"
            )
        self.subject = CaptionedFolder(root=root, image_size=image_size, caption=prompt)
        self.others: Items | None = None
        if class_root is not None:
            there = list_inputs(class_root, fault=BadData)
            if len(there) < num_class_images:
                raise BadData(
                    f"class_root={class_root} has {len(there)} pictures, num_class_images={num_class_images}: make "
                    f"more with projects.mvdream_sds.generate prompt='{class_prompt}', or set it lower"
                )
            self.others = CaptionedFolder(root=class_root, image_size=image_size, caption=class_prompt)

    def __len__(self) -> int:
        return len(self.subject)

    def __getitem__(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        """`pixels` [1, 3, H, W] and `caption`, a group of one image, and the same of the class with `class_`."""
        item = _group(self.subject.__getitem__(index, generator))
        if self.others is None:
            return item
        other = int(torch.randint(len(self.others), (), generator=generator))
        group = _group(self.others.__getitem__(other, generator))
        return item | {f"class_{name}": value for name, value in group.items()}


class DreamBoothSystem(MultiViewSystem):
    """The multi-view model, learning a subject.

    Args:
        preservation: lambda of |theta - theta_0|_1 / N (the paper: 1); 0 for none.
        prior_weight: of the loss of the class's pictures (DreamBooth: 1); 0 for none.
    """

    has_idle_parameters = False  # the cameras' embedding, which no picture here needs, is frozen
    teaches_cameras = False

    def __init__(self, *, preservation: float = 1.0, prior_weight: float = 1.0, **options) -> None:
        super().__init__(**options)
        number("preservation", preservation, 0)
        number("prior_weight", prior_weight, 0)
        if options.get("start") is None:
            raise BadConfig(
                "model.start=None: a subject is taught to a model that was trained before; give its weights"
            )
        self.denoiser.camera_embed.requires_grad_(False)
        self.preservation, self.prior_weight = preservation, prior_weight
        # theta_0. Not among the state: a run that continues reads the same start again, before its own weights.
        self.before = {name: value.detach().clone() for name, value in self.trained().items()} if preservation else {}

    def loss(self, batch: Mapping[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
        """Of the subject, of its class, and the distance from the old weights; all three are logged."""
        own = {key: value for key, value in batch.items() if not key.startswith("class_")}
        theirs = {key.removeprefix("class_"): value for key, value in batch.items() if key.startswith("class_")}
        if bool(theirs) != (self.prior_weight > 0):
            raise BadConfig(
                f"model.prior_weight={self.prior_weight} "
                + ("needs pictures of the class: set data.train.class_root and class_prompt, or prior_weight=0"
                   if not theirs else "leaves data.train.class_root unread; set prior_weight=1, or class_root=null")
            )  # fmt: skip
        subject = super().loss(own, generator)["loss"]
        terms = {"loss": subject, "loss_subject": subject.detach()}
        if theirs:
            others = super().loss(theirs, generator)["loss"]
            terms["loss"] = terms["loss"] + self.prior_weight * others
            terms["loss_class"] = others.detach()
        if self.preservation:
            distance = self.distance()
            terms["loss"] = terms["loss"] + self.preservation * distance
            terms["distance"] = distance.detach()
        return terms

    def distance(self) -> Float[Tensor, ""]:
        """|theta - theta_0|_1 / N over what learns."""
        now = self.trained()
        self.before = {name: value.to(now[name].device) for name, value in self.before.items()}
        total = sum((now[name] - value).abs().sum() for name, value in self.before.items())
        return total / sum(value.numel() for value in self.before.values())


def _group(item: Mapping[str, Any]) -> dict[str, Any]:
    return {"pixels": item["pixels"][None], "caption": [item["caption"]]}
