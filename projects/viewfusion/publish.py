"""A finished training run -> a small file of weights with a card; run again with the scores of that very file."""

from omegaconf import DictConfig

from core.app import app


@app(config_name="viewfusion_publish")
def main(cfg: DictConfig) -> None:
    from core.checkpoints.publishing import publish_denoiser

    size = publish_denoiser(
        run=cfg.run,
        publish=cfg.publish,
        scores=cfg.scores,
        system="projects.viewfusion.system.Zero123System",
        what="Zero-1-to-3 at toybox scale: one 64 x 64 image and a pose -> the view from there, all at distance 1.5; "
        "16-bit weights, computed with in 32",
    )
    print(f"{cfg.publish}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
