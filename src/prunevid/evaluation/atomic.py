# SPDX-License-Identifier: Apache-2.0
"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from prunevid.errors import PruneVidError


def write_files(contents: Mapping[Path, bytes]) -> None:
    """Writes files so that nobody ever finds half a file, and a full disk leaves the old ones as they were.

    All are written under other names first, then renamed one after the other. Their folders are made.

    Raises:
        PruneVidError: one can't be written; none was changed, unless it was the renaming that failed.
    """
    drafts: dict[Path, Path] = {}
    path = Path()
    try:
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
            drafts[path] = draft
            with draft.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for path, draft in drafts.items():
            os.replace(draft, path)
    except OSError as error:
        raise PruneVidError(f"{path} can't be written ({error.strerror}); nothing in its place was changed.") from error
    finally:
        for draft in drafts.values():
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
