# SPDX-License-Identifier: Apache-2.0
"""Draws the pictures of guides, docs/images/forecast.png, by running their code. Needs keras_seq[plots]."""

import contextlib
import os
import pathlib
import re
import shutil
import tempfile

DOCS = pathlib.Path(__file__).parents[1]
PICTURES = {"forecast.png": "guides/forecasting.md"}  # what the code of a guide writes


def draw(picture, guide):
    """Runs the code of a guide in an empty folder, and copies the picture that it writes to docs/images/."""
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", (DOCS / guide).read_text(), re.MULTILINE | re.DOTALL))
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        exec(compile(code, guide, "exec"), {"__name__": "__main__"})
        shutil.copy(pathlib.Path(os.curdir, picture), DOCS / "images" / picture)


if __name__ == "__main__":
    for picture, guide in PICTURES.items():
        draw(picture, guide)
