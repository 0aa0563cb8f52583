# SPDX-License-Identifier: Apache-2.0
"""The pages that the site makes of the READMEs of the examples: links lead where they led, and code stays as it is."""

import importlib.util
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("examples_pages", ROOT / "docs" / "examples_pages.py")
examples_pages = importlib.util.module_from_spec(spec)
spec.loader.exec_module(examples_pages)


@pytest.mark.parametrize(
    ("text", "moved"),
    [
        ("[tune](../tune/README.md)", "[tune](tune.md)"),
        ("[`tune`](../tune/README.md#searches)", "[`tune`](tune.md#searches)"),
        ("[tune](../tune/), [tune](../tune)", "[tune](tune.md), [tune](tune.md)"),
        ("[all](../README.md), [claims](../claims/README.md)", "[all](../gallery.md), [claims](../claims.md)"),
        ('[a](../../docs/guides/tuning.md "Tuning")', '[a](../guides/tuning.md "Tuning")'),
        ("![a](../../docs/images/attention.png)", "![a](../images/attention.png)"),
        ("[![a](../../docs/images/attention.png)](../tune/README.md)", "[![a](../images/attention.png)](tune.md)"),
        ("[a](https://x.org/a), [b](#below), [c](mailto:a@x.org)", None),
        ("the program [train.py](train.py)", "the program train.py"),
        ("`f[0](x)`, ``a`[0](x)``", None),
        ("```python\nf[0](x)\n\ny = g[1](x)\n```\nand `x`", None),
        ("`code over\ntwo lines` [t](../tune/README.md) `x`", "`code over\ntwo lines` [t](tune.md) `x`"),
    ],
)
def test_links_lead_where_they_led(text, moved):
    source, target = ROOT / "examples" / "g2p" / "README.md", ROOT / "docs" / "examples" / "g2p.md"
    assert examples_pages.move_links(text, source, target) == (text if moved is None else moved)
