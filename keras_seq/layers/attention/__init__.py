# SPDX-License-Identifier: Apache-2.0
"""Attention layers, one file each. Their base class is in `mechanism.py`."""

from keras_seq.layers.attention.bahdanau import BahdanauAttention
from keras_seq.layers.attention.luong import LuongAttention
from keras_seq.layers.attention.mechanism import AttentionMechanism
from keras_seq.layers.attention.monotonic import MonotonicAttention

__all__ = ["AttentionMechanism", "BahdanauAttention", "LuongAttention", "MonotonicAttention", "get_attention"]

ATTENTIONS = {
    "bahdanau": BahdanauAttention,
    "luong": lambda units, **options: LuongAttention("general", **options),
    "monotonic": MonotonicAttention,
}


def get_attention(attention, units, seed=None, **options):
    """Returns the attention layer called "bahdanau", "luong" or "monotonic"; a layer is returned unchanged."""
    if isinstance(attention, AttentionMechanism):
        return attention
    if attention not in ATTENTIONS:
        raise ValueError(
            f"`attention` must be one of {sorted(ATTENTIONS)} or an attention layer of keras_seq. "
            f"Received: {attention!r}"
        )
    if attention == "monotonic":  # the only one with noise
        options["seed"] = seed
    return ATTENTIONS[attention](units, **options)
