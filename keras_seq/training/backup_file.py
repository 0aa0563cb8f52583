# SPDX-License-Identifier: Apache-2.0
"""Files of nested states, which are either whole or recognized as broken."""

import hashlib
import io
import json
import os

import numpy as np

_MAGIC = b"keras_seq backup 1\n"
_DIGEST_SIZE = hashlib.sha256().digest_size
_ARRAY = "__array__"


class BrokenFileError(ValueError):
    """A file that `write_state` did not write, or that is damaged."""


def write_state(path, state, keep_previous=False):
    """Writes a nested state to a file, at once: the file at `path` is the old or the new one at any moment.

    Args:
        path: `pathlib.Path`, in a folder that exists.
        state: nested dicts with string keys and lists of arrays, numbers, booleans, strings and None; see
            `check_state`.
        keep_previous: whether to keep the file before as `previous_path(path)`.
    """
    content = _encode_file(state)
    new, previous = _temporary_path(path), previous_path(path)
    try:
        with new.open("wb") as file:
            file.write(_MAGIC + hashlib.sha256(content).digest())
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if keep_previous and path.exists():
            link = _temporary_path(previous)
            link.unlink(missing_ok=True)  # of a process that was killed
            link.hardlink_to(path)
            link.replace(previous)
        new.replace(path)
    finally:  # after Ctrl-C too
        new.unlink(missing_ok=True)
    _sync_folder(path.parent)


def check_state(state, label):
    """Raises a ValueError unless `write_state` can write a state; `label` says what the state is."""
    if isinstance(state, dict):
        for key, item in state.items():
            if type(key) is not str or key == _ARRAY:
                raise ValueError(f"{label} must have strings other than {_ARRAY!r} as keys. Received: {key!r}")
            check_state(item, f"{label}[{key!r}]")
    elif isinstance(state, (list, tuple)):
        for i, item in enumerate(state):
            check_state(item, f"{label}[{i}]")
    elif not _is_plain(state):
        dtype = np.asarray(state).dtype
        if not np.issubdtype(dtype, np.number) and dtype.name not in ("bool", "bfloat16"):
            raise ValueError(
                f"{label} must be a dict, list, array of numbers, number, string or None. Received: {state!r}"
            )


def previous_path(path):
    """Returns the path of the file before the last."""
    return path.with_name(f"{path.name}.previous")


def delete_state(path):
    """Deletes all files of `write_state`, the last whole one last."""
    for old in (_temporary_path(previous_path(path)), _temporary_path(path), previous_path(path), path):
        old.unlink(missing_ok=True)


def read_state(path):
    """Returns the state that `write_state` wrote, or raises a `BrokenFileError`."""
    with path.open("rb") as file:
        header, content = file.read(len(_MAGIC) + _DIGEST_SIZE), file.read()
    if not header.startswith(_MAGIC):
        raise BrokenFileError("it does not begin as a backup of this version of keras_seq does")
    if header != _MAGIC + hashlib.sha256(content).digest():
        raise BrokenFileError("its checksum is wrong: the file is damaged or cut off")
    return _decode_file(content)


def _is_plain(value):
    """Whether a value is written as it is, not as an array."""
    return value is None or (isinstance(value, (bool, int, float, str)) and not isinstance(value, np.number))


def _temporary_path(path):
    return path.with_name(f"{path.name}.temporary")


def _sync_folder(folder):
    """Has the disk store the new name of a file, where the system can."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _encode_file(state):
    arrays = {}

    def encode(value):
        if isinstance(value, dict):
            return {key: encode(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [encode(item) for item in value]
        if _is_plain(value):
            return value
        array = np.asarray(value)
        name = str(len(arrays))
        # Bytes, because NumPy does not write bfloat16.
        arrays[name] = np.frombuffer(array.tobytes(), "uint8")
        return {_ARRAY: name, "dtype": array.dtype.name, "shape": list(array.shape)}

    text = json.dumps(encode(state))
    buffer = io.BytesIO()
    np.savez(buffer, state=np.frombuffer(text.encode(), "uint8"), **arrays)
    return buffer.getbuffer()


def _decode_file(content):
    with np.load(io.BytesIO(content)) as arrays:
        state = json.loads(arrays["state"].tobytes())

        def decode(value):
            if isinstance(value, list):
                return [decode(item) for item in value]
            if not isinstance(value, dict):
                return value
            if _ARRAY not in value:
                return {key: decode(item) for key, item in value.items()}
            array = np.frombuffer(arrays[value[_ARRAY]].tobytes(), np.dtype(value["dtype"]))
            return array.reshape(value["shape"]).copy()[()]  # a scalar if it has no axes

        return decode(state)
