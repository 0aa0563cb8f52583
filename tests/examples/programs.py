# SPDX-License-Identifier: Apache-2.0
"""What the tests of the examples share."""

import contextlib
import sys


@contextlib.contextmanager
def imports_of(folder):
    """Within the block, modules are imported as a program in this folder does. Several folders have a `train`."""
    names = {path.stem for path in folder.glob("*.py")}
    before = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in names:
            sys.modules.pop(name, None)
        sys.modules.update(before)
