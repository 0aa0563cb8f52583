# SPDX-License-Identifier: Apache-2.0
"""Export to LiteRT."""


def write(model, path, **options):
    """Writes a model as a LiteRT file."""
    raise NotImplementedError
