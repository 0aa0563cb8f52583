# SPDX-License-Identifier: Apache-2.0
"""Files and folders that are written beside their place and then moved there: whole at every moment, or not there."""

import contextlib
import ctypes
import errno
import fcntl
import glob
import os
import pathlib
import shutil
import tempfile

_SUFFIX = ".part"  # of folders in which something is being written
_ATTEMPTS = 1000
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


@contextlib.contextmanager
def replacing(path, is_earlier=None):
    """Yields a path to write to. What is written there takes the place of `path` at the end of the `with` block.

    A process that is killed in the block leaves what was at `path` whole; the next one to write there deletes what the
    killed one wrote. An error in the block does the same. If several processes write to the same path at once, the
    last one wins.

    Args:
        path: the file or folder to write.
        is_earlier: None if a file is written, which may replace a file. For a folder a function that tells whether the
            folder at `path` may be replaced, given as a `pathlib.Path`. It is asked only if there is something in it.

    Yields:
        A `pathlib.Path` at which nothing is. Its name is that of `path`.

    Raises:
        FileExistsError: if what is at `path` must not be replaced. Nothing has been written then.
    """
    path = pathlib.Path(os.path.realpath(path))  # that of now, if the block changes the folder; not a link to it
    _check_place(path, is_earlier)
    path.parent.mkdir(parents=True, exist_ok=True)
    _delete_leftovers(path)
    with _temporary_folder(path) as folder:
        new = pathlib.Path(folder) / path.name
        yield new
        _synchronize(new)
        _check_place(path, is_earlier)
        _move(new, path)


def _check_place(path, is_earlier):
    expected = None
    if path.is_dir() and path.samefile(os.curdir):
        raise FileExistsError(
            f"`path` must not be the current folder, which would be replaced. Received: {str(path)!r}"
        )
    if is_earlier is None:
        if path.is_dir():
            expected = "a file"
    elif path.exists() and not (path.is_dir() and (not any(path.iterdir()) or is_earlier(path))):
        expected = "a new or empty folder, or an earlier export"
    if expected is not None:
        kind = "a folder" if path.is_dir() else "a file"
        raise FileExistsError(f"`path` must be {expected}. Received: {str(path)!r}, which is {kind}")


@contextlib.contextmanager
def _temporary_folder(path):
    """Yields a new folder beside `path` that this process has locked."""
    with contextlib.ExitStack() as stack:
        for _ in range(_ATTEMPTS):
            folder = tempfile.TemporaryDirectory(prefix=f".{path.name}.", suffix=_SUFFIX, dir=path.parent)
            stack.enter_context(folder)
            try:
                stack.enter_context(_lock(folder.name))
            except OSError:
                continue  # in the moment before it was locked, another process took it for a leftover
            if pathlib.Path(folder.name).is_dir():
                break
        else:
            raise OSError(errno.EAGAIN, "other processes delete each new folder", str(path.parent))
        yield folder.name


def _delete_leftovers(path):
    """Deletes what processes wrote that were killed. Those that still run hold a lock."""
    for folder in path.parent.glob(f".{glob.escape(path.name)}.*{_SUFFIX}"):
        with contextlib.suppress(OSError), _lock(folder):
            shutil.rmtree(folder)


@contextlib.contextmanager
def _lock(folder):
    """Holds the lock of a folder, which ends with the process; raises an OSError if another process holds it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _move(new, path):
    """Moves a file or folder to `path`, in one step, and what was there to the place of the new one."""
    if not path.is_dir() or not any(path.iterdir()):
        try:
            new.replace(path)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise  # otherwise another process has moved its folder there in this moment
    if not _exchange(new, path):
        # Two steps: a process that is killed between them leaves both folders, but none of them at `path`.
        old = new.with_name(f"{new.name}.old")
        path.rename(old)
        new.rename(path)


def _exchange(first, second):
    """Exchanges two folders in one step, and returns whether that was possible. Python has no function for it."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):  # not Linux, or an old C library
        return False
    arguments = (_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), ctypes.c_uint(_RENAME_EXCHANGE))
    if rename(*arguments) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):  # the file system cannot do it
        return False
    raise OSError(code, os.strerror(code), str(second))


def _synchronize(path):
    """Has the disk store what was written before it gets its name, so that no half of it remains after a power cut."""
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
