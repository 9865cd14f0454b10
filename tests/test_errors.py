# SPDX-License-Identifier: Apache-2.0
"""Messages on one line."""

from __future__ import annotations

import pytest

from prunevid.errors import InputError, one_line


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (" a  page\n of\ttext \r\n", "a page of text"),
        ("", ""),
        (InputError("The clip\n  is gone."), "The clip is gone."),
        (RuntimeError(), "RuntimeError"),
        (RuntimeError(" \n"), "RuntimeError"),
        (KeyError("a  b"), "'a b'"),
    ],
)
def test_one_line(said: object, line: str) -> None:
    assert one_line(said) == line
