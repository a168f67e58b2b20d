"""Checkpoint files of every kind: read exactly, or refused in one line."""

import json
import logging
import os
import struct
import warnings
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from core.checkpoints.load import find_weights, read_checkpoint, source_sha256
from core.checkpoints.tensorfiles import read_tensors, write_tensors
from core.errors import BadCheckpoint, MissingWeights
from core.files import sha256_file


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TURNTABLE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def weights():
    torch.manual_seed(0)
    return {"layer.weight": torch.randn(4, 3), "layer.bias": torch.randn(4)}


def assert_same(state, expected):
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        assert state[name].dtype == tensor.dtype and torch.equal(state[name], tensor), name


def refused(path, match, **options):
    with pytest.raises(BadCheckpoint, match=match) as caught:
        read_checkpoint(path, **options)
    assert path.name in str(caught.value) and "\n" not in str(caught.value)


# Kinds of files


@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "older"])
def test_every_kind_of_tensor_comes_back_equal(tmp_path, new_format):
    whole = torch.randn(5, 6)
    tied = torch.randn(3)
    state = {
        "float": whole, "view": whole[1:3, ::2], "transposed": whole.T, "tied": tied, "tied too": tied,
        "half": torch.randn(3).half(), "brain": torch.randn(3).bfloat16(), "double": torch.randn(2).double(),
        "scalar": torch.tensor(2.5), "count": torch.tensor(7), "none": torch.zeros(0, 3), "flag": torch.tensor([True]),
        "bytes": torch.arange(5, dtype=torch.uint8), "parameter": nn.Parameter(torch.randn(2)),
        "expanded": torch.randn(1).expand(4),
    }  # fmt: skip
    path = tmp_path / "any.pt"
    torch.save(state, path, _use_new_zipfile_serialization=new_format)
    assert_same(read_checkpoint(path), state)
    assert_same(read_checkpoint(path), state)  # from the converted copy


def test_types_without_a_storage_of_their_own_come_back_equal(tmp_path):
    state = {
        "eight": torch.tensor([1.0, -2.0]).to(torch.float8_e4m3fn),
        "unsigned": torch.tensor([65535]).to(torch.uint16),
    }
    path = tmp_path / "new.pt"
    torch.save(state, path)
    read = read_checkpoint(path)
    assert all(torch.equal(read[name].view(torch.uint8), state[name].view(torch.uint8)) for name in state)


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.scale = nn.Parameter(torch.randn(3))
        self.register_buffer("shift", torch.randn(3))
        self.mask = torch.full((3,), float("-inf"), dtype=torch.float16)  # an attribute, not a weight

    def forward(self, x):
        return self.linear(x) * self.scale + self.shift + self.mask


def test_a_torchscript_archive_gives_its_parameters_and_buffers(tmp_path):
    model = nn.Sequential(Inner(), nn.ReLU(), Inner()).half()
    path = tmp_path / "ViT-L-14.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(model, torch.ones(1, 3).half(), check_trace=False), path)
    assert_same(read_checkpoint(path), dict(model.state_dict()))


def test_safetensors_are_read_as_they_are(tmp_path):
    save_file(weights(), tmp_path / "model.safetensors")
    assert_same(read_checkpoint(tmp_path / "model.safetensors"), weights())
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_the_content_decides_and_not_the_suffix(tmp_path):
    save_file(weights(), tmp_path / "model.ckpt")
    torch.save(weights(), tmp_path / "other.safetensors")
    assert_same(read_checkpoint(tmp_path / "model.ckpt"), weights())
    assert_same(read_checkpoint(tmp_path / "other.safetensors"), weights())


# Wrappers


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 1, "pytorch-lightning_version": "1.9"},
        lambda state: {"model": state, "ema": {"x": torch.zeros(1)}, "optimizer": {}},
        lambda state: {"module": {f"module.{name}": tensor for name, tensor in state.items()}},
        lambda state: {"model_state_dict": {f"_orig_mod.module.{name}": t for name, t in state.items()}},
        lambda state: {"state_dict": {f"model.{name}": tensor for name, tensor in state.items()}},
        lambda state: {"state_dict": {name.replace("layer.", "layer._orig_mod."): t for name, t in state.items()}},
    ],
    ids=["none", "lightning", "model", "ddp", "compiled ddp", "model prefix", "compiled part"],
)
def test_known_wrappers_are_undone(tmp_path, wrap):  # fault 18
    torch.save(wrap(weights()), tmp_path / "x.ckpt")
    assert_same(read_checkpoint(tmp_path / "x.ckpt"), weights())


def test_a_latent_diffusion_unet_keeps_its_published_prefix(tmp_path):
    state = {f"model.diffusion_model.{name}": tensor for name, tensor in weights().items()}
    torch.save({"state_dict": state}, tmp_path / "unet.ckpt")
    assert_same(read_checkpoint(tmp_path / "unet.ckpt"), state)


@pytest.mark.parametrize(
    "content",
    [{"weights": weights(), "epoch": 1}, {"state_dict": {"a": torch.zeros(1), "b": 3}}, [torch.zeros(1)], {}, 5],
    ids=["unknown wrapper", "a number among weights", "list", "empty", "number"],
)
def test_anything_else_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "x.pt")
    refused(tmp_path / "x.pt", "named weights")


def test_the_moving_average_is_taken_only_when_asked_for(tmp_path):
    plain = {"model.diffusion_model.out.0.weight": torch.zeros(2), "first_stage_model.x": torch.ones(1)}
    average = {"model_ema.diffusion_modelout0weight": torch.ones(2), "model_ema.decay": torch.tensor(0.99)}
    path = tmp_path / "zero123.ckpt"
    torch.save({"state_dict": plain | average}, path)
    for _ in range(2):  # from the pickle, then from the converted copies
        assert_same(read_checkpoint(path), plain | average)
        assert_same(read_checkpoint(path, ema=True), plain | {"model.diffusion_model.out.0.weight": torch.ones(2)})
    torch.save({"model": {"x": torch.zeros(1)}, "ema": {"x": torch.ones(1)}}, tmp_path / "both.pt")
    assert_same(read_checkpoint(tmp_path / "both.pt", ema=True), {"x": torch.ones(1)})


def test_a_missing_or_unasked_average_is_refused(tmp_path):
    torch.save(weights(), tmp_path / "plain.pt")
    torch.save({"ema": weights()}, tmp_path / "average.pt")
    refused(tmp_path / "plain.pt", "no averaged weights", ema=True)
    refused(tmp_path / "average.pt", "averaged weights only .*ema=true")


# Damage


def header_of(path):
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


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


def test_the_types_in_the_file_are_stated(tmp_path, caplog):
    torch.save({"a": torch.zeros(2).half(), "b": torch.zeros(2).half(), "c": torch.zeros(1)}, tmp_path / "x.pt")
    with caplog.at_level(logging.INFO):
        read_checkpoint(tmp_path / "x.pt")
    assert "2 tensors of float16, 1 tensors of float32" in caplog.text


# The converted copy


def change_content_only(path):
    """Other bytes under the same size and time, as only a test does: it shows whether the file was read."""
    stat = path.stat()
    path.write_bytes(path.read_bytes()[:4].ljust(stat.st_size, b"\0"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_a_pickle_is_converted_once_and_the_copy_is_used_afterwards(tmp_path):
    path = tmp_path / "x.ckpt"
    torch.save({"state_dict": weights()}, path)
    digest = sha256_file(path)
    read_checkpoint(path)
    copy = tmp_path / "x.ckpt.converted.safetensors"
    assert header_of(copy)[0]["__metadata__"]["source_sha256"] == digest
    assert copy.stat().st_mode == path.stat().st_mode  # whoever may read the source may read the copy
    change_content_only(path)
    assert_same(read_checkpoint(path), weights())
    assert source_sha256(path) == digest


def test_a_stale_copy_is_replaced(tmp_path):
    path = tmp_path / "x.ckpt"
    torch.save(weights(), path)
    read_checkpoint(path)
    newer = {name: tensor + 1 for name, tensor in weights().items()}
    torch.save(newer, path)
    os.utime(path, ns=(0, 0))  # the size is the same, so only time and content tell
    for _ in range(2):
        assert_same(read_checkpoint(path), newer)


def test_a_copy_stays_valid_when_its_source_is_only_touched(tmp_path, caplog):
    path = tmp_path / "x.ckpt"
    torch.save(weights(), path)
    read_checkpoint(path)
    os.utime(path, ns=(0, 0))
    written = (tmp_path / "x.ckpt.converted.safetensors").stat().st_ino
    assert_same(read_checkpoint(path), weights())
    assert (tmp_path / "x.ckpt.converted.safetensors").stat().st_ino == written


def test_a_damaged_copy_is_made_again(tmp_path, caplog):
    path = tmp_path / "x.ckpt"
    torch.save(weights(), path)
    read_checkpoint(path)
    copy = tmp_path / "x.ckpt.converted.safetensors"
    data = bytearray(copy.read_bytes())
    data[-1] ^= 1
    copy.write_bytes(data)
    assert_same(read_checkpoint(path), weights())
    assert "damaged" in caplog.text
    assert_same(read_tensors(copy), weights())


def test_where_no_copy_fits_beside_the_file_the_cache_holds_it(tmp_path, cache):
    path = tmp_path / "x.ckpt"
    torch.save(weights(), path)
    (tmp_path / "x.ckpt.converted.safetensors").mkdir()  # nothing can be written under this name
    read_checkpoint(path)
    assert len(list((cache / "weights").glob("*-x.ckpt.converted.safetensors"))) == 1
    change_content_only(path)
    assert_same(read_checkpoint(path), weights())


def test_without_any_place_for_a_copy_the_weights_still_load(tmp_path, cache, caplog):
    path = tmp_path / "x.ckpt"
    torch.save(weights(), path)
    (tmp_path / "x.ckpt.converted.safetensors").mkdir()
    cache.write_text("not a folder")
    for _ in range(2):
        assert_same(read_checkpoint(path), weights())
    assert "no room for a converted copy" in caplog.text


def test_a_copy_is_not_left_half_written(tmp_path):
    path = tmp_path / "x.ckpt"
    torch.save(weights(), path)
    (tmp_path / "x.ckpt.converted.safetensors").mkdir()
    read_checkpoint(path)
    assert not list(tmp_path.glob(".tmp-*"))


def test_the_same_tensors_make_the_same_bytes(tmp_path):
    tensors = {"ü.weight": torch.arange(6.0).reshape(2, 3), "count": torch.tensor(7)}
    metadata = {"z": 'a "quoted" ü\n', "a": "1", "m": "2"}
    for number in range(8):
        write_tensors(tmp_path / f"{number}.safetensors", tensors, metadata)
    assert len({sha256_file(path) for path in tmp_path.iterdir()}) == 1
    assert_same(read_tensors(tmp_path / "0.safetensors"), tensors)
    assert header_of(tmp_path / "0.safetensors")[0]["__metadata__"].items() >= metadata.items()


# Registry


def test_expected_weights_are_found_by_their_sha256(tmp_path):
    path = tmp_path / "model.ckpt"
    torch.save(weights(), path)
    assert find_weights(path) == path
    assert find_weights(str(path), sha256=sha256_file(path).upper()) == path


def test_other_weights_stop_unless_allowed(tmp_path):  # fault 20
    path = tmp_path / "model.ckpt"
    torch.save(weights(), path)
    with pytest.raises(BadCheckpoint, match=r"model\.ckpt: sha256 .* instead of 0123.*allow_unverified=true"):
        find_weights(path, sha256="0123")
    assert find_weights(path, sha256="0123", allow_unverified=True) == path


def test_missing_weights_name_the_file_its_sha256_and_its_place(tmp_path):  # fault 21
    with pytest.raises(MissingWeights) as caught:
        find_weights(tmp_path / "zero123-xl.ckpt", sha256="0123", source="the Zero-1-to-3 authors")
    message = str(caught.value)
    assert "zero123-xl.ckpt (sha256 0123)" in message and "the Zero-1-to-3 authors" in message
    assert str(tmp_path / "zero123-xl.ckpt") in message
