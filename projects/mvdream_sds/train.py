"""Text -> 3D: optimise a scene by score distillation; a run started again in its folder goes on where it stopped."""

from functools import partial

from omegaconf import DictConfig, OmegaConf

from core.app import app
from core.progress import console
from projects.mvdream_sds.scene.run_settings import check


@app(config_name="mvdream_sds", check=check)
def main(cfg: DictConfig) -> float:
    from core.training.run import run
    from projects.mvdream_sds.scene.run_settings import distillation
    from projects.mvdream_sds.scene.stages import starting_point
    from projects.mvdream_sds.taught import without_training

    say = partial(console.print, markup=False, highlight=False)
    given = without_training(OmegaConf.to_container(cfg, resolve=True), say)
    precision = given["trainer"]["precision"]
    if str(precision) != "32":
        say(
            f"trainer.precision={precision}: a scene is optimised in 32 bits all the same; guidance.precision="
            f"{given['guidance'].get('precision')} is that of the frozen networks"
        )
    return run(distillation({**given, "resume": starting_point(given)}))


if __name__ == "__main__":
    main()
