"""From a finished run to a bundled model's card: what the weights are, what they cost, from what, and their worth.

    with atomic_folder(cfg.publish, overwrite=True, mark=CARD_FILE) as folder:
        ...                                                   # the project writes its weights into the folder
        card = write_card(folder, run=cfg.out, what="...", measured={...})

Command, cost, settings and code are those of the training, as its export recorded them beside the weights; only the
sha256 and what was measured are of the published files.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.data.toybox import read_index
from core.errors import BadData, MissingWeights
from core.files import list_inputs, sha256_file
from core.models.bundled import CARD_FILE, MODEL_FILE, weights_file

RECORD_FILE = "provenance.json"  # beside the weights, written with them
PLACES = ("out", "publish")  # settings that say where a result goes, not what it is


def trained_weights(run: str | Path) -> Path:
    """The finished weights of a run folder; MissingWeights before its end."""
    path = Path(run) / "weights" / MODEL_FILE
    if not path.is_file():
        raise MissingWeights(f"no {path}; finish the training first (a run started again goes on)")
    return path


def write_card(
    folder: Path,
    *,
    run: str | Path,
    what: str,
    measured: Mapping[str, Any] | None = None,
    replaces: Path | None = None,
    **facts: Any,
) -> dict[str, Any]:
    """Write `card.json` beside the weights in `folder`, and return what it says.

    Args:
        run: the folder of the training run.
        what: a sentence about the model.
        measured: scores of these very files on what nothing was trained or chosen on; None before they are known.
        replaces: where the folder will go. Nothing that the run started from may be there, as it would be lost.
        facts: what only this model's card says.
    """
    weights = trained_weights(run)
    record = read_record(weights.with_name(RECORD_FILE))
    config = record["config"]
    start = _start(config)
    lost = {weights.resolve(), *([(replaces / MODEL_FILE).resolve()] if replaces is not None else [])}
    card = {
        "what": what,
        "command": record["command"],
        "cpu_seconds": record["cpu_seconds"],
        **({"started_from": origin(start, lost)} if start is not None else {}),
        "data_sha256": _data_sha256(config["data"]),
        **({"measured": dict(measured)} if measured is not None else {}),
        **facts,
        "trained_sha256": sha256_file(weights),
        "files": {str(p.relative_to(folder)): sha256_file(p) for p in sorted(folder.rglob("*.safetensors"))},
        "config": {key: value for key, value in config.items() if key not in PLACES},
        **{key: record[key] for key in ("code", "config_hash", "seed", "versions", "date")},
    }
    (folder / CARD_FILE).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    return card


def origin(start: str, lost: set[Path]) -> dict[str, Any]:
    """The weights that a run started from: their sha256 and, where a record stands beside them, what they cost.

    They may have started from others in their turn, and so on.

    Args:
        lost: files that are, or will be, something later than what the run started from.
    """
    path = weights_file(start, what="weights that the run started from", advice="put them back: the card names them")
    if path.resolve() in lost:
        raise BadData(
            f"{path} is what the run started from, and also where its result goes or went, so the card could not say "
            "what it was; choose another publish=, and start from a copy"
        )
    found: dict[str, Any] = {"weights": start, "sha256": sha256_file(path)}
    beside = next((path.with_name(name) for name in (RECORD_FILE, CARD_FILE) if path.with_name(name).is_file()), None)
    if beside is None:
        return found
    record = read_record(beside)
    found |= {key: record[key] for key in ("command", "cpu_seconds")}
    if "started_from" in record:
        found["started_from"] = record["started_from"]
    elif (earlier := _start(record["config"])) is not None:
        found["started_from"] = origin(earlier, lost | {path.resolve()})
    return found


def read_record(path: Path) -> dict[str, Any]:
    """A training's record, or a card; BadData when it is unreadable or from before costs were recorded."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        missing = {"command", "cpu_seconds", "config"} - set(record)
    except (OSError, ValueError, TypeError) as error:
        raise BadData(f"{path} is unreadable ({error}); start the finished run again, which writes it anew") from error
    if missing:
        raise BadData(f"{path} lacks {', '.join(sorted(missing))}; start the finished run again, which writes it anew")
    return record


def read_scores(path: str, sha256: str) -> dict[str, Any]:
    """The card's part about an evaluation; BadData unless that was of the file with this sha256."""
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


def _data_sha256(data: Mapping[str, Any]) -> str:
    """Of a toybox as its index has it; of a few pictures, over their names and contents."""
    if "root" in data:
        return read_index(Path(data["root"]))["sha256"]
    pictures = list_inputs(data["train"]["root"], fault=BadData)
    return hashlib.sha256("".join(f"{sha256_file(path)} {path.name}\n" for path in pictures).encode()).hexdigest()


def _start(config: Mapping[str, Any]) -> str | None:
    return config["model"].get("start")
