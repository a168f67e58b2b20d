"""Attention processors for a stock diffusers UNet: joint attention over views, attention to one token, xformers."""

from collections.abc import Iterator
from contextlib import contextmanager

from einops import rearrange
from torch import Tensor, nn

from core.attention.backend import attention, check_backend


class MultiViewAttnProcessor:
    """Self-attention over the tokens of all views of a sample at once; cross-attention is left per view.

    Views of one sample stand next to each other in the batch: `[(b v), l, c]` (Shi et al. 2023, MVDream, sec. 3.1).
    """

    def __init__(self, num_views: int, backend: str = "torch") -> None:
        self.num_views = num_views
        self.backend = backend

    def __call__(
        self,
        attn,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        num_views: int | None = None,
        **_,
    ) -> Tensor:
        """
        Args:
            num_views: of this call alone, as `cross_attention_kwargs` bring it: one model serves several counts, and
                what is recomputed in a backward pass has the count of its own forward pass.
        """
        joint = encoder_hidden_states is None
        num_views = self.num_views if num_views is None else num_views
        x = rearrange(hidden_states, "(b v) l c -> b (v l) c", v=num_views) if joint else hidden_states
        context = x if joint else encoder_hidden_states
        q, k, v = (
            rearrange(project(source), "b l (h d) -> b h l d", h=attn.heads)
            for project, source in ((attn.to_q, x), (attn.to_k, context), (attn.to_v, context))
        )
        x = attn.to_out[0](rearrange(attention(q, k, v, backend=self.backend), "b h l d -> b l (h d)"))
        return rearrange(x, "b (v l) c -> (b v) l c", v=num_views) if joint else x


class SingleTokenAttnProcessor:
    """Cross-attention to a context of one token, as the constant it is.

    A softmax over one key is 1, so the result is `to_out(to_v(context))` at every position: queries and keys drop out.
    """

    def __init__(self) -> None:
        self.known: dict[int, tuple[Tensor, Tensor]] | None = None  # filled within `remembered_contexts`

    def __call__(self, attn, hidden_states: Tensor, encoder_hidden_states: Tensor, **_) -> Tensor:
        return self.constant(attn, encoder_hidden_states).expand(-1, hidden_states.shape[1], -1)

    def constant(self, attn, context: Tensor) -> Tensor:
        """What attention to this context gives at every position, [b, 1, c]."""
        assert context.shape[1] == 1, "this shortcut holds for one context token only"
        if self.known is None:
            return attn.to_out[0](attn.to_v(context))
        # Contexts are told apart by identity; each is kept with its constant, so no other can get its number.
        if id(context) not in self.known:
            self.known[id(context)] = (context, attn.to_out[0](attn.to_v(context)))
        return self.known[id(context)][1]


def use_single_token_cross_attention(unet: nn.Module) -> None:
    """Let every cross-attention (`attn2`) of a diffusers UNet take the one-token shortcut."""
    for name, module in unet.named_modules():
        if name.endswith("attn2"):
            module.set_processor(SingleTokenAttnProcessor())


@contextmanager
def remembered_contexts(unet: nn.Module) -> Iterator[None]:
    """Within it, one-token cross-attention computes its constant once for each context tensor, not in every step.

    For sampling: weights and contexts must stay as they are. A context is the very tensor object that was given.
    """
    processors = [m.processor for name, m in unet.named_modules() if name.endswith("attn2")]
    single = [processor for processor in processors if isinstance(processor, SingleTokenAttnProcessor)]
    for processor in single:
        processor.known = {}
    try:
        yield
    finally:
        for processor in single:
            processor.known = None


def use_self_attention(unet: nn.Module, backend: str) -> None:
    """Let every self-attention (`attn1`) of a diffusers UNet use a backend of `attention`.

    BadConfig for a backend that is unknown or not installed; then nothing has changed.
    """
    check_backend(backend)
    for name, module in unet.named_modules():
        if name.endswith("attn1"):
            module.set_processor(MultiViewAttnProcessor(num_views=1, backend=backend))


def use_joint_attention(unet: nn.Module, backend: str) -> None:
    """Let the attentions of a diffusers UNet take `num_views` in `cross_attention_kwargs`: self-attention (`attn1`)
    then joins the tokens of all views of a sample; cross-attention stays per view. Both use a backend of `attention`.

    BadConfig for a backend that is unknown or not installed; then nothing has changed.
    """
    check_backend(backend)
    for name, module in unet.named_modules():
        if name.endswith(("attn1", "attn2")):
            module.set_processor(MultiViewAttnProcessor(num_views=1, backend=backend))


def idle_parameters(unet: nn.Module) -> Iterator[nn.Parameter]:
    """What the one-token shortcut leaves without influence: queries, keys and norms before every cross-attention.

    Their gradients are zero with the plain attention too; DDP must be told that they have none.
    """
    idle = ("norm2", "attn2.to_q", "attn2.to_k")
    for name, parameter in unet.named_parameters():
        if ".transformer_blocks." in name and name.rpartition(".")[0].endswith(idle):
            yield parameter
