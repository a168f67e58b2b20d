"""The words for what ViewFusion does and for what its ablations do instead. Loads no torch.

All variants make the same poses in the same order, and have the same weights w_k of the same references.
"""

NOISES = ("per_condition", "shared")
ALPHAS = ("blend", "cut")  # over white by alpha, or white only where alpha is 0, as the official loader of renderings
# Whether far targets are reached by way of views in between: never; always, from the nearest known view; auto, for a
# single target; alone, each by a way of its own from the inputs, as if it were the only one.
WAYS = ("auto", "always", "never", "alone")

FUSIONS = {
    "interpolated_denoising": "ViewFusion: at every step the references' updates of one x are blended by w_k",
    "autoregression": "one reference, the known view nearest in angle, an input or generated: errors add up",
    "interpolated_conditions": "one evaluation per step with one condition, the w_k-mean of tokens and latents",
    "interpolated_outputs": "a view is sampled from each reference by itself, from one x_T; their images are blended",
    "stochastic_conditioning": "each step has one reference, drawn with the probabilities w_k (as 3DiM, drawn evenly)",
    "zero123": "no fusion: every view by itself from the nearest input, which is Zero-1-to-3",
}

TARGETS = {  # of `predict`
    "ring": "SyncDreamer's 16 views at 30 degrees, from input views at other elevations",
    "free": "random poses; an object's first views are the inputs, and the others are asked for",
    "views": "any folder of view sets; some views of each are the inputs, and the others are asked for",
}
