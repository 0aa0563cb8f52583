# SPDX-License-Identifier: Apache-2.0
"""How keras_seq was installed, and the command that builds the native kernels again for what is installed now."""

import importlib.metadata
import json
import pathlib
import shlex
import sys
import urllib.parse
import urllib.request

_TOOLS = ("setuptools>=77", "cmake>=3.24", "ninja")  # as in pyproject.toml
_PROJECT = pathlib.Path(__file__).parents[2]  # the checkout, if keras_seq is imported from one


def how_to_rebuild(
    project: pathlib.Path = _PROJECT, distribution: importlib.metadata.Distribution | None = None
) -> str:
    """Return the sentence with the command that builds the native kernels for the TensorFlow of this environment.

    The command builds without isolation, because an isolated build may see another TensorFlow than the one that is
    installed, and without a cache, because a wheel in it may have been built for another.

    Args:
        project: the folder in which the package is.
        distribution: what an installer recorded about it, by default about keras_seq.

    Returns:
        "to build them, install a C++17 compiler and run `...`". The two commands of the installer that was used, pip or
        uv, are joined by `&&`.
    """
    if distribution is None:
        distribution = next(iter(importlib.metadata.distributions(name="keras_seq")), None)
    if distribution is not None and (distribution.read_text("INSTALLER") or "").strip() == "uv":
        install = ["uv", "pip", "install", "--python", sys.executable]
        options = ["--no-build-isolation", "--no-cache", "--reinstall", "--no-deps"]
    else:
        install = [sys.executable, "-m", "pip", "install"]
        options = ["--no-build-isolation", "--no-cache-dir", "--force-reinstall", "--no-deps"]
    source = ["--editable", str(project)] if (project / "setup.py").exists() else _origin(distribution)
    commands = [*install, *_TOOLS], [*install, *options, *(source or ["."])]
    command = " && ".join(shlex.join(words) for words in commands)
    return f"to build them, install a C++17 compiler and run{'' if source else ' in a checkout'} `{command}`"


def _origin(distribution: importlib.metadata.Distribution | None) -> list[str]:
    """Return the arguments of pip that name from where something was installed; empty if that was a wheel."""
    recorded = None if distribution is None else distribution.read_text("direct_url.json")
    if recorded is None:  # it came from an index
        return [] if distribution is None else ["--no-binary", "keras_seq", f"keras_seq=={distribution.version}"]
    origin = json.loads(recorded)
    if "vcs_info" in origin:
        return [f"{origin['vcs_info']['vcs']}+{origin['url']}@{origin['vcs_info']['commit_id']}"]
    if "dir_info" in origin:
        return [urllib.request.url2pathname(urllib.parse.urlsplit(origin["url"]).path)]
    return [] if origin["url"].endswith(".whl") else [origin["url"]]
