# SPDX-License-Identifier: Apache-2.0
"""Files that people send to the page, each in a folder whose name nobody can guess."""

from __future__ import annotations

import asyncio
import re
import secrets
import shutil
import time
from pathlib import Path
from typing import Any

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request

from prunevid.serve.refusals import Refusal, busy, gone, malformed, too_large
from prunevid.serve.settings import ServeSettings

FORM_BYTES = 64 * 2**10
"""What a form adds to its file."""
_FORM = "The upload must be a form with one file."


def large(settings: ServeSettings) -> str:
    """Says that an upload is too large."""
    return f"The upload is larger than {settings.max_upload_bytes} bytes; send a shorter or smaller clip."


class Uploads:
    """The folder of all uploads.

    Gradio's own handler names an upload's folder after its contents, so that two people who send the same clip would
    share a file, which the first of them removes. Here each upload has a folder of its own.

    Args:
        folder: private, and there.
        settings: the limits.
    """

    def __init__(self, folder: Path, settings: ServeSettings) -> None:
        self.folder = folder.resolve()
        self._settings = settings

    async def receive(self, request: Request, size: int) -> Path:
        """Takes the one file of a multipart form.

        Args:
            request: its body was not read yet.
            size: bytes of the body; the web server holds it to that.

        Raises:
            Refusal: 400: no form with one file; 408: too slow; 413: too large; 499: the client went away; 503: too
                many uploads lie here.
        """
        if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            raise malformed(_FORM)
        await asyncio.to_thread(self._make_room, size)
        try:
            return await asyncio.wait_for(self._read(request), self._settings.body_seconds)
        except (asyncio.TimeoutError, TimeoutError) as error:
            raise Refusal(408, "The upload did not arrive in time; send it again.", "body_time_limit") from error
        except ClientDisconnect as error:
            raise gone() from error
        except (HTTPException, MultiPartException) as error:
            raise malformed(_FORM) from error

    async def _read(self, request: Request) -> Path:
        async with request.form(max_files=1, max_fields=0) as form:
            files = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
            if len(files) != 1:
                raise malformed(_FORM)
            if (files[0].size or 0) > self._settings.max_upload_bytes:
                raise too_large(large(self._settings))
            return await asyncio.to_thread(self._write, files[0])

    def _write(self, sent: UploadFile) -> Path:
        folder = self.folder / secrets.token_hex(16)
        folder.mkdir(mode=0o700)
        path = folder / plain_name(sent.filename)
        try:
            with path.open("xb") as file:
                shutil.copyfileobj(sent.file, file)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return path

    def holds(self, path: Any) -> bool:
        """Whether this names something inside the folder, also through links."""
        try:
            return isinstance(path, str) and Path(path).resolve().is_relative_to(self.folder)
        except (OSError, ValueError, RuntimeError):
            return False

    def sweep(self) -> None:
        """Removes the empty files that Gradio opens in its folder for every upload and never closes."""
        for stray in self.folder.iterdir():
            if not stray.is_dir():
                stray.unlink(missing_ok=True)

    def remove(self, path: Path | None) -> None:
        """Removes an upload; nothing happens where it is gone."""
        if path is not None and path.parent.parent == self.folder:
            shutil.rmtree(path.parent, ignore_errors=True)

    def _make_room(self, size: int) -> None:
        """Removes uploads that nobody asked about for long.

        Raises:
            Refusal: 503: too many of them lie here.
        """
        oldest = time.time() - self._settings.session_seconds
        total = size
        for folder in list(self.folder.iterdir()):
            try:
                if folder.stat().st_mtime < oldest:
                    shutil.rmtree(folder, ignore_errors=True)
                else:
                    total += sum(path.stat().st_size for path in folder.iterdir())
            except OSError:
                continue  # somebody was faster
        if total > self._settings.max_sessions * self._settings.max_upload_bytes + FORM_BYTES:
            raise busy("Too many uploads wait for their question; try again later.", 60)


def plain_name(name: str | None) -> str:
    """The last part of a file's name as a browser sends it, without anything that a file system might take amiss."""
    last = re.split(r"[/\\]", name or "")[-1]
    return re.sub(r"[^\w.() -]", "_", last).strip(" .")[-60:] or "clip"
