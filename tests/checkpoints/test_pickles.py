"""Pickles: nothing in them runs, and the small data files of the official layouts read exactly."""

import builtins
import collections
import os
import pickle
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from core.checkpoints.load import read_checkpoint, read_legacy_pickle
from core.errors import BadCheckpoint, BadData, UserError


class Call:
    """Pickles into a call of `function(*arguments)`, which an ordinary reader would run."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def by_hand(module, name, argument):
    """A pickle that calls a function by its name, which need not exist here."""
    return f"\x80\x02c{module}\n{name}\n(V{argument}\ntR.".encode("latin1")


ATTACKS = {
    "os.system": lambda sentinel: pickle.dumps(Call(os.system, f"touch {sentinel}")),
    "posix.system": lambda sentinel: by_hand("posix", "system", f"touch {sentinel}"),
    "eval": lambda sentinel: pickle.dumps(Call(eval, f"open({str(sentinel)!r}, 'w')")),
    "exec": lambda sentinel: pickle.dumps(Call(builtins.exec, f"open({str(sentinel)!r}, 'w')")),
    "open": lambda sentinel: pickle.dumps(Call(open, str(sentinel), "w")),
    "python 2's eval": lambda sentinel: by_hand("__builtin__", "eval", f"open({str(sentinel)!r}, 'w')"),
    "Popen": lambda sentinel: pickle.dumps(Call(subprocess.Popen, ["touch", str(sentinel)])),
    "nested": lambda sentinel: pickle.dumps(
        {"state_dict": collections.OrderedDict(a=[(1, Call(getattr, Call(__import__, "os"), "system"))])}
    ),
    "a detour through torch": lambda sentinel: by_hand("torch.serialization", "os.system", f"touch {sentinel}"),
    "numpy's runstring": lambda sentinel: by_hand("numpy.testing._private.utils", "runstring", "1"),
    "torch's loader within": lambda sentinel: by_hand("torch.storage", "_load_from_bytes", "x"),
    "hidden beside good weights": lambda sentinel: pickle.dumps(
        {"state_dict": {}, "callbacks": {"x": Call(os.system, f"touch {sentinel}")}}
    ),
}


def as_zip(path, data):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", "3")


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("suffix", [".pkl", ".ckpt", ".pt"])
def test_a_malicious_pickle_is_refused_and_nothing_of_it_runs(tmp_path, attack, suffix):  # fault 16
    sentinel = tmp_path / "sentinel"
    path = tmp_path / f"evil{suffix}"
    data = ATTACKS[attack](sentinel)
    if suffix == ".ckpt":
        as_zip(path, data)
    else:
        path.write_bytes(data)
    read = read_legacy_pickle if suffix == ".pkl" else read_checkpoint
    with pytest.raises(UserError, match=r"evil.*nothing of it was run: it (asks for|calls)") as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert not sentinel.exists()
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_refusal_names_what_the_pickle_asked_for(tmp_path):
    path = tmp_path / "evil.pt"
    path.write_bytes(pickle.dumps(Call(os.system, "true")))
    with pytest.raises(BadCheckpoint, match=r"nothing of it was run: it asks for posix\.system"):
        read_checkpoint(path)


class Callback:
    """A class that only the training code has."""

    def __init__(self):
        self.best = np.float64(0.5)
        self.where = Path("/somewhere")


class Odd(dict):
    """A dictionary of a foreign class."""


def test_a_lightning_checkpoint_with_foreign_objects_gives_its_weights(tmp_path):
    weights = {"layer.weight": torch.randn(2, 3), "layer.bias": torch.randn(2)}
    path = tmp_path / "last.ckpt"
    torch.save(
        {
            "epoch": 3,
            "state_dict": collections.OrderedDict(weights),
            "callbacks": {Callback: Callback(), "early": Callback()},
            "optimizer_states": [{"state": collections.defaultdict(dict, {0: {"step": np.int64(3)}}), "odd": Odd(a=1)}],
            "hyper_parameters": Odd(lr=np.float32(1e-3), path=Path("x"), dtype=torch.float16, kind=slice(1, 2)),
        },
        path,
    )
    state = read_checkpoint(path)
    assert state.keys() == weights.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in weights.items())


def test_a_whole_pickled_module_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    with pytest.raises(BadCheckpoint, match=r"an object of torch\.nn\.modules\.linear\.Linear.*state_dict"):
        read_checkpoint(tmp_path / "module.pt")


@pytest.mark.parametrize("protocol", range(6))
def test_data_files_read_exactly(tmp_path, protocol):
    content = [
        np.array([[280.0, 0, 128], [0, 280, 128], [0, 0, 1]], dtype=np.float32),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(3, dtype=">i4"),
        np.array(["a", "bcd"]),
        np.array(True),
        np.zeros((0, 3)),
        (np.float64(1.5), np.int64(-3), np.bool_(True)),
        {"uid": "e5b1", "n": 3, "nested": [1, 2.5, None, True, b"raw", "é", 1 + 2j]},
        {1, 2},
        frozenset({"a"}),
        bytearray(b"xyz"),
        collections.OrderedDict(a=1),
    ]
    path = tmp_path / "meta.pkl"
    path.write_bytes(pickle.dumps(content, protocol))
    read = read_legacy_pickle(path)
    for expected, found in zip(content[:6], read[:6], strict=True):
        assert found.dtype == expected.dtype and found.shape == expected.shape
        np.testing.assert_array_equal(found, expected)
    assert read[6:] == content[6:]
    assert type(read[6][0]) is np.float64


def test_python_2_and_numpy_2_names_of_arrays_are_known(tmp_path):
    array = np.arange(4, dtype=np.float32)
    data = pickle.dumps(array, 2)
    for old, new in ((b"numpy._core.multiarray", b"numpy.core.multiarray"), (b"numpy.core", b"numpy._core")):
        path = tmp_path / "camera.pkl"
        path.write_bytes(data.replace(old, new))
        np.testing.assert_array_equal(read_legacy_pickle(path), array)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (np.array([object], dtype=object), "array of 'O8'"),
        (Path("x"), r"an object of pathlib\.PosixPath"),
        ({"a": Callback}, "Callback"),
    ],
)
def test_objects_do_not_come_through_data_files(tmp_path, content, reason):
    path = tmp_path / "uid_set.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(BadData, match=reason):
        read_legacy_pickle(path)


def cyclic():
    content = []
    content.append(content)
    return content


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nonsense",
        pickle.dumps(list(range(1000)))[:-20],
        pickle.dumps([1]) + b"more",
        pickle.dumps(cyclic()),
        b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b".",
        b"\x80\x04K\x01r\xff\xff\xff\xff(.",
        pickle.dumps(np.arange(5)).replace(b"i8", b"i4"),
        b"\x80\x02ccollections\nOrderedDict\n}X\x01\x00\x00\x00aK\x01sb.",
    ],
    ids=["empty", "nonsense", "cut", "trailing", "cyclic", "deep", "memo", "wrong size", "state of a class"],
)
def test_a_broken_data_file_is_one_line(tmp_path, data):
    path = tmp_path / "meta.pkl"
    path.write_bytes(data)
    with pytest.raises(BadData, match=r"meta\.pkl") as caught:
        read_legacy_pickle(path)
    assert "\n" not in str(caught.value)


def test_a_missing_data_file_is_named(tmp_path):
    with pytest.raises(BadData, match=r"no file .*uid_set\.pkl"):
        read_legacy_pickle(tmp_path / "uid_set.pkl")
