# SPDX-License-Identifier: Apache-2.0
"""Attention: where in a memory to look. One file each, on what `mechanism.py` has for all."""

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
    """The attention called "bahdanau", "luong" or "monotonic", of so many units; a layer is returned as it is."""
    if isinstance(attention, AttentionMechanism):
        return attention
    if attention not in ATTENTIONS:
        raise ValueError(
            f"`attention` must be one of {sorted(ATTENTIONS)} or an attention layer of keras_seq. "
            f"Received: {attention!r}"
        )
    if attention == "monotonic":  # the only one that draws
        options["seed"] = seed
    return ATTENTIONS[attention](units, **options)
