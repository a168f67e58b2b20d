"""Settings against the signatures that they name."""

import enum
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from omegaconf import OmegaConf

from core.config import (
    check_allowed,
    check_targets,
    fits,
    instantiate,
    like_default,
    nearest,
    one_of,
    plain,
    suggestion,
)
from core.errors import BadConfig, UserError

HERE = "core.config.AppConfig"


def node(**settings):
    return OmegaConf.create({"model": {"_target_": HERE, "name": "x", "seed": 1, "out": "y", **settings}})


def test_a_node_that_fits_its_signature_passes_and_is_built():
    cfg = node()
    check_targets(cfg)
    built = instantiate(cfg.model, seed=5)
    assert (built.name, built.seed) == ("x", 5)


def test_a_misspelt_argument_is_refused_with_its_path_and_the_nearest_one():
    with pytest.raises(BadConfig, match=r"unknown key 'model.sede' .*nearest known key is 'seed'"):
        check_targets(node(sede=3))


def test_a_misspelt_argument_deep_inside_lists_is_found():
    cfg = OmegaConf.create({"parts": [{"inner": node(sede=3).model}]})
    with pytest.raises(BadConfig, match=r"parts.0.inner.sede"):
        check_targets(cfg)


def test_a_missing_argument_is_named_unless_the_node_is_partial():
    cfg = OmegaConf.create({"model": {"_target_": HERE, "name": "x"}})
    with pytest.raises(BadConfig, match=r"needs seed, out; set model.seed="):
        check_targets(cfg)
    cfg.model._partial_ = True
    check_targets(cfg)
    assert instantiate(cfg.model)(seed=1, out="y").seed == 1


def test_arguments_known_only_to_the_program_count_as_given():
    cfg = OmegaConf.create({"_target_": HERE, "name": "x"})
    assert instantiate(cfg, seed=1, out="y").out == "y"


def test_a_wrong_type_is_refused_for_our_own_signatures():
    with pytest.raises(BadConfig, match=r"model.seed=many: expected a whole number"):
        check_targets(node(seed="many"))


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "core.config.os.system",
        "core.config.import_module",
        "subprocess.run",
        "torch.load",
    ],
)
def test_targets_outside_the_allowed_modules_are_refused_and_never_called(target, tmp_path):
    sentinel = tmp_path / "sentinel"
    cfg = OmegaConf.create({"x": {"_target_": target, "_args_": [f"touch {sentinel}"]}})
    with pytest.raises(BadConfig, match="not an allowed target"):
        instantiate(cfg)
    assert not sentinel.exists()


def test_code_from_a_download_is_refused():
    cfg = OmegaConf.create({"_target_": HERE, "name": "x", "seed": 1, "out": "", "trust_remote_code": True})
    with pytest.raises(BadConfig, match="may not run code"):
        check_targets(cfg)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("core.config.AppConfg", "nearest known key is 'AppConfig'"),
        ("core.nothing.Here", "no such"),
        ("projects.no_such_project.Model", "no such"),
    ],
)
def test_a_target_that_does_not_exist_is_named(target, message):
    with pytest.raises(BadConfig, match=message):
        check_targets(OmegaConf.create({"_target_": target}))


def test_hydras_own_nodes_may_name_hydra_only():
    check_allowed(
        {"launcher": {"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"}}, "h", ("hydra",)
    )
    with pytest.raises(BadConfig, match=r"h.callbacks.x"):
        check_allowed({"callbacks": {"x": {"_target_": "os.system"}}}, "h", ("hydra",))


@pytest.mark.parametrize("cfg", [{"a": "${b}"}, {"a": "${oc.env:NO_SUCH_VARIABLE}"}, {"a": "${b}", "b": "${a}"}])
def test_interpolations_that_lead_nowhere_are_one_line(cfg):
    with pytest.raises(BadConfig, match=r"^a: ") as caught:
        plain(OmegaConf.create(cfg))
    assert "\n" not in str(caught.value)


class Color(enum.Enum):
    RED = 1


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        (1, int, True),
        (True, int, False),
        (1.5, int, False),
        (1, float, True),
        ("1", float, False),
        (None, int | None, True),
        ("a", Literal["a", "b"], True),
        ("c", Literal["a", "b"], False),
        ([1, 2], list[int], True),
        ([1, "x"], Sequence[int], False),
        ([1, 2], tuple[int, int], True),
        ([1, 2, 3], tuple[int, int], False),
        ([1, 2, 3], tuple[int, ...], True),
        ("data", Path, True),
        ("RED", Color, True),
        ("BLUE", Color, False),
        (3, Callable[[int], float], False),
        ({"_target_": "x"}, Callable[[int], float], True),
        ({"a": 1}, dict[str, int], True),
        (object(), "anything else", True),
        (None, Path, False),
        (None, Color, False),
        (None, UserError, False),
        (None, Any, True),
    ],
)
def test_values_fit_their_annotations(value, annotation, expected):
    assert fits(value, annotation) is expected


@pytest.mark.parametrize(
    ("value", "default", "expected"),
    [(3, 2, True), (2.5, 2, False), (3, 2.0, True), ("x", 2, False), ("x", None, True), (5, "name", True)]
    + [([1], [2, 3], True), (1, [2, 3], False), ({"a": 1}, {"b": 2}, True), (True, 1, False)]
    + [(None, 3, False), (None, "name", False), (None, {"a": 1}, False), (None, None, True)],
)
def test_a_typed_value_is_of_its_defaults_kind(value, default, expected):
    assert like_default(value, default) is expected


def test_the_nearest_key_is_found_by_the_whole_or_by_its_last_part():
    known = ["seed", "optimizer.lr", "model.num_views", "trainer.max_steps"]
    assert nearest("lr_ratee", known) == "optimizer.lr"
    assert nearest("model.num_vews", known) == "model.num_views"
    assert nearest("sed", known) == "seed"
    assert nearest("x", []) is None
    assert nearest("lr_ratee", ["model.latents", "mask"]) is None


def test_without_a_near_key_the_top_level_ones_are_listed():
    assert suggestion("lr_ratee", ["model.latents", "model.start", "mask"]) == "known are mask, model"
    assert suggestion("x", []) == "it takes no keys"
    assert suggestion("zz", [f"key{n:02}" for n in range(30)]).endswith("key18, key19, ...")


def test_a_choice_lists_its_options():
    assert one_of("method", "nerf", ("neus", "nerf")) == "nerf"
    with pytest.raises(BadConfig, match="method=mvs: choose one of neus, nerf"):
        one_of("method", "mvs", ("neus", "nerf"))


def test_the_settings_modules_import_without_torch():
    import subprocess

    code = "import sys, core.app, core.provenance; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=False).returncode == 0
