# SPDX-License-Identifier: Apache-2.0
"""`python -m prunevid`, the same as the console script; what `accelerate launch -m prunevid eval ...` starts."""

from __future__ import annotations

from prunevid.cli import main

if __name__ == "__main__":
    main()
