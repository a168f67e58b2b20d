"""Archives as sources: the same as their folders, and nothing of an unsafe or broken one is unpacked."""

import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from core.errors import UserError
from core.views import read_views
from data_tools.layouts._convert import import_all
from data_tools.validate.report import validate
from tests.data_tools.layouts import OPENCV, SETTINGS, imported, make_nerfstudio, make_zero123


@pytest.mark.parametrize(("kind", "with_its_folder"), [("zip", True), ("gztar", False), ("tar", True)])
def test_an_archive_is_imported_as_its_folder_and_leaves_nothing_else(kind, with_its_folder, tmp_path):
    make_zero123(tmp_path / "views release")
    place = (tmp_path, "views release") if with_its_folder else (tmp_path / "views release",)
    archive = shutil.make_archive(str(tmp_path / "a"), kind, *place)
    out = tmp_path / "out"
    imported("zero123", Path(archive), out)
    assert_close(read_views(out / "chair").cameras.poses, torch.tensor(OPENCV), atol=1e-6, rtol=0)
    assert sorted(path.name for path in out.iterdir()) == ["chair", "index.json", "results.jsonl"]
    again = import_all({**SETTINGS, "layout": "zero123", "source": archive}, out)
    assert [record["status"] for record in again] == ["skipped"]


def test_a_scene_that_is_an_archive_is_named_after_it(tmp_path):
    make_nerfstudio(tmp_path / "in")
    archive = shutil.make_archive(str(tmp_path / "sofa"), "zip", tmp_path / "in/chair")
    imported("nerfstudio", Path(archive), tmp_path / "out")
    assert len(read_views(tmp_path / "out/sofa")) == 3


def test_an_archive_is_validated_as_its_folder(tmp_path):
    make_zero123(tmp_path / "in")
    (tmp_path / "in/chair/001.png").unlink()
    archive = shutil.make_archive(str(tmp_path / "a"), "zip", tmp_path / "in")
    cfg = {"layout": "zero123", "mask": None, "size": None, "num_views": None, "uids": None, "workers": 1, "seed": 0}
    report = validate(cfg | {"root": archive, "out": str(tmp_path / "out")})
    assert [(finding["object"], finding["view"]) for finding in report["findings"]] == [("chair", 1)]
    assert report["root"] == archive
    assert list((tmp_path / "out").iterdir()) == []


def tar_with(path: Path, name: str, kind: bytes = tarfile.REGTYPE) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for member, type_ in (("chair/000.png", tarfile.REGTYPE), (name, kind)):
            info = tarfile.TarInfo(member)
            info.type, info.linkname = type_, "/etc/passwd"
            archive.addfile(info)


def zip_with(path: Path, name: str, mode: int = 0o100644) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        archive.writestr("chair/000.png", b"")
        archive.writestr(info, b"/etc/passwd")


UNSAFE: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "tar, up": ("a.tar.gz", lambda path: tar_with(path, "../evil"), "'../evil', which leads out of the folder"),
    "tar, up within": ("a.tgz", lambda path: tar_with(path, "chair/../../evil"), "which leads out of the folder"),
    "tar, absolute": ("a.tar.gz", lambda path: tar_with(path, "/tmp/evil"), "which leads out of the folder"),
    "tar, link": ("a.tar.gz", lambda path: tar_with(path, "chair/001.png", tarfile.SYMTYPE), "a link or a device"),
    "tar, hard link": ("a.tar.gz", lambda path: tar_with(path, "chair/001.png", tarfile.LNKTYPE), "a link or a device"),
    "tar, device": ("a.tar.gz", lambda path: tar_with(path, "chair/001.png", tarfile.CHRTYPE), "a link or a device"),
    "zip, up": ("a.zip", lambda path: zip_with(path, "../evil"), "'../evil', which leads out of the folder"),
    "zip, absolute": ("a.ZIP", lambda path: zip_with(path, "/tmp/evil"), "which leads out of the folder"),
    "zip, backslashes": ("a.zip", lambda path: zip_with(path, "..\\evil"), "which leads out of the folder"),
    "zip, link": ("a.zip", lambda path: zip_with(path, "chair/001.png", 0o120777), "a link or a device"),
    "no zip": ("a.zip", lambda path: path.write_bytes(b"no archive"), "is broken or no archive"),
    "no tar": ("a.tar.gz", lambda path: path.write_bytes(b"no archive"), "is broken or no archive"),
    "no xz": ("a.tar.xz", lambda path: path.write_bytes(b"\xfd7zXZ\0 no archive"), "is broken or no archive"),
}


@pytest.mark.parametrize("kind", UNSAFE)
def test_nothing_of_an_unsafe_or_broken_archive_is_unpacked(kind, tmp_path):
    name, make, words = UNSAFE[kind]
    make(tmp_path / name)
    with pytest.raises(UserError) as raised:
        imported("zero123", tmp_path / name, tmp_path / "out")
    assert words in str(raised.value)
    assert sorted(path.name for path in tmp_path.rglob("*")) == [name, "out"]


@pytest.mark.parametrize("kind", ["zip", "gztar", "xztar"])
def test_an_archive_that_was_cut_off_is_one_line(kind, tmp_path):
    make_zero123(tmp_path / "in")
    archive = Path(shutil.make_archive(str(tmp_path / "a"), kind, tmp_path / "in"))
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    with pytest.raises(UserError, match="is broken or no archive"):
        imported("zero123", archive, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("kind", ["zip", "gztar"])
def test_an_archive_larger_than_the_free_space_is_not_begun(kind, tmp_path, monkeypatch):
    make_zero123(tmp_path / "in")
    archive = shutil.make_archive(str(tmp_path / "a"), kind, tmp_path / "in")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match=r"unpacks to .* GB or more, and 0\.0 GB are free"):
        imported("zero123", Path(archive), tmp_path / "out")
