"""A small network that sees attributes of toybox objects (`core.data.toybox_captions.vocabulary`) in single views.

An object has what its best view shows. The views' chances are not multiplied, as if each missed an attribute by itself
(noisy-or): they see the same thing, so they err together.
"""

from collections.abc import Sequence
from pathlib import Path

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from jaxtyping import Float
from torch import Tensor, nn

from core.data.toybox_captions import vocabulary
from core.errors import BadCheckpoint
from core.images import check_image_size
from core.models.bundled import weights_folder

BIAS = -4.0  # log-odds of an attribute at a place, at first: most places show few


class AttributeNet(ModelMixin, ConfigMixin):
    """Convolutions that halve the picture at some layers, then an answer at each place of what is left of it.

    A view shows what its best place shows, by the same rule as several views do. So "red cube" is asked of each place,
    whether what is there is red and a cube, not of a picture that has both somewhere.

    Args:
        attributes: their names, in the order of the answers.
        widths: channels of each layer.
        strides: 1 or 2 for each layer; the first reads 5 x 5 pixels, the others 3 x 3.
    """

    @register_to_config
    def __init__(
        self,
        *,
        attributes: list[str],
        image_size: int = 64,
        widths: Sequence[int] = (32, 48, 64, 64, 96, 96),
        strides: Sequence[int] = (2, 1, 2, 1, 2, 1),
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 3
        for number, (channels, stride) in enumerate(zip(widths, strides, strict=True)):
            size = 3 if number else 5
            convolution = nn.Conv2d(width, channels, size, stride, size // 2, bias=False)
            # Over the batch: normalised within a picture, a colour's strength would be lost.
            layers += [convolution, nn.BatchNorm2d(channels), nn.SiLU()]
            width = channels
        self.layers = nn.Sequential(*layers)
        self.head = nn.Conv2d(width, len(attributes), 1)
        assert self.head.bias is not None
        nn.init.constant_(self.head.bias, BIAS)

    def forward(self, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n attributes"]:
        """Log-odds that a view shows each attribute; pixels in [-1, 1], on white."""
        return self.at_places(pixels).amax(dim=(-2, -1))

    def at_places(self, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n attributes y x"]:
        """Log-odds that each place of a view shows each attribute."""
        check_image_size(pixels.shape[-1], self.config.image_size)
        return self.head(self.layers(pixels))


def shown(logits: Float[Tensor, "*batch views attributes"]) -> Float[Tensor, "*batch attributes"]:
    """Probability that some of an object's views shows each attribute: that of the view which shows it best."""
    return logits.float().amax(dim=-2).sigmoid()


def attribute_net(folder: str | Path) -> AttributeNet:
    """A published network, for use; BadCheckpoint where its attributes are not those of the captions."""
    net = AttributeNet.from_pretrained(weights_folder(folder), local_files_only=True)
    if list(net.config.attributes) != vocabulary():
        raise BadCheckpoint(
            f"{folder}: a network for {len(net.config.attributes)} other attributes than the {len(vocabulary())} that "
            "captions name here; train it again with +experiment=toybox/attributes"
        )
    return net.eval().requires_grad_(False)
