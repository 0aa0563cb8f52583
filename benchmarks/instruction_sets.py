# SPDX-License-Identifier: Apache-2.0
"""Limits contenders to an instruction set that is less than what the processor has, by environment variables.

Each library reads its variable when it is loaded, so `limit` comes before the processes of the contenders start. Which
registers a contender then uses was checked by sampling and disassembling its instructions. What has no such variable
is in `UNLIMITED`.
"""

import os
import platform
from typing import NamedTuple

OURS = "KERAS_SEQ_ISA"


class Limit(NamedTuple):
    title: str  # in titles of pages
    variables: dict
    xla_flag: str
    compiler_options: list  # for GCC and Clang
    peak: str  # what the FMA peak measures
    unlimited: dict  # contenders that have no such limit, and why


XLA_PRODUCTS = "XLA multiplies with YNNPACK, whose instruction set cannot be limited"
UNLIMITED = {
    "onnxruntime": "its instruction set cannot be limited",
    **dict.fromkeys(["keras-jit", "keras-jax", "xla-jit", "xla-jax"], XLA_PRODUCTS),
}
MKL = "MKL, in PyTorch, heeds its variable on processors of Intel only; on those of AMD it multiplies with AVX2."
LIMITS = {
    "avx2": Limit(
        "AVX2",
        {
            OURS: "avx2",
            "ONEDNN_MAX_CPU_ISA": "AVX2",  # in PyTorch and in TensorFlow, whose products outside of XLA it runs
            "ATEN_CPU_CAPABILITY": "avx2",
            "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        },
        "--xla_cpu_max_isa=AVX2",
        ["-mavx2", "-mfma"],
        "256-bit fused multiply-adds",
        UNLIMITED,
    ),
    "portable": Limit(
        "SSE",
        {
            OURS: "portable",
            "ONEDNN_MAX_CPU_ISA": "SSE41",
            "ATEN_CPU_CAPABILITY": "default",
            "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        },
        "--xla_cpu_max_isa=SSE4_2",
        [],
        "128-bit multiplications and additions",
        {**UNLIMITED, "keras": "TensorFlow is compiled for AVX", "xla": "TensorFlow is compiled for AVX"},
    ),
}


def can_limit():
    """Returns whether this processor is of the kind whose instruction sets `LIMITS` has."""
    return platform.machine().lower() in ("x86_64", "amd64")


def limit(isa):
    """Limits this process and those that it starts to a key of `LIMITS`. What is loaded already does not notice."""
    os.environ.update(LIMITS[isa].variables)
    os.environ["XLA_FLAGS"] = " ".join(filter(None, [os.environ.get("XLA_FLAGS"), LIMITS[isa].xla_flag]))


def compiler_options():
    """Returns the options that compile for the instruction set of this process."""
    known = LIMITS.get(os.environ.get(OURS)) if can_limit() else None
    return known.compiler_options if known else ["-march=native"]


def describe(isa):
    """Returns a paragraph."""
    settings = [f"{name}={value}" for name, value in LIMITS[isa].variables.items()]
    settings.append(f"XLA_FLAGS={LIMITS[isa].xla_flag}")
    return (
        f"All contenders were limited to {LIMITS[isa].title}, by `{' '.join(settings)}`. "
        f"{MKL} The peak is that of {LIMITS[isa].peak}."
    )
