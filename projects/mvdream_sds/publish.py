"""A finished training run -> a small file of weights with a card; run again with the scores of that very file."""

from omegaconf import DictConfig

from core.app import app


@app(config_name="mvdream_sds_publish")
def main(cfg: DictConfig) -> None:
    from core.checkpoints.publishing import publish_denoiser

    size = publish_denoiser(
        run=cfg.run,
        publish=cfg.publish,
        scores=cfg.scores,
        system="projects.mvdream_sds.system.MultiViewSystem",
        what="MVDream's multi-view model at toybox scale: a caption -> 4 views of 64 x 64 pixels from cameras around "
        "the object; 16-bit weights, computed with in 32",
        program="train_views",
    )
    print(f"{cfg.publish}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
