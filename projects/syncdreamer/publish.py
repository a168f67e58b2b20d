"""A finished training run -> a small file of weights with a card; run again with the scores of that very file."""

import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from core.app import app


@app(config_name="syncdreamer_publish")
def main(cfg: DictConfig) -> None:
    from core.checkpoints.load import read_checkpoint
    from core.checkpoints.tensorfiles import write_tensors
    from core.errors import BadData
    from core.files import atomic_folder, sha256_file
    from core.models.bundled import CARD_FILE
    from core.training.publishing import RECORD_FILE, read_record, trained_weights, write_card
    from projects.syncdreamer.weights import PREDICTION

    path = trained_weights(cfg.run)
    denoiser = read_record(path.with_name(RECORD_FILE))["config"]["model"].get("denoiser")
    if denoiser is None:
        raise BadData(f"run={cfg.run} trained no SyncDreamer; give a run folder of projects.syncdreamer.train")
    weights = read_checkpoint(path)
    half = {name: tensor.half() if tensor.is_floating_point() and tensor.numel() > 1000 else tensor
            for name, tensor in weights.items()}  # fmt: skip
    with atomic_folder(Path(cfg.publish), overwrite=True, mark=CARD_FILE) as folder:
        write_tensors(folder / "model.safetensors", half, {PREDICTION: denoiser["prediction"]})
        scores = read_scores(cfg.scores, sha256_file(folder / "model.safetensors")) if cfg.scores is not None else {}
        write_card(
            folder,
            run=cfg.run,
            what="SyncDreamer at toybox scale: one 64 x 64 image -> 16 views; 16-bit weights, computed with in 32",
            replaces=Path(cfg.publish),
            **scores,
        )
    print(f"{cfg.publish}: {sum(path.stat().st_size for path in Path(cfg.publish).iterdir()) / 1e6:.1f} MB")


def read_scores(path: str, sha256: str) -> dict[str, Any]:
    """The card's part about an evaluation; BadData unless that was of the file with this sha256."""
    from core.errors import BadData

    try:
        scores = json.loads(Path(path).read_text(encoding="utf-8"))
        predictions = scores["predictions"].values()
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise BadData(f"scores={path} is no scores.json ({error}); make it with projects.benchmark.evaluate") from error
    mine = [made for made in predictions if sha256 in (made.get("weights") or {}).values()]
    if not mine:
        raise BadData(f"{path} measured other weights; publish without scores=, predict and evaluate, publish again")
    return {
        "measured": scores["summary"],
        "protocol": scores["protocol"]["hash"],
        "measured_with": mine[0]["command"],
        "cpu_seconds_per_object": mine[0]["cpu_seconds"],
        "objects": {name: found["scores"] for name, found in scores["objects"][mine[0]["method"]].items()},
    }


if __name__ == "__main__":
    main()
