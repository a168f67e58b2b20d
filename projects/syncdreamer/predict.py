"""Views of every held-out toybox object from one image of it, for projects.benchmark.evaluate to score."""

from typing import Any

from omegaconf import DictConfig

from core.app import app
from core.config import number, one_of, whole
from core.device import PRECISIONS, check_device
from core.diffusion.steps import check_num_steps
from core.errors import BadConfig, BadRequest


def check(cfg: dict[str, Any]) -> None:
    """Refuse what no prediction can have."""
    whole("input_view", cfg["input_view"], least=0, most=cfg["model"]["denoiser"]["num_views"] - 1)
    for key in ("num_objects", "objects_per_batch", "batch_view_num", "sample_steps"):
        whole(key, cfg[key])
    number("cfg_scale", cfg["cfg_scale"], 0)
    number("eta", cfg["eta"], 0, 1)
    one_of("precision", str(cfg["precision"]), list(PRECISIONS))
    check_device(cfg["device"])
    try:
        check_num_steps(cfg["sample_steps"])
    except BadRequest as error:
        raise BadConfig(f"sample_steps={cfg['sample_steps']}: {error}") from error


@app(config_name="syncdreamer_predict", check=check)
def main(cfg: DictConfig) -> None:
    from projects.syncdreamer.prediction import predict

    predict(cfg)


if __name__ == "__main__":
    main()
