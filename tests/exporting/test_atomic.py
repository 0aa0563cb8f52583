# SPDX-License-Identifier: Apache-2.0
"""What is at a path is whole at every moment, also if the process that writes there is killed."""

import itertools
import signal
import subprocess
import sys
import threading
import time

import pytest

from keras_seq.exporting import atomic
from keras_seq.exporting.atomic import replacing


def always(folder):
    return True


def write_folder(path, text):
    with replacing(path, always) as new:
        new.mkdir()
        for name in ("first", "second"):
            (new / name).write_text(text)


def texts(path):
    return {file.name: file.read_text() for file in path.iterdir()}


def test_a_folder_is_replaced_as_a_whole_and_nothing_is_left_beside_it(tmp_path):
    for text in ("old", "new"):
        write_folder(tmp_path / "deep" / "export", text)
    assert texts(tmp_path / "deep" / "export") == {"first": "new", "second": "new"}
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["export"]


def test_a_file_and_an_empty_folder_are_replaced(tmp_path):
    (tmp_path / "empty").mkdir()
    write_folder(tmp_path / "empty", "new")
    assert texts(tmp_path / "empty") == {"first": "new", "second": "new"}
    for text in ("old", "new"):
        with replacing(tmp_path / "file") as new:
            new.write_text(text)
    assert (tmp_path / "file").read_text() == "new"


def test_an_error_in_the_block_changes_nothing(tmp_path):
    write_folder(tmp_path / "export", "old")
    with pytest.raises(KeyError), replacing(tmp_path / "export", always) as new:
        new.mkdir()
        raise KeyError
    assert texts(tmp_path / "export") == {"first": "old", "second": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_where_a_link_leads_is_replaced_not_the_link(tmp_path):
    write_folder(tmp_path / "version_1", "old")
    (tmp_path / "current").symlink_to("version_1")
    write_folder(tmp_path / "current", "new")
    assert (tmp_path / "current").is_symlink()
    assert texts(tmp_path / "version_1")["first"] == "new"


def test_what_is_no_export_is_kept(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine").write_text("keep")
    (tmp_path / "file").write_text("keep")
    for path, is_earlier, message in (
        ("notes", lambda folder: False, "earlier export. Received: .*notes', which is a folder"),
        ("notes", None, "a file. Received: .*notes', which is a folder"),
        ("file", always, "empty folder, .*file', which is a file"),
    ):
        with pytest.raises(FileExistsError, match=message), replacing(tmp_path / path, is_earlier):
            pytest.fail("the block ran")
    assert texts(tmp_path / "notes") == {"mine": "keep"}
    assert (tmp_path / "file").read_text() == "keep"


def test_a_file_system_that_cannot_exchange_folders(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "_RENAME_EXCHANGE", 1 << 20)  # the system answers that it does not know this
    for text in ("old", "new"):
        write_folder(tmp_path / "export", text)
    assert texts(tmp_path / "export") == {"first": "new", "second": "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_threads_that_write_to_the_same_path_at_once(tmp_path):
    """The last one wins, no one gets an error, and nothing is left. Each path is new to all of them."""
    errors = []

    def write(text):
        try:
            for number in range(20):
                write_folder(tmp_path / str(number), text)
                with replacing(tmp_path / "file") as new:
                    new.write_text(text)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(text,)) for text in "abcdef"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert {path.name for path in tmp_path.iterdir()} == {"file", *map(str, range(20))}
    assert all(len(set(texts(tmp_path / str(number)).values())) == 1 for number in range(20))


def test_the_current_folder_is_not_replaced(tmp_path, monkeypatch):
    """It would be a folder that is nowhere, in which no relative path leads to anything."""
    monkeypatch.chdir(tmp_path)
    for path in (".", "", tmp_path):
        with pytest.raises(FileExistsError, match="must not be the current folder"), replacing(path, always):
            pytest.fail("the block ran")


WRITER = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("atomic", sys.argv[2])  # without TensorFlow, in little time
atomic = importlib.util.module_from_spec(spec)
spec.loader.exec_module(atomic)
number = 0
while True:
    number += 1
    with atomic.replacing(sys.argv[1], lambda folder: True) as new:
        new.mkdir()
        for name in range(20):
            (new / str(name)).write_text(str(number))
    print(number, flush=True)
"""


@pytest.mark.slow
def test_a_killed_process_leaves_one_whole_folder_and_the_next_one_cleans_up(tmp_path):
    """Killed at 40 moments. Each time all files at the path are of one version."""
    path, delays = tmp_path / "out" / "export", itertools.cycle([0.0, 0.001, 0.003, 0.007, 0.013])
    for delay, _ in zip(delays, range(40), strict=False):
        process = subprocess.Popen([sys.executable, "-c", WRITER, path, atomic.__file__], stdout=subprocess.PIPE)
        process.stdout.readline()  # it has written once
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        versions = texts(path)
        assert len(versions) == 20
        assert len(set(versions.values())) == 1
    write_folder(path, "last")
    assert [other.name for other in path.parent.iterdir()] == ["export"]
