# SPDX-License-Identifier: Apache-2.0
"""Every limit and option of the server, checked once."""

from __future__ import annotations

import dataclasses
import ipaddress
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from prunevid.errors import ConfigError

_WHOLE = (
    "max_upload_bytes",
    "max_text_bytes",
    "max_text_chars",
    "max_pixels",
    "max_frames",
    "max_images",
    "max_new_tokens",
    "max_queue",
    "max_per_client",
    "max_sessions",
)
_SECONDS = ("max_seconds", "request_seconds", "body_seconds", "fetch_seconds", "session_seconds")


@dataclass(frozen=True)
class ServeSettings:
    """Limits and options of the server.

    The method and the budget of a request that names none are those of the `VideoQA` that is served.

    Attributes:
        host, port: where to listen; port 0 takes a free one.
        api_key: what clients must send as a bearer token; None asks for nothing.
        allowed_folder: clips in it may be named by their path; None: no local files. Symlinks are resolved.
        allowed_hosts: names of hosts that clips may be fetched from, "name" or "name:port"; none: no fetching.
        max_upload_bytes: clips and pictures of one request together, decoded.
        max_text_bytes: what else the body of a request may hold.
        max_text_chars: characters of all messages together.
        max_seconds: length of the part of a clip that is sampled, seconds.
        max_pixels: width x height of a frame.
        max_frames: frames that a request may ask to look at.
        max_images: pictures in one request.
        max_new_tokens: length of an answer.
        max_queue: requests that wait (or still send their body) beside the one that is answered.
        max_per_client: requests that one client may have open.
        request_seconds: from the moment a request's turn comes until its last token.
        body_seconds: for a body to arrive, and for a client to take each piece of the answer.
        fetch_seconds: for the remote files of a request, all redirects together.
        max_redirects: redirects followed for one remote file.
        max_sessions: clips that are kept for follow-up questions.
        session_seconds: for how long after the last question.

    Raises:
        ConfigError: a value out of range.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = dataclasses.field(default=None, repr=False)
    allowed_folder: Path | None = None
    allowed_hosts: tuple[str, ...] = ()
    max_upload_bytes: int = 64 * 2**20
    max_text_bytes: int = 2**20
    max_text_chars: int = 16384
    max_seconds: float = 600.0
    max_pixels: int = 3840 * 2160
    max_frames: int = 32
    max_images: int = 32
    max_new_tokens: int = 512
    max_queue: int = 16
    max_per_client: int = 4
    request_seconds: float = 120.0
    body_seconds: float = 60.0
    fetch_seconds: float = 30.0
    max_redirects: int = 3
    max_sessions: int = 8
    session_seconds: float = 1800.0

    def __post_init__(self) -> None:
        for name in _WHOLE:
            self._whole(name, 1)
        self._whole("max_redirects", 0)
        self._whole("port", 0)
        if self.port > 65535:
            raise ConfigError(f"port is {self.port}, but must be at most 65535.")
        for name in _SECONDS:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
                raise ConfigError(f"{name} is {value!r}, but must be a number of seconds above 0.")
        if not isinstance(self.host, str) or not self.host.strip():
            raise ConfigError(f"host is {self.host!r}, but must be a name or an address.")
        if self.api_key is not None and (not isinstance(self.api_key, str) or not self.api_key.strip()):
            raise ConfigError("The API key is empty; give one, or leave it out.")
        if self.allowed_folder is not None:
            object.__setattr__(self, "allowed_folder", _folder(self.allowed_folder))
        object.__setattr__(self, "allowed_hosts", tuple(_hosts(self.allowed_hosts)))

    def _whole(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ConfigError(f"{name} is {value!r}, but must be a whole number of at least {least}.")

    @property
    def max_body_bytes(self) -> int:
        """Bytes of a body: base64 takes four for three."""
        return (self.max_upload_bytes + 2) // 3 * 4 + self.max_text_bytes

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        if self.host.lower() == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return False


def _folder(path: Path) -> Path:
    """The folder itself, without symlinks.

    Raises:
        ConfigError: there is none.
    """
    try:
        found = Path(path).expanduser().resolve(strict=True)
    except OSError as error:
        raise ConfigError(f"The allowed folder {path} can't be read ({error.strerror}); give a folder.") from error
    if not found.is_dir():
        raise ConfigError(f"The allowed folder {path} is no folder; give one.")
    return found


def _hosts(names: Iterable[str]) -> list[str]:
    """Host names in lower case.

    Raises:
        ConfigError: one is no "name" or "name:port".
    """
    if isinstance(names, str):
        raise ConfigError(f"allowed_hosts is the text {names!r}, but must be a list of names.")
    found = []
    for name in names:
        plain = str(name).strip().lower().rstrip(".")
        host, _, port = plain.partition(":")
        if not host or any(mark in plain for mark in "/@*? []") or (":" in plain and not port.isdecimal()):
            raise ConfigError(f"The allowed host {name!r} is no name of a host; write it as clips.example.org.")
        found.append(plain)
    return found
