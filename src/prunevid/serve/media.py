# SPDX-License-Identifier: Apache-2.0
"""Clips and pictures of a request: data URLs, files of the allowed folder, remote files of allowed hosts.

Nothing is believed about a file but what opening it shows: names and media types of clients are not looked at. What
was sent or fetched lies in a private folder until its request is over.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from prunevid.serve.fetching import Fetcher
from prunevid.serve.refusals import forbidden, malformed, too_large, unusable
from prunevid.serve.settings import ServeSettings

_HEADER = re.compile(r"data:[\w.+-]*(?:/[\w.+-]+)?(?:;[\w.-]+=[^;,]*)*;base64,", re.IGNORECASE)
_CHUNK = 4 * 2**18  # characters of base64 that are decoded at once; a multiple of four


class MediaStore:
    """The private folder (mode 0700) of all uploads.

    Args:
        settings: the limits, the allowed folder and the allowed hosts.
        fetcher: gets remote files; made from the settings by default.
    """

    def __init__(self, settings: ServeSettings, fetcher: Fetcher | None = None) -> None:
        self._settings = settings
        self._fetcher = fetcher or Fetcher(settings)
        self.folder = Path(tempfile.mkdtemp(prefix="prunevid-serve-"))

    @contextmanager
    def request(self) -> Iterator[RequestMedia]:
        """A folder of one request, which is removed at the end."""
        folder = self.folder / secrets.token_hex(8)
        folder.mkdir(mode=0o700)
        try:
            yield RequestMedia(self._settings, self._fetcher, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Removes everything. A second call does nothing."""
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass
class RequestMedia:
    """The media of one request.

    Attributes:
        names: what messages call each file, by its path.
    """

    settings: ServeSettings
    fetcher: Fetcher
    folder: Path
    names: dict[str, str] = field(default_factory=dict)
    _left: int = field(init=False)
    _deadline: float | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._left = self.settings.max_upload_bytes

    def take(self, url: str, what: str) -> Path:
        """The file that a URL means; reading it may take as long as `fetch_seconds`.

        Args:
            url: "data:...;base64,...", "file:///...", a path inside the allowed folder, or http(s).
            what: names it in messages ("the video").

        Raises:
            Refusal: 400 malformed, 403 not allowed, 413 too large, 422 not there.
        """
        scheme = url[:8].partition(":")[0].lower() if ":" in url[:8] else ""
        if scheme == "data":
            return self._write(url, what)
        if scheme in ("http", "https"):
            return self._fetch(url, what)
        path = self._local(url, scheme, what)
        self.names[str(path)] = what
        return path

    @contextmanager
    def _new(self, what: str) -> Iterator[tuple[Path, BinaryIO]]:
        """An empty file that only this user can read."""
        path = self.folder / f"{len(self.names)}.media"
        self.names[str(path)] = what
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            yield path, file

    # ---- data URLs -----------------------------------------------------------------------------------------------

    def _write(self, url: str, what: str) -> Path:
        """Decodes a data URL into a file, piece by piece."""
        header = _HEADER.match(url[:200])
        if header is None:
            raise malformed(f"The data URL of {what} must be written as data:video/mp4;base64,....")
        begin, length = header.end(), len(url) - header.end()
        if length == 0 or length % 4:
            raise malformed(f"The base64 of {what} has {length} characters, but must have a multiple of four.")
        size = length // 4 * 3 - (2 if url.endswith("==") else 1 if url.endswith("=") else 0)
        self._spend(size, what)
        with self._new(what) as (path, file):
            for start in range(begin, len(url), _CHUNK):
                file.write(_decode(url[start : start + _CHUNK], start + _CHUNK >= len(url), what))
        return path

    def _spend(self, size: int, what: str) -> None:
        """Counts bytes of the request's media.

        Raises:
            Refusal: 413: more than the limit.
        """
        self._left -= size
        if self._left < 0:
            raise too_large(
                f"The media of this request are larger than {self.settings.max_upload_bytes} bytes (at {what}); "
                "send a shorter or smaller clip."
            )

    # ---- local files ---------------------------------------------------------------------------------------------

    def _local(self, url: str, scheme: str, what: str) -> Path:
        """A file of the allowed folder."""
        allowed = self.settings.allowed_folder
        if allowed is None:
            raise forbidden(
                f"This server takes no local files; send {what} as a data URL, or start it with --allow-folder."
            )
        outside = forbidden(f"The path of {what} is not inside the allowed folder.", "outside_folder")
        name = _path_of(url, scheme, what)
        try:
            path = (allowed / name).resolve()
        except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a name too long, or no text
            raise outside from error
        if not path.is_relative_to(allowed):
            raise outside
        try:
            usable = path.is_file() and os.access(path, os.R_OK)
        except OSError:
            usable = False
        if not usable:
            raise unusable(f"There is no file for {what} in the allowed folder that can be read.", "no_such_file")
        return path

    # ---- remote files --------------------------------------------------------------------------------------------

    def _fetch(self, url: str, what: str) -> Path:
        if not self.settings.allowed_hosts:
            raise forbidden(
                f"This server fetches nothing from other hosts; send {what} as a data URL.", "no_remote_files"
            )
        if self._deadline is None:  # one for all remote files of the request
            self._deadline = time.monotonic() + self.settings.fetch_seconds
        with self._new(what) as (path, file):
            self._spend(self.fetcher.fetch(url, file, self._left, what, self._deadline), what)
        return path


def _decode(text: str, last: bool, what: str) -> bytes:
    """Strict base64 of one piece; padding only in the last one.

    Raises:
        Refusal: 400.
    """
    try:
        if not last and "=" in text:
            raise ValueError("padding inside")
        return base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, ValueError) as error:
        raise malformed(f"The base64 of {what} is not valid; write it without spaces or line ends.") from error


def _path_of(url: str, scheme: str, what: str) -> str:
    """The path in a file URL, or the text as a path.

    Raises:
        Refusal: 400: neither.
    """
    name = url
    if scheme == "file":
        try:
            parts = urlsplit(url)
        except ValueError as error:
            raise malformed(f"The URL of {what} can't be read.") from error
        if parts.netloc.lower() not in ("", "localhost") or parts.query or parts.fragment:
            raise malformed(f"The file URL of {what} must be written as file:///path/of/the/clip.mp4.")
        name = unquote(parts.path)
    elif re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", url):
        raise unusable(f"The URL of {what} must begin with data:, file:, http: or https:.", "unknown_scheme")
    if not name or "\0" in name or len(name) > 4096:
        raise malformed(f"The path of {what} is empty, too long, or holds a zero byte.")
    return name
