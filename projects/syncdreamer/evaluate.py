"""SyncDreamer on held-out toybox objects: PSNR, SSIM and FLIP beside three trivial answers."""

from omegaconf import DictConfig

from core.app import app


@app(config_name="syncdreamer_evaluate")
def main(cfg: DictConfig) -> float:
    from projects.syncdreamer.scores import evaluate

    return evaluate(cfg)


if __name__ == "__main__":
    main()
