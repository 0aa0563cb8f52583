# SPDX-License-Identifier: Apache-2.0
"""Export to ONNX."""


def write(model, path, **options):
    """Writes a model as a ONNX file."""
    raise NotImplementedError
