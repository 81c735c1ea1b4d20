import errno
import fcntl
import os
import resource
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from synth3d.errors import InputError
from synth3d.files import (
    atomic_file,
    atomic_path,
    claim,
    copy,
    is_claimed,
    link_or_copy,
    lock,
    read_json,
    read_object,
    sha256,
    sweep,
    write_json,
    write_text,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_write_that_fails_leaves_the_old_file_and_no_trace(tmp_path):
    path = tmp_path / "deep" / "case.nii.gz"
    with atomic_path(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.name.endswith(path.name)  # with all suffixes
        temporary.write_text("old")
    with pytest.raises(FileNotFoundError), atomic_path(path) as temporary:
        (temporary.write_text("half"), (path.parent / "gone").unlink())
    assert path.read_text() == "old"
    assert names(path.parent) == ["case.nii.gz"]


def test_a_file_where_a_folder_should_be_is_told_in_one_sentence(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(InputError, match="cannot create the folder"):
        write_text(tmp_path / "out" / "x.txt", "x")


def test_a_full_disk_is_told_and_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.txt"
    write_text(path, "old")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["x.txt"]


def test_json_round_trip_and_refusal_of_nan(tmp_path):
    write_json(tmp_path / "x.json", {"a": [1, 2.5, "ü"]})
    assert read_json(tmp_path / "x.json") == {"a": [1, 2.5, "ü"]}
    with pytest.raises(ValueError, match="Out of range"):
        write_json(tmp_path / "x.json", float("nan"))
    assert read_json(tmp_path / "x.json")["a"][0] == 1
    for text in ("", "{", "nonsense"):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(InputError, match="x.json is not valid JSON"):
            read_json(tmp_path / "x.json")


def test_our_own_json_of_another_kind_is_damaged_and_a_key_that_is_gone_is_named(tmp_path):
    for value in ([], "x", 1, True, None):
        write_json(tmp_path / "x.json", value)
        with pytest.raises(InputError, match="x.json is damaged: it holds no JSON object"):
            read_object(tmp_path / "x.json")
    write_json(tmp_path / "x.json", {"a": 1})
    assert read_object(tmp_path / "x.json", "a") == {"a": 1}
    with pytest.raises(InputError, match="x.json is damaged: it has no b, c"):
        read_object(tmp_path / "x.json", "a", "b", "c")


def test_a_link_can_be_repeated_and_where_there_are_none_a_copy_is_made(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(18, "Invalid cross-device link")

    source, target = tmp_path / "a", tmp_path / "out" / "b"
    source.write_text("volume")
    for copied in (False, False, True):
        if copied:
            monkeypatch.setattr(os, "link", refuse)
        link_or_copy(source, target)
        assert target.samefile(source) != copied
        assert sha256(target) == sha256(source)
        assert names(target.parent) == ["b"]


def test_a_copy_is_a_file_of_its_own_and_replaces_what_is_there(tmp_path):
    source, target = tmp_path / "a", tmp_path / "out" / "b"
    source.write_bytes(os.urandom(3 << 20))
    for _ in range(2):
        copy(source, target)
        assert sha256(target) == sha256(source)
        assert not target.samefile(source)
        assert names(target.parent) == ["b"]
        target.unlink()
        target.symlink_to(source)  # a link in the way is replaced, not written through
    with pytest.raises(InputError, match="gone"):
        copy(tmp_path / "gone", target)


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_locks_and_writes_go_through_no_link_and_wait_for_no_pipe(tmp_path, kind):
    mine, folder = tmp_path / "mine", tmp_path / "out"
    folder.mkdir()
    mine.write_text("precious")
    for name in (".lock", f".partial-{os.getpid()}-x.txt", "x.txt"):
        path = folder / name
        path.symlink_to(mine) if kind == "link" else os.mkfifo(path)
    with pytest.raises(InputError, match="is a link or a pipe"), lock(folder):
        pass
    with pytest.raises(InputError, match="is a link or a pipe"), claim(folder / ".lock", wait=True):
        pass
    write_text(folder / "x.txt", "new")
    assert mine.read_text() == "precious"
    assert (folder / "x.txt").read_text() == "new"
    assert not (folder / "x.txt").is_symlink()


def test_a_lock_file_that_is_there_keeps_what_it_holds(tmp_path):
    (tmp_path / ".lock").write_text("somebody's")
    with lock(tmp_path):
        pass
    assert (tmp_path / ".lock").read_text() == "somebody's"


def test_a_pipe_or_an_endless_device_is_no_file_to_read(tmp_path):
    os.mkfifo(tmp_path / "x.json")
    (tmp_path / "y.json").symlink_to("/dev/zero")
    for name in ("x.json", "y.json"):
        with pytest.raises(InputError, match="no file"):
            read_json(tmp_path / name)
        with pytest.raises(InputError, match="no file"):
            sha256(tmp_path / name)


def test_what_is_no_utf_8_is_written_all_the_same(tmp_path):
    write_text(tmp_path / "x.md", "case \udcff of \ud800")
    assert (tmp_path / "x.md").read_bytes() == rb"case \udcff of \ud800"
    write_json(tmp_path / "x.json", {"folder": "/data/\udcff"})  # as the system hands it on
    assert read_json(tmp_path / "x.json") == {"folder": "/data/\udcff"}
    for text in (r'{"a": ["\ud800"]}', r'{"\u0000": 1}', r'"a\u0000"'):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(InputError, match="NUL or half a character"):
            read_json(tmp_path / "x.json")


def test_a_library_that_hides_a_full_disk_does_not_hide_it_here(tmp_path):

    def hiding(file, limit):
        for _ in range(limit):
            try:
                file.write(bytes(1000))
            except OSError as error:
                raise RuntimeError("PytorchStreamWriter failed") from error

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(InputError, match="too large"), atomic_file(tmp_path / "x") as file:
            hiding(file, 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(tmp_path) == []


def test_a_folder_is_shared_by_those_who_share_and_owned_by_one_alone(tmp_path):
    refused = pytest.raises(InputError, match="another process")
    with lock(tmp_path, shared=True), lock(tmp_path, shared=True), refused, lock(tmp_path):
        pass
    for shared in (True, False):
        with lock(tmp_path), refused, lock(tmp_path, shared=shared):
            pass


def test_a_claim_is_one_holders_and_leaves_nothing_behind(tmp_path):
    path = tmp_path / "locks" / "a"
    for _ in range(2):
        with claim(path) as ours, claim(path) as again:
            assert (ours, again) == (True, False)
        assert not path.exists()


def test_whoever_waits_for_a_claim_gets_it_alone(tmp_path):
    """Eight threads count up a number that is read and written apart; no count is lost."""
    path, number = tmp_path / "lock", [0]

    def count():
        for _ in range(20):
            with claim(path, wait=True) as ours:
                assert ours
                before = number[0]
                time.sleep(0.0002)
                number[0] = before + 1

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(count) for _ in range(8)]:
            future.result()
    assert number == [160]


def test_a_file_system_without_locks_is_not_taken_for_another_process(tmp_path, monkeypatch):
    (tmp_path / "case").touch()
    assert not is_claimed(tmp_path / "case")
    assert not is_claimed(tmp_path / "none")

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    ways = [lambda: lock(tmp_path), lambda: claim(tmp_path / "case")]
    for way in ways:
        with pytest.raises(InputError, match="refuses locks"), way():
            pass
    with pytest.raises(InputError, match="refuses locks"):
        is_claimed(tmp_path / "case")


def test_leftovers_are_swept_by_name_or_all_together(tmp_path):
    for name in (".partial-1-a.json", ".partial-2-x-a.json", ".partial-3-b.json", "a.json"):
        (tmp_path / name).touch()
    sweep(tmp_path, {"a.json"})
    assert names(tmp_path) == [".partial-2-x-a.json", ".partial-3-b.json", "a.json"]
    sweep(tmp_path)
    assert names(tmp_path) == ["a.json"]
