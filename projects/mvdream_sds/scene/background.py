"""What lies behind the object: a small environment map, one fixed colour, or in training now and then a random one."""

from jaxtyping import Float
from torch import Tensor, nn

from core.config import number, whole
from core.fields.encodings import spherical_harmonics
from projects.mvdream_sds.scene.draws import Draws
from projects.mvdream_sds.scene.networks import activation, mlp

Directions = Float[Tensor, "views height width 3"]


def random_color(num_views: int, draws: Draws, *, share: bool, like: Tensor) -> Float[Tensor, "views 1 1 3"]:
    """A uniform colour for all views, or one for each."""
    color = draws.uniform(1 if share else num_views, 1, 1, 3)
    return color.to(like).expand(num_views, 1, 1, 3)


class NeuralEnvironmentMap(nn.Module):
    """Colour of a direction: spherical harmonics of degree 3, then a network without biases."""

    def __init__(
        self,
        *,
        sh_degree: int = 3,
        hidden_dim: int = 16,
        num_hidden: int = 2,
        color_activation: str = "sigmoid",
        random_aug: bool = True,
        random_aug_prob: float = 0.5,
        share_aug_bg: bool = True,
        eval_color: list[float] | tuple[float, ...] | None = None,
    ) -> None:
        """
        Args:
            random_aug: in training, with probability `random_aug_prob`, one random colour takes the map's place, so
                that nothing of the object can hide in the background.
            share_aug_bg: all views of a step get the same random colour; false gives each its own.
            eval_color: what evaluation shows instead of the map; None shows the map.
        """
        super().__init__()
        whole("sh_degree", sh_degree, most=4)
        number("random_aug_prob", random_aug_prob, 0, 1)
        self.sh_degree, self.random_aug, self.random_aug_prob = sh_degree, random_aug, random_aug_prob
        self.share_aug_bg = share_aug_bg
        self.eval_color = _color("eval_color", eval_color)
        self.activate = activation(color_activation)
        self.network = mlp(sh_degree**2, 3, hidden_dim=hidden_dim, num_hidden=num_hidden)

    def forward(self, directions: Directions, draws: Draws | None = None) -> Directions:
        """Colour behind every pixel, from unit directions into the scene.

        Args:
            draws: where training's coins come from; needed in training if `random_aug`.
        """
        if not self.training and self.eval_color is not None:
            return directions.new_tensor(self.eval_color).expand_as(directions)
        color = self.activate(self.network(spherical_harmonics(directions, self.sh_degree)))
        if self.training and self.random_aug:
            if draws is None:
                raise ValueError("a training background with random_aug needs draws")
            if draws.coin() < self.random_aug_prob:
                # Times 0, not left out: every parameter has a gradient at every step.
                plain = random_color(len(directions), draws, share=self.share_aug_bg, like=color)
                return color * 0 + plain
        return color


class SolidBackground(nn.Module):
    """One colour for everything, white by default; in training a random one now and then, if asked."""

    def __init__(
        self,
        *,
        color: list[float] | tuple[float, ...] = (1.0, 1.0, 1.0),
        random_aug: bool = False,
        random_aug_prob: float = 0.5,
        share_aug_bg: bool = True,
    ) -> None:
        super().__init__()
        number("random_aug_prob", random_aug_prob, 0, 1)
        self.color = _color("color", color)
        self.random_aug, self.random_aug_prob, self.share_aug_bg = random_aug, random_aug_prob, share_aug_bg

    def forward(self, directions: Directions, draws: Draws | None = None) -> Directions:
        """The colour at every pixel; `draws` as for the map."""
        if self.training and self.random_aug:
            if draws is None:
                raise ValueError("a training background with random_aug needs draws")
            if draws.coin() < self.random_aug_prob:
                plain = random_color(len(directions), draws, share=self.share_aug_bg, like=directions)
                return plain.expand_as(directions)
        return directions.new_tensor(self.color).expand_as(directions)


Background = NeuralEnvironmentMap | SolidBackground


def _color(key: str, color: list[float] | tuple[float, ...] | None) -> tuple[float, ...] | None:
    if color is None:
        return None
    for value in color:
        number(key, value, 0, 1)
    whole(f"the numbers of {key}", len(color), 3, 3)
    return tuple(color)
