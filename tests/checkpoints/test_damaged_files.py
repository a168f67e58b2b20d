"""Checkpoint files that are damaged, lie or are something else are refused in one line, and never half-read."""

import json
import struct
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from core.checkpoints.load import read_checkpoint
from core.checkpoints.tensorfiles import write_tensors
from core.errors import BadCheckpoint, MissingWeights
from tests.checkpoints.files import assert_same, refused, weights


def with_header(path, header, data):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)


def spans(begin, end, **more):
    return {"dtype": "F32", "shape": [(end - begin) // 4], "data_offsets": [begin, end], **more}


@pytest.mark.parametrize(
    "header",
    [
        {"a": spans(0, 16), "b": spans(8, 32)},
        {"a": spans(0, 16), "b": spans(20, 32)},
        {"a": spans(0, 16), "b": spans(16, 36)},
        {"a": spans(0, 16)},
        {"a": spans(0, 16), "b": spans(16, 32, shape=[5])},
        {"a": spans(0, 16), "b": spans(16, 32, shape=[2**40, 2**40])},
        {"a": spans(0, 16), "b": spans(16, 32, dtype="F99")},
        {"a": spans(0, 16), "b": {"dtype": "F32", "shape": [4], "data_offsets": [32, 16]}},
        {"a": spans(0, 16), "b": {"dtype": "F32", "shape": [4]}},
        {"a": spans(0, 16), "b": 3},
        {"a": spans(0, 32), "__metadata__": 5},
        [1],
        b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}, "a": {"dtype": "F32", "shape": [4], '
        b'"data_offsets": [16, 32]}}',
        b"{not json",
        b"{" * 5000,
    ],
)
def test_a_lying_header_is_refused(tmp_path, header):  # fault 15
    path = tmp_path / "lie.safetensors"
    with_header(path, header, bytes(32))
    refused(path, "lie")


@pytest.mark.parametrize("length", [0, 3, 7, 2**62])
def test_a_lying_header_length_is_refused(tmp_path, length):
    path = tmp_path / "lie.safetensors"
    save_file(weights(), path)
    path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])
    refused(path, "lie")


KINDS = {
    "safetensors": lambda path: write_tensors(path, weights()),
    "zip": lambda path: torch.save({"state_dict": weights()}, path),
    "older": lambda path: torch.save({"state_dict": weights()}, path, _use_new_zipfile_serialization=False),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_file_is_refused_at_every_length(tmp_path, kind):
    path = tmp_path / "cut.ckpt"
    KINDS[kind](path)
    data = path.read_bytes()
    for length in [0, 1, 2, 7, 8, 9, *range(10, len(data), max(1, len(data) // 20)), len(data) - 1]:
        path.write_bytes(data[:length])
        refused(path, "cut")
    assert not list(tmp_path.glob("*.converted.*"))


@pytest.mark.parametrize("kind", ["safetensors", "zip"])
def test_a_flipped_byte_never_gives_other_weights(tmp_path, kind):
    path = tmp_path / "flipped.ckpt"
    KINDS[kind](path)
    data = bytearray(path.read_bytes())
    found = 0
    for position in range(0, len(data), max(1, len(data) // 40)):
        damaged = bytearray(data)
        damaged[position] ^= 0x10
        path.write_bytes(damaged)
        path.with_name(path.name + ".converted.safetensors").unlink(missing_ok=True)
        try:
            assert_same(read_checkpoint(path), weights())  # padding, times and the like
        except BadCheckpoint as fault:
            assert "\n" not in str(fault)
            found += 1
    assert found > 10


def test_a_pickle_that_lies_about_sizes_is_refused(tmp_path):
    path = tmp_path / "lie.pt"
    torch.save({"a": torch.zeros(3)}, path)
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    pickled = records["lie/data.pkl"]
    for old, new in (
        (b"K\x03\x85", b"K\x09\x85"),
        (b"cpuq\x06K\x03", b"cpuq\x06K\x09"),
        (b"X\x01\x00\x00\x000", b"X\x01\x00\x00\x009"),
    ):
        assert old in pickled
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in records.items():
                archive.writestr(name, pickled.replace(old, new) if name.endswith(".pkl") else content)
        refused(path, "lie")


def test_packed_zips_and_zips_of_other_things_are_refused(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"a": torch.zeros(3)}, path)
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in records.items():
            archive.writestr(name, content)
    refused(path, "packed")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    refused(path, "data.pkl")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_nan_and_infinity_among_weights_are_refused(tmp_path, value, kind):  # fault 19
    state = weights() | {"broken": torch.tensor([1.0, value])}
    path = tmp_path / f"nan.{kind}"
    torch.save(state, path) if kind == "pt" else save_file(state, path)
    refused(path, r"NaN or infinity in 1 tensors \(broken\)")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>404</html>", "web page"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "neither safetensors nor torch"),
        (bytes(257) + b"ustar" + bytes(300), "tar format"),
    ],
)
def test_files_that_are_no_checkpoints_say_what_they_are(tmp_path, content, reason):
    path = tmp_path / "weights.ckpt"
    path.write_bytes(content)
    refused(path, reason)


def test_a_missing_file_or_a_folder_is_named(tmp_path):
    for path in (tmp_path / "none.ckpt", tmp_path):
        with pytest.raises(MissingWeights, match=path.name):
            read_checkpoint(path)
