"""Downloads, against a server that breaks off, changes its mind, or sends the wrong thing."""

from pathlib import Path

import numpy as np
import pytest

from quickstudy.datasets import files
from quickstudy.datasets.files import Remote, fetch, load_npz, load_tree, replacing
from tests.datasets.conftest import CONTENT, Server


def leftovers(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir() if not p.name.endswith(".lock")}


def test_a_file_comes_once(server: Server, tmp_path: Path):
    path = fetch(server.remote(), tmp_path / "new")
    assert path == tmp_path / "new" / "data.zip"
    assert path.read_bytes() == CONTENT
    fetch(server.remote(), tmp_path / "new")
    assert server.starts == [0]
    assert leftovers(tmp_path / "new") == {"data.zip"}


@pytest.mark.parametrize("resumes", [True, False])
def test_a_download_that_breaks_off_goes_on(server: Server, tmp_path: Path, resumes: bool):
    server.cuts, server.resumes = [300_000, 100_000], resumes
    assert fetch(server.remote(), tmp_path).read_bytes() == CONTENT
    assert server.starts == [0, 300_000, 400_000 if resumes else 100_000]


def test_a_later_process_goes_on(server: Server, tmp_path: Path):
    server.cuts = [50_000] + [0] * (files.ATTEMPTS - 1)
    with pytest.raises(ConnectionError, match="50,000 of 600,000 bytes"):
        fetch(server.remote(), tmp_path)
    assert fetch(server.remote(), tmp_path).read_bytes() == CONTENT
    assert server.starts[-1] == 50_000


def test_a_part_that_is_whole_needs_no_more(server: Server, tmp_path: Path):
    (tmp_path / ".data.zip.part").write_bytes(CONTENT)
    assert fetch(server.remote(), tmp_path).read_bytes() == CONTENT


def test_a_wrong_part_is_thrown_away(server: Server, tmp_path: Path):
    (tmp_path / ".data.zip.part").write_bytes(b"something else")
    assert fetch(server.remote(), tmp_path).read_bytes() == CONTENT
    assert server.starts == [14, 0]


def test_what_is_not_the_published_file_is_not_kept(server: Server, tmp_path: Path):
    remote = server.remote(b"another")
    with pytest.raises(ValueError, match="sha256 differs") as error:
        fetch(remote, tmp_path)
    assert f"Download {remote.url} by hand and put it at {tmp_path / 'data.zip'}" in str(
        error.value
    )
    assert leftovers(tmp_path) == set()
    assert server.starts == [0]


def test_a_refusal_is_not_repeated_and_says_what_to_do(server: Server, tmp_path: Path):
    server.status = 404
    with pytest.raises(ConnectionError, match=r"404.*Download http.* by hand and put it at"):
        fetch(server.remote(), tmp_path)
    assert server.starts == [0]
    assert leftovers(tmp_path) == set()


def test_a_failing_server_is_asked_again(server: Server, tmp_path: Path):
    server.status = 503
    with pytest.raises(ConnectionError, match="503"):
        fetch(server.remote(), tmp_path)
    assert len(server.starts) == files.ATTEMPTS


def test_no_server(tmp_path: Path):
    with pytest.raises(ConnectionError, match=r"refused.*by hand"):
        fetch(Remote("http://127.0.0.1:9/data.zip", ""), tmp_path)


def test_nowhere_to_write(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"Cannot write in .*: make room there, or set XDG_CACHE"):
        fetch(Remote("http://127.0.0.1:9/data.zip", ""), tmp_path / "file" / "folder")


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path):
    (tmp_path / "name").write_text("old")
    with pytest.raises(OSError, match="No space left"), replacing(tmp_path / "name") as file:
        file.write(b"half")
        raise OSError(28, "No space left on device")
    assert (tmp_path / "name").read_text() == "old"
    assert leftovers(tmp_path) == {"name"}


@pytest.mark.parametrize("what", ["truncated", "tampered", "text", "pickle"])
def test_a_damaged_npz_is_named(tmp_path: Path, what: str):
    path = tmp_path / "data.npz"
    np.savez(path, x=np.arange(5000))
    good = path.read_bytes()
    if what == "truncated":
        path.write_bytes(good[:-3000])
    elif what == "tampered":
        path.write_bytes(good[:9000] + b"\xff" + good[9001:])
    elif what == "text":
        path.write_text("<html>Not found</html>")
    else:
        np.savez(path, x=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match=r"data.npz is damaged .*delete it, and get it again"):
        load_npz(path)


def test_a_damaged_zip_is_named(tmp_path: Path):
    (tmp_path / "data.zip").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ValueError, match=r"data.zip is damaged"):
        load_tree(tmp_path / "data.zip")
