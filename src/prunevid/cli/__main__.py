# SPDX-License-Identifier: Apache-2.0
"""`python -m prunevid.cli`, the same as the console script `prunevid`."""

from __future__ import annotations

from prunevid.cli import main

main()
