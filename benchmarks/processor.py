# SPDX-License-Identifier: Apache-2.0
"""The name of the machine, by which results of different machines are kept apart."""

import os
import pathlib
import platform
import re

AMD_FAMILIES = {"23": "Zen to Zen 2", "25": "Zen 3 or 4", "26": "Zen 5"}  # hypervisors hide the name of the model
FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def machine_name():
    """Returns for example "AMD EPYC (Zen 5, AVX-512), 2 cores"."""
    values = _cpuinfo()
    name = values.get("model name") or platform.processor() or platform.machine()
    name = re.sub(r"\((R|TM)\)| @.*| CPU| Processor| \d+-Core", "", name)
    known = [AMD_FAMILIES.get(values.get("cpu family"))] if "AMD" in values.get("vendor_id", "") else []
    flags = values.get("flags", "").split()
    known += ["AVX-512"] if "avx512f" in flags else ["AVX2"] if "avx2" in flags else []
    details = ", ".join(filter(None, known))
    return f"{name}{f' ({details})' if details else ''}, {os.cpu_count()} cores"


def instruction_sets():
    """Returns the instruction sets that decide which kernels run."""
    flags = _cpuinfo().get("flags", "").split()
    return [feature for feature in FEATURES if feature in flags]


def _cpuinfo():
    """Returns what Linux knows of the first core, as a dict of strings; elsewhere an empty one."""
    path = pathlib.Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in reversed(lines))}
