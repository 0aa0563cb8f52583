# SPDX-License-Identifier: Apache-2.0
"""What a model tells a search at its start."""

from typing import Any, NamedTuple


class SearchStart(NamedTuple):
    """What a search needs of a model and its sources: what `GenerativeModel.start_search` returns."""

    step: Any  # step function of `keras_seq.decoding.search`
    state: Any  # nested tensors (sources, ...), its first state
    memory: Any  # nested tensors (sources, ...), what it reads of each source
    first_tokens: Any  # int32 (sources,), its first input
    limits: Any  # int32 (sources,), the default maximum number of output tokens
    memory_mask: Any = None  # booleans (sources, positions), True = keep, or None if all positions count
