"""Downloads: nothing unchecked gets its name, what broke off goes on, and an archive cannot write where it likes."""

import hashlib
import io
import json
import re
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

from core.errors import BadConfig, BadData, UserError
from data_tools.download.__main__ import check, main
from data_tools.download.make import download_all
from data_tools.download.registry import read_registry
from data_tools.download.transfer import Policy, fetch
from data_tools.download.unpack import unpack
from data_tools.make_registry import main as make_registry

ROOT = Path(__file__).parents[2]
OAK, ELM = bytes(range(256)) * 40, b"elm" * 5000


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass
class Site:
    """A server on loopback whose answers a test decides, and what was asked of it."""

    url: str
    files: dict[str, bytes]
    cut_at: list[int] = field(default_factory=list)  # bytes after which each of the next answers breaks off
    codes: list[int] = field(default_factory=list)  # of the next answers
    ranges: bool = True
    asked: list[tuple[str, str | None]] = field(default_factory=list)


@pytest.fixture
def site() -> Iterator[Site]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name, wanted = unquote(self.path.lstrip("/")), self.headers.get("Range")
            site.asked.append((name, wanted))
            code = site.codes.pop(0) if site.codes else 200
            content = site.files.get(name)
            if code != 200 or content is None:
                self.send_error(code if code != 200 else 404)
                return
            begin = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and site.ranges else 0
            if begin and begin >= len(content):
                self.send_error(416)
                return
            self.send_response(206 if begin else 200)
            if begin:
                self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - begin))
            self.end_headers()
            cut = site.cut_at.pop(0) if site.cut_at else len(content)
            self.wfile.write(content[begin : begin + cut])

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site = Site(f"http://127.0.0.1:{server.server_port}", {"oak.zip": OAK, "wood/elm tree.obj": ELM})
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield site
    server.shutdown()
    server.server_close()


def registry(folder: Path, *rows: dict, **more) -> Path:
    path = folder / "registry.yaml"
    path.write_text(yaml.safe_dump({"name": "wood", "licence": "CC-BY-4.0", "items": list(rows), **more}), "utf-8")
    return path


def row(site: Site, name: str = "oak.zip", **changes) -> dict:
    content = site.files[name]
    url = f"{site.url}/{name.replace(' ', '%20')}"
    return {"url": url, "path": name, "sha256": sha256(content), "size": len(content), **changes}


def download(path: Path, out: Path, **changes) -> list[dict]:
    settings = {"mirror": None, "unpack": False, "max_unpacked_gb": None, "allow_unverified": False, "workers": 2,
                "retries": 0, "timeout_s": 5.0, "overwrite": False}  # fmt: skip
    return download_all({**settings, "registry": str(path), **changes}, out)


def results(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text(encoding="utf-8").splitlines()]


def left(out: Path) -> set[str]:
    """The files of `out`, but for the list of results."""
    return {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()} - {"results.jsonl"}


def test_files_arrive_under_their_paths_and_a_second_run_asks_for_nothing(site, tmp_path):
    path = registry(tmp_path, row(site), row(site, "wood/elm tree.obj"))
    first = download(path, tmp_path / "out")
    assert (tmp_path / "out/oak.zip").read_bytes() == OAK and (tmp_path / "out/wood/elm tree.obj").read_bytes() == ELM
    assert [(each["status"], each["licence"], each["verified"]) for each in first] == [("ok", "CC-BY-4.0", True)] * 2
    asked = len(site.asked)
    assert [each["status"] for each in download(path, tmp_path / "out")] == ["skipped"] * 2
    assert len(site.asked) == asked == 2


def test_a_transfer_that_breaks_off_goes_on_where_it_stopped_within_a_run(site, tmp_path):
    site.cut_at = [1000, 2000]
    [item] = read_registry(registry(tmp_path, row(site)))
    found = fetch(item, tmp_path / "oak.zip", None, Policy(retries=2, wait_s=0.01), threading.Event())
    assert (tmp_path / "oak.zip").read_bytes() == OAK and found == sha256(OAK)
    assert [asked for _, asked in site.asked] == [None, "bytes=1000-", "bytes=3000-"]


def test_a_transfer_that_breaks_off_goes_on_in_a_further_run_and_has_no_name_until_then(site, tmp_path):
    site.cut_at = [1000]
    path = registry(tmp_path, row(site))
    with pytest.raises(BadData, match=r"ended early.* 1,000 of 10,240 bytes have come, a further run goes on"):
        download(path, tmp_path / "out")
    assert left(tmp_path / "out") == {"oak.zip.part"}
    download(path, tmp_path / "out")
    assert site.asked[-1] == ("oak.zip", "bytes=1000-")
    assert left(tmp_path / "out") == {"oak.zip"} and (tmp_path / "out/oak.zip").read_bytes() == OAK


def test_a_server_that_knows_no_ranges_sends_the_whole_file_again(site, tmp_path):
    site.cut_at, site.ranges = [1000], False
    [item] = read_registry(registry(tmp_path, row(site)))
    fetch(item, tmp_path / "oak.zip", None, Policy(retries=1, wait_s=0.01), threading.Event())
    assert (tmp_path / "oak.zip").read_bytes() == OAK


def test_a_part_of_something_else_is_thrown_away_and_fetched_anew(site, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/oak.zip.part").write_bytes(b"something else")
    download(registry(tmp_path, row(site)), tmp_path / "out")
    assert (tmp_path / "out/oak.zip").read_bytes() == OAK
    assert [asked for _, asked in site.asked] == ["bytes=14-", None]


def test_a_wrong_hash_stops_that_item_keeps_nothing_of_it_and_the_rest_goes_on(site, tmp_path):
    path = registry(tmp_path, row(site, sha256="0" * 64), row(site, "wood/elm tree.obj"))
    with pytest.raises(UserError, match=r"1 of 2 inputs failed .*the registry says 0000"):
        download(path, tmp_path / "out")
    assert left(tmp_path / "out") == {"wood/elm tree.obj"}
    assert [each["status"] for each in results(tmp_path / "out")] == ["failed", "ok"]


@pytest.mark.parametrize(("size", "message"), [(5, "has 10,240 bytes, the registry says 5"), (99999, "says 99,999")])
def test_another_size_than_the_registrys_is_refused_before_the_file_is_fetched(site, tmp_path, size, message):
    with pytest.raises(BadData, match=message):
        download(registry(tmp_path, row(site, size=size)), tmp_path / "out")
    assert not left(tmp_path / "out")


def test_what_is_not_there_is_named_with_its_address_and_not_asked_for_twice(site, tmp_path):
    with pytest.raises(BadData, match=r"/gone.zip: HTTP 404 Not Found; check the registry"):
        download(registry(tmp_path, row(site, url=f"{site.url}/gone.zip")), tmp_path / "out", retries=3)
    assert len(site.asked) == 1


def test_a_busy_server_is_asked_again(site, tmp_path):
    site.codes = [503]
    [item] = read_registry(registry(tmp_path, row(site)))
    fetch(item, tmp_path / "oak.zip", None, Policy(retries=1, wait_s=0.01), threading.Event())
    assert len(site.asked) == 2


def test_no_server_at_all_is_one_line(tmp_path):
    item = {"url": "http://127.0.0.1:9/oak.zip", "sha256": sha256(OAK)}
    with pytest.raises(BadData, match=r"http://127.0.0.1:9/oak.zip: no answer .*0 bytes have come"):
        download(registry(tmp_path, item), tmp_path / "out")


def test_a_file_of_unknown_hash_is_fetched_only_when_allowed_and_its_hash_is_recorded(site, tmp_path):
    path = registry(tmp_path, row(site, sha256=None, size=None))
    with pytest.raises(BadData, match="allow_unverified=true"):
        download(path, tmp_path / "out")
    [record] = download(path, tmp_path / "out", allow_unverified=True)
    assert (record["sha256"], record["verified"]) == (sha256(OAK), False)


def test_a_file_with_another_content_is_refused_and_with_overwrite_replaced(site, tmp_path):
    path = registry(tmp_path, row(site))
    (tmp_path / "out").mkdir()
    (tmp_path / "out/oak.zip").write_bytes(b"mine")
    with pytest.raises(BadData, match=r"another content .*overwrite=true"):
        download(path, tmp_path / "out")
    assert (tmp_path / "out/oak.zip").read_bytes() == b"mine"
    download(path, tmp_path / "out", overwrite=True)
    assert (tmp_path / "out/oak.zip").read_bytes() == OAK


def test_a_mirror_is_a_folder_or_an_address_and_the_registrys_urls_are_not_asked(site, tmp_path):
    (tmp_path / "mirror/wood").mkdir(parents=True)
    (tmp_path / "mirror/wood/elm tree.obj").write_bytes(ELM)
    elsewhere = row(site, "wood/elm tree.obj", url="http://127.0.0.1:9/elm.obj")
    path = registry(tmp_path, elsewhere)
    download(path, tmp_path / "a", mirror=str(tmp_path / "mirror"))
    assert not site.asked
    download(path, tmp_path / "b", mirror=site.url)
    assert (tmp_path / "a/wood/elm tree.obj").read_bytes() == (tmp_path / "b/wood/elm tree.obj").read_bytes() == ELM
    with pytest.raises(BadData, match="the mirror lacks it"):
        download(registry(tmp_path, row(site)), tmp_path / "c", mirror=str(tmp_path / "mirror"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"url": "file:///etc/passwd"}, "item 0: url .* is no http"),
        ({"path": "../oak.zip"}, "item 0: path '../oak.zip', which leads out of the folder"),
        ({"path": "/oak.zip"}, "leads out of the folder"),
        ({"sha256": "abc"}, "is not 64 hexadecimal digits"),
        ({"size": -1}, "is no number of bytes"),
        ({"sha265": None}, "unknown key 'sha265'; the nearest known key is 'sha256'"),
        ({"licence": " "}, "no licence"),
    ],
)
def test_a_wrong_registry_is_refused_with_the_place(site, tmp_path, change, message):
    with pytest.raises(BadData, match=message):
        read_registry(registry(tmp_path, row(site, **change)))


def test_two_items_may_not_share_a_path_nor_a_registry_lack_its_items(site, tmp_path):
    with pytest.raises(BadData, match=r"items 0 and 1 have the path .OAK.zip."):
        read_registry(registry(tmp_path, row(site), row(site, path="OAK.zip")))
    with pytest.raises(BadData, match="lists no files"):
        read_registry(registry(tmp_path))
    with pytest.raises(BadData, match="is no json"):
        (tmp_path / "r.json").write_text("{", "utf-8")
        read_registry(tmp_path / "r.json")


def test_the_registries_of_this_project_are_readable():
    found = sorted((ROOT / "data_tools/registries").glob("*.yaml"))
    assert found and all(read_registry(path) for path in found)


def test_a_measured_folder_makes_a_registry_that_downloads_it(site, tmp_path):
    (tmp_path / "mirror/wood").mkdir(parents=True)
    for name, content in site.files.items():
        (tmp_path / "mirror" / name).write_bytes(content)
    make_registry([f"source={tmp_path}/mirror", f"base_url={site.url}/", "licence=CC BY 4.0", f"out={tmp_path}/made"])
    items = read_registry(tmp_path / "made/registry.json")
    assert [(item.path, item.sha256, item.licence) for item in items] == [
        ("oak.zip", sha256(OAK), "CC BY 4.0"),
        ("wood/elm tree.obj", sha256(ELM), "CC BY 4.0"),
    ]
    download(tmp_path / "made/registry.json", tmp_path / "out")
    assert (tmp_path / "out/wood/elm tree.obj").read_bytes() == ELM


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(*members: tarfile.TarInfo, contents: dict[str, bytes] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for info in members:
            archive.addfile(info)
        for name, content in (contents or {}).items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def link(kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo("inside")
    info.type, info.linkname = kind, "../outside"
    return info


@pytest.mark.parametrize("name", ["chair.zip", "chair.tar.gz"])
def test_an_archive_is_unpacked_beside_itself_once(site, tmp_path, name):
    members = {"chair/model.obj": b"v 0 0 0\n", "chair/ö.txt": b"x"}
    site.files[name] = zipped(members) if name.endswith("zip") else tarred(contents=members)
    path = registry(tmp_path, row(site, name))
    [record] = download(path, tmp_path / "out", unpack=True)
    assert record["folder"] == "chair"
    assert {each: (tmp_path / "out/chair" / each).read_bytes() for each in members} == members
    assert [each["status"] for each in download(path, tmp_path / "out", unpack=True)] == ["skipped"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.zip", zipped({"good.txt": b"x", "../evil.txt": b"x"}), "has the member '../evil.txt', which leads out"),
        ("b.zip", zipped({"/etc/evil.txt": b"x"}), "leads out of the folder"),
        (
            "c.tar.gz",
            tarred(contents={"good.txt": b"x", "../evil.txt": b"x"}),
            "has the member '../evil.txt', which leads out",
        ),
        ("d.tar.gz", tarred(link(tarfile.SYMTYPE)), "a link or a device"),
        ("e.tar.gz", tarred(link(tarfile.LNKTYPE)), "a link or a device"),
        ("f.tar.gz", tarred(link(tarfile.CHRTYPE)), "a link or a device"),
        ("g.zip", zipped({"zeros": bytes(2_000_000)}), "unpacks to 0.0 GB or more, more than max_unpacked_gb=0.001"),
        ("h.zip", zipped({"x": b"x" * 1000})[:60], "is broken"),
        ("i.tar.gz", tarred(contents={"x": bytes(range(256)) * 99})[:90], "is broken"),
    ],
)
def test_an_unsafe_or_broken_archive_unpacks_nothing(tmp_path, name, content, message):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(content)
    with pytest.raises(BadData, match=message):
        unpack(tmp_path / "in" / name, tmp_path / "in/folder", sha256(content), 1_000_000)
    assert {path.name for path in tmp_path.rglob("*")} == {"in", name}


def test_a_folder_that_is_there_already_is_not_mixed_with_an_archives(tmp_path):
    (tmp_path / "chair").mkdir()
    (tmp_path / "chair.zip").write_bytes(zipped({"x": b"x"}))
    with pytest.raises(BadData, match=r"not from this chair.zip"):
        unpack(tmp_path / "chair.zip", tmp_path / "chair", "0" * 64, 1000)


def test_the_program_ends_with_code_2_and_one_line(site, tmp_path, capsys):
    arguments = [f"registry={registry(tmp_path, row(site, sha256='0' * 64))}", f"out={tmp_path}/out", "retries=0"]
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2 and capsys.readouterr().err.count("error: ") == 1
    with pytest.raises(SystemExit):
        main([*arguments, "workers=0"])
    assert "workers=0: expected a whole number" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*arguments, f"mirror={tmp_path}/nowhere"])
    assert "no such folder" in capsys.readouterr().err


def test_a_limit_for_archives_that_stay_packed_is_refused():
    settings = {"workers": 1, "retries": 0, "timeout_s": 1.0, "unpack": True, "max_unpacked_gb": 1}
    check(settings)
    check({**settings, "unpack": False, "max_unpacked_gb": None})
    with pytest.raises(BadConfig, match="max_unpacked_gb=1: it is read with unpack=true only"):
        check({**settings, "unpack": False})
