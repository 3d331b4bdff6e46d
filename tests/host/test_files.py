import os
import threading

import pytest

from tunrex_jax_monitor.host.files import is_stream, write_atomically


def test_a_file_is_replaced_as_a_whole(tmp_path):
    target = tmp_path / "deep" / "page.html"
    write_atomically(target, "one")
    with target.open() as before:
        write_atomically(target, "two")
        assert before.read() == "one"
    assert target.read_text() == "two"
    assert os.listdir(target.parent) == ["page.html"]


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    (tmp_path / "page.html").write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(tmp_path / "page.html", "half \ud800")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("page.html", "old")]


def test_permissions_are_those_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_text("")
    write_atomically(tmp_path / "ours", "")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    write_atomically(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_a_pipe_is_written_to_and_never_replaced(tmp_path):
    """As root a rename onto /dev/null would take it away from the whole machine."""
    os.mkfifo(tmp_path / "pipe")
    got = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_text()))
    reader.start()
    write_atomically(tmp_path / "pipe", "through")
    reader.join()
    assert got == ["through"]
    assert (tmp_path / "pipe").is_fifo()
    assert os.listdir(tmp_path) == ["pipe"]


def test_a_stream_is_what_is_neither_file_nor_directory(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("")
    streams = [is_stream(tmp_path / name) for name in ("pipe", "file", "missing", ".")]
    assert streams == [True, False, False, False]
    assert is_stream(type(tmp_path)(os.devnull))
