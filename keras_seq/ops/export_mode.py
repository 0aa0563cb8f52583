# SPDX-License-Identifier: Apache-2.0
"""Whether what is traced belongs to an export."""

import contextlib
import contextvars
from collections.abc import Iterator

from keras_seq._private_api import traces_export

# Of an export: whether it is portable, or None if keras_seq does not write it.
_is_portable = contextvars.ContextVar("keras_seq_is_portable", default=None)


@contextlib.contextmanager
def exporting(*, portable: bool) -> Iterator[None]:
    """Says how layers run that are traced for an export within a `with` block.

    Args:
        portable: whether to write operations of TensorFlow alone. All layers then run xla, whatever their
            `implementation` is. If False, they run what they would run anyway, also where Keras writes the export.
    """
    token = _is_portable.set(portable)
    try:
        yield
    finally:
        _is_portable.reset(token)


def is_portable_export() -> bool:
    """Whether layers are traced for an export that has operations of TensorFlow alone."""
    is_portable = _is_portable.get()
    return traces_export() if is_portable is None else is_portable
