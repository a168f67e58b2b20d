"""A finished training run -> a small file of weights with a card; run again with the scores of that very file."""

from omegaconf import DictConfig

from core.app import app
from projects.mvdream_sds.settings import DREAMBOOTH, SYSTEM

BITS = "16-bit weights, computed with in 32"


@app(config_name="mvdream_sds_publish")
def main(cfg: DictConfig) -> None:
    from core.checkpoints.publishing import publish_denoiser

    size = publish_denoiser(
        run=cfg.run,
        publish=cfg.publish,
        scores=cfg.scores,
        system=SYSTEM,
        what="MVDream's multi-view model at toybox scale: a caption -> 4 views of 64 x 64 pixels from cameras around "
        f"the object; {BITS}",
        others={DREAMBOOTH: f"MVDream's multi-view model, taught a subject by DreamBooth; {BITS}"},
        program="train_views",
        denoiser={"joint": True},
    )
    print(f"{cfg.publish}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
