"""A run's state as named tensors and JSON, and back.

Optimiser state is stored by parameter name, so that a checkpoint can be read without the optimiser that wrote it.
Rates, decays and betas are not restored: they are the present configuration's to say.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from core.errors import BadCheckpoint
from core.training.checkpoints import Snapshot
from core.training.ema import EMA
from core.training.module import TrainingModule


def capture(
    step: int, module: TrainingModule, optimizer: torch.optim.Optimizer, ema: EMA | None, state: Mapping[str, Any]
) -> Snapshot:
    """What a checkpoint of this moment holds; frozen parameters are left out."""
    frozen = {name for name, _ in module.frozen()}
    tensors = {"model": {name: value for name, value in module.state_dict().items() if name not in frozen}}
    if ema is not None:
        tensors["ema"] = ema.averages
    names = _parameter_names(module, optimizer)
    tensors["optimizer"], notes = {}, {}
    for parameter, values in optimizer.state.items():
        for key, value in values.items():
            label = f"{names[parameter]}:{key}"
            if isinstance(value, Tensor):
                tensors["optimizer"][label] = value
            else:
                notes[label] = value
    return Snapshot(step, tensors, dict(state) | {"ema_updates": ema.updates if ema is not None else 0}, notes)


def restore(snapshot: Snapshot, module: TrainingModule, optimizer: torch.optim.Optimizer, ema: EMA | None) -> None:
    """Puts a checkpoint's content back. Raises BadCheckpoint when it belongs to another model or optimiser."""
    _restore_model(snapshot, module)
    _restore_optimizer(snapshot, module, optimizer)
    if ema is not None:
        averages = snapshot.tensors.get("ema")
        if averages is None or set(averages) != set(ema.averages):
            raise BadCheckpoint("the checkpoint holds no average of these parameters; set trainer.ema_decay as it was")
        for name, average in ema.averages.items():
            average.copy_(averages[name])
        ema.updates = snapshot.state["ema_updates"]


def fingerprint(module: TrainingModule) -> str:
    """sha256 over the frozen parameters' names and values."""
    digest = hashlib.sha256()
    for name, parameter in module.frozen():
        digest.update(name.encode())
        digest.update(parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _restore_model(snapshot: Snapshot, module: TrainingModule) -> None:
    saved, present = snapshot.tensors["model"], module.state_dict()
    missing = set(present) - set(saved) - {name for name, _ in module.frozen()}
    strange = set(saved) - set(present)
    shapes = {name for name in set(saved) & set(present) if saved[name].shape != present[name].shape}
    if missing or strange or shapes:
        groups = {"missing": missing, "unexpected": strange, "of another shape": shapes}
        report = "; ".join(f"{len(names)} {what} ({min(names)} ...)" for what, names in groups.items() if names)
        raise BadCheckpoint(f"the checkpoint belongs to another model: {report}; set model as it was, or another out=")
    module.load_state_dict(saved, strict=False)


def _restore_optimizer(snapshot: Snapshot, module: TrainingModule, optimizer: torch.optim.Optimizer) -> None:
    state: dict[str, dict[str, Any]] = {}
    for label, value in {**snapshot.tensors["optimizer"], **snapshot.notes}.items():
        name, _, key = label.rpartition(":")
        state.setdefault(name, {})[key] = value
    names = list(_parameter_names(module, optimizer).values())
    if strange := set(state) - set(names):
        raise BadCheckpoint(f"the checkpoint's optimiser holds {len(strange)} other parameters ({min(strange)} ...)")
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict(
        {"state": {names.index(name): values for name, values in state.items()}, "param_groups": groups}
    )


def _parameter_names(module: TrainingModule, optimizer: torch.optim.Optimizer) -> dict[Tensor, str]:
    """Name of each of the optimiser's parameters, in its own order."""
    known = {parameter: name for name, parameter in module.named_parameters()}
    return {parameter: known[parameter] for group in optimizer.param_groups for parameter in group["params"]}
