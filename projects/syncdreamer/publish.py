"""A finished training run -> a small file of weights with a card; run again with the scores of that very file."""

import json
from pathlib import Path

from omegaconf import DictConfig

from core.app import app


@app(config_name="syncdreamer_publish")
def main(cfg: DictConfig) -> None:
    from core.checkpoints.load import read_checkpoint
    from core.checkpoints.tensorfiles import write_tensors
    from core.data.toybox import read_index
    from core.errors import BadData, MissingWeights
    from core.files import atomic_folder, sha256_file

    trained = Path(cfg.run) / "weights"
    weights = trained / "model.safetensors"
    if not weights.is_file():
        raise MissingWeights(f"no {weights}; finish the training first (a run started again goes on)")
    record = json.loads((trained / "provenance.json").read_text(encoding="utf-8"))
    half = {name: tensor.half() if tensor.is_floating_point() and tensor.numel() > 1000 else tensor
            for name, tensor in read_checkpoint(weights).items()}  # fmt: skip
    with atomic_folder(Path(cfg.publish), overwrite=True) as folder:
        write_tensors(folder / "model.safetensors", half)
        digest = sha256_file(folder / "model.safetensors")
        measured = {}
        if cfg.scores is not None:
            try:
                scores = json.loads(Path(cfg.scores).read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise BadData(f"scores={cfg.scores} is unreadable ({error}); make it with evaluate") from error
            if digest not in scores["provenance"]["weights"].values():
                raise BadData(
                    f"{cfg.scores} measured other weights; publish without scores=, evaluate that, publish again"
                )
            measured = {
                "measured": scores["summary"],
                "measured_with": scores["provenance"]["command"],
                "cpu_seconds_per_object": scores["cpu_seconds_per_object"],
            }
        card = {
            "what": "SyncDreamer at toybox scale: one 64 x 64 image -> 16 views; 16-bit weights, computed with in 32",
            "command": record["command"],
            "cpu_seconds": record["cpu_seconds"],
            "data_sha256": read_index(Path(record["config"]["data"]["root"]))["sha256"],
            **measured,
            "sha256": digest,
            "trained_sha256": sha256_file(weights),
            "config": {key: value for key, value in record["config"].items() if key != "out"},
            **{key: record[key] for key in ("code", "config_hash", "seed", "versions", "date")},
        }
        (folder / "card.json").write_text(json.dumps(card, indent=2, default=str) + "\n", encoding="utf-8")
    print(f"{cfg.publish}: {sum(path.stat().st_size for path in Path(cfg.publish).iterdir()) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
