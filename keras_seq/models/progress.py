# SPDX-License-Identifier: Apache-2.0
"""The progress bar of `generate`."""

import time

import keras

_SILENT_SECONDS = 2.0  # before "auto" shows a bar


class Progress:
    """Shows how many sources are decoded.

    Args:
        total: number of sources, or None if it is not known.
        verbose: 0 = silent, 1 = progress bar, 2 = one line at the end. "auto" shows a bar if work goes on 2 seconds
            after the first batch, in which a function may be traced.
    """

    def __init__(self, total, verbose):
        if not isinstance(verbose, (int, str)) or verbose not in (0, 1, 2, "auto"):
            raise ValueError(f'`verbose` must be 0, 1, 2 or "auto". Received: {verbose!r}')
        self._bar = keras.utils.Progbar(total, verbose=1 if verbose == "auto" else verbose, unit_name="source")
        self._is_shown = verbose != "auto"
        self._count = 0
        self._start = None

    def add(self, count):
        self._count += count
        if self._start is None:
            self._start = time.monotonic()
        elif time.monotonic() - self._start > _SILENT_SECONDS:
            self._is_shown = True
        if self._is_shown:
            self._bar.update(self._count, finalize=False)

    def close(self):
        if self._is_shown:
            self._bar.update(self._count, finalize=True)
