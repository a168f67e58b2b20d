"""Train a toybox network, then measure it on held-out objects and publish it; a run started again goes on."""

from omegaconf import DictConfig

from core.app import app
from core.training.settings import check_settings


@app(config_name="toybox_train", check=check_settings)
def main(cfg: DictConfig) -> float:
    from core.files import check_replaceable
    from core.models.bundled import CARD_FILE
    from core.training.run import run
    from projects.toybox.publish import publish

    check_replaceable(cfg.publish, CARD_FILE)  # better now than after the training
    metric = run(cfg)
    publish(cfg)
    return metric


if __name__ == "__main__":
    main()
