import errno
import hashlib
import os

import pytest
import torch
from safetensors.torch import save_file

from core.errors import BadImage, BadMesh, BadOutput
from core.files import atomic_file, atomic_folder, list_inputs, natural_key, output_names, sha256_file


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_only_when_it_is_complete(tmp_path):
    target = tmp_path / "new" / "a.png"
    with atomic_file(target) as temporary:
        temporary.write_bytes(b"half")
        assert not target.exists() and temporary.suffix == ".png"
    assert target.read_bytes() == b"half" and names(target.parent) == ["a.png"]


@pytest.mark.parametrize("fault", [RuntimeError, KeyboardInterrupt])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, fault):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(fault), atomic_file(target) as temporary:
        temporary.write_text("new")
        raise fault
    assert target.read_text() == "old" and names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("maker", [atomic_file, atomic_folder])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, maker):
    with pytest.raises(BadOutput, match="No space left") as raised, maker(tmp_path / "out"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert "\n" not in str(raised.value) and not names(tmp_path)


def test_a_place_that_cannot_be_written_is_a_bad_output(tmp_path):
    (tmp_path / "file").write_text("")
    for maker in (atomic_file, atomic_folder):
        with pytest.raises(BadOutput, match="cannot write"), maker(tmp_path / "file" / "below"):
            pass


def test_a_missing_input_read_while_writing_is_not_blamed_on_the_output(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_file(tmp_path / "out"):
        (tmp_path / "input").read_text()


def test_a_name_as_long_as_the_file_system_allows_can_be_written(tmp_path):
    target = tmp_path / ("n" * 251 + ".png")
    with atomic_file(target) as temporary:
        temporary.write_bytes(b"x")
    assert target.read_bytes() == b"x"


def test_files_keep_the_permissions_that_the_umask_gives(tmp_path):
    before = os.umask(0o027)
    try:
        with atomic_file(tmp_path / "a") as temporary:
            temporary.write_bytes(b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_a_folder_is_refused_when_it_exists_and_replaced_when_told(tmp_path):
    target = tmp_path / "set"
    for content in ("one", "two"):
        with atomic_folder(target, overwrite=True) as temporary:
            (temporary / content).write_text(content)
    assert names(target) == ["two"] and names(tmp_path) == ["set"]
    with pytest.raises(BadOutput, match="already exists"), atomic_folder(target):
        pass
    assert names(target) == ["two"]


def test_only_a_folder_that_was_made_here_is_replaced(tmp_path):
    own = tmp_path / "precious"
    own.mkdir()
    (own / "thesis.txt").write_text("all of it")
    with pytest.raises(BadOutput, match=r"no card\.json"), atomic_folder(own, overwrite=True, mark="card.json"):
        pytest.fail("it may not come to this")
    assert (own / "thesis.txt").read_text() == "all of it"
    for word in ("first", "second"):
        with atomic_folder(tmp_path / "ours", overwrite=True, mark="card.json") as folder:
            (folder / "card.json").write_text(word)
    assert (tmp_path / "ours" / "card.json").read_text() == "second"


def test_an_interrupted_replacement_keeps_the_old_folder(tmp_path):
    target = tmp_path / "set"
    target.mkdir()
    (target / "old").write_text("")
    with pytest.raises(KeyboardInterrupt), atomic_folder(target, overwrite=True) as temporary:
        (temporary / "new").write_text("")
        raise KeyboardInterrupt
    assert names(target) == ["old"] and names(tmp_path) == ["set"]


def test_sha256_is_that_of_the_content(tmp_path):
    (tmp_path / "a").write_bytes(b"turntable")
    assert sha256_file(tmp_path / "a") == hashlib.sha256(b"turntable").hexdigest()


def test_numbers_in_names_sort_as_numbers():
    assert sorted(["v10", "v2", "V1", "a"], key=natural_key) == ["a", "V1", "v2", "v10"]


@pytest.mark.parametrize("name", ["ünï cødé.png", "-dash.png", "new\nline.png", "a[1].png", "写真.JPG"])
def test_any_file_name_can_be_given_and_found(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    assert list_inputs(str(tmp_path / name)) == [tmp_path / name]
    assert list_inputs(str(tmp_path)) == [tmp_path / name]


def test_folders_and_globs_list_images_naturally_sorted(tmp_path):
    for name in ("v10.png", "v2.png", "notes.txt", ".hidden.png"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "sub.png").mkdir()
    expected = [tmp_path / "v2.png", tmp_path / "v10.png"]
    assert list_inputs(str(tmp_path)) == expected
    assert list_inputs(str(tmp_path / "v*.png")) == expected


def test_a_loop_of_links_does_not_repeat_files(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert list_inputs(str(tmp_path / "**" / "*.png")) == [tmp_path / "a.png"]


@pytest.mark.parametrize("spec", ["missing.png", "*.nothing", "", "nul\0.png", "x" * 5000])
def test_an_input_that_names_nothing_is_a_bad_image_in_one_line(tmp_path, monkeypatch, spec):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadImage) as raised:
        list_inputs(spec)
    assert "\n" not in str(raised.value)


def test_a_list_of_other_files_speaks_of_them(tmp_path):
    (tmp_path / "a.PLY").touch()
    (tmp_path / "b.png").touch()
    assert list_inputs(str(tmp_path), (".glb", ".ply")) == [tmp_path / "a.PLY"]
    with pytest.raises(BadMesh, match="holds no mesh files"):
        list_inputs(str(tmp_path), (".glb", ".obj"), what="mesh", fault=BadMesh)


def test_files_of_libraries_that_keep_them_private_get_ordinary_permissions(tmp_path):
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    with atomic_file(tmp_path / "file.safetensors") as temporary:
        save_file({"x": torch.zeros(1)}, temporary)
    with atomic_folder(tmp_path / "folder") as temporary:
        save_file({"x": torch.zeros(1)}, temporary / "model.safetensors")
    for path in (tmp_path / "file.safetensors", tmp_path / "folder" / "model.safetensors"):
        assert path.stat().st_mode == ordinary.stat().st_mode


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["x/a.png"], ["a"]),
        (["x/a.png", "x/b.jpg"], ["a", "b"]),
        (["x/a.png", "x/a.jpg"], ["a.png", "a.jpg"]),
        (["x/a.png", "x/A.jpg"], ["a.png", "A.jpg"]),
        (["g/a/0.png", "g/b/0.png"], ["a_0", "b_0"]),
        (["g/0.png", "g/b/0.png"], ["0", "b_0"]),
    ],
)
def test_outputs_are_named_after_the_path_below_the_common_folder(paths, expected, tmp_path):
    assert output_names([tmp_path / path for path in paths]) == expected


def test_names_that_would_be_equal_or_too_long_are_told_apart(tmp_path):
    paths = [tmp_path / "a_b" / "c.png", tmp_path / "a" / "b_c.png", tmp_path / ("ü" * 120) / f"{'d' * 200}.png"]
    names = output_names(paths)
    assert len(set(names)) == 3 and all(name.startswith("a_b_c") for name in names[:2])
    assert all(len(name.encode()) <= 255 for name in names) and names == output_names(paths)
    assert output_names([tmp_path / "v1.5", tmp_path / "v1.6"], keep_suffix=True) == ["v1.5", "v1.6"]
