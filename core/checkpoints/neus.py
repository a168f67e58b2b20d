"""The official renderer's names for a NeuS (`renderer/neus_networks.py` of SyncDreamer, also ViewFusion's) and ours."""


def neus(*, sdf_layers: int = 8, color_layers: int = 4) -> list[tuple[str, str]]:
    """Pairs of module paths, theirs and ours; the counts are of hidden layers."""
    pairs = [("deviation_network.variance", "variance")]
    for theirs, ours, count in (("sdf_network", "sdf", sdf_layers), ("color_network", "color", color_layers)):
        for i in range(count + 1):
            pairs += [
                (f"{theirs}.lin{i}.bias", f"{ours}.layers.{i}.bias"),
                (f"{theirs}.lin{i}.weight_g", f"{ours}.layers.{i}.parametrizations.weight.original0"),
                (f"{theirs}.lin{i}.weight_v", f"{ours}.layers.{i}.parametrizations.weight.original1"),
            ]
    return pairs
