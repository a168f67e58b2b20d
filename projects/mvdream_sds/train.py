"""Text -> 3D: optimise a scene by score distillation; a run started again in its folder goes on where it stopped."""

from omegaconf import DictConfig, OmegaConf

from core.app import app
from projects.mvdream_sds.scene.run_settings import check


@app(config_name="mvdream_sds", check=check)
def main(cfg: DictConfig) -> float:
    from core.training.run import run
    from projects.mvdream_sds.scene.run_settings import distillation
    from projects.mvdream_sds.scene.stages import starting_point

    given = OmegaConf.to_container(cfg, resolve=True)
    return run(distillation({**given, "resume": starting_point(given)}))


if __name__ == "__main__":
    main()
