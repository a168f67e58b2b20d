"""A pickle is read once: its safetensors copy is used while it is of that very file, and is never needed."""

import os
import resource

import pytest
import torch
from safetensors import SafetensorError

from core.checkpoints import tensorfiles
from core.checkpoints.load import read_checkpoint, source_sha256
from core.checkpoints.tensorfiles import read_tensors, write_tensors
from core.errors import BadOutput
from core.files import sha256_file
from tests.checkpoints.files import assert_same, header_of, weights


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


@pytest.fixture
def no_large_files():
    """As on a full disk the system refuses what is longer than 100 kB, in the middle of writing it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def large(tmp_path):
    torch.manual_seed(0)
    state = {"large": torch.randn(200, 200)}
    torch.save(state, tmp_path / "x.ckpt")
    return state


def test_on_a_full_disk_good_weights_load_without_a_copy(tmp_path, large, no_large_files, cache, caplog):
    assert_same(read_checkpoint(tmp_path / "x.ckpt"), large)
    assert "no room for a converted copy" in caplog.text
    assert not list(tmp_path.rglob("*.safetensors"))


def test_where_only_the_sources_disk_is_full_the_cache_holds_the_copy(tmp_path, large, cache, monkeypatch):
    def full_there(state, path, metadata):
        if path.parent == tmp_path:
            raise SafetensorError("I/O error: No space left on device (os error 28)")
        save_file(state, path, metadata)

    save_file = tensorfiles.save_file
    monkeypatch.setattr(tensorfiles, "save_file", full_there)
    assert_same(read_checkpoint(tmp_path / "x.ckpt"), large)
    assert [path.parent for path in tmp_path.rglob("*.safetensors")] == [cache / "weights"]


def test_tensors_that_cannot_be_written_are_a_bad_output_that_names_the_file(tmp_path, large, no_large_files):
    with pytest.raises(BadOutput, match=r"cannot write .*y\.safetensors.*free space"):
        tensorfiles.write_tensors(tmp_path / "y.safetensors", large)
    assert [path.name for path in tmp_path.iterdir()] == ["x.ckpt"]


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
