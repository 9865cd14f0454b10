# SPDX-License-Identifier: Apache-2.0
"""Fetching a remote file from an allowed host, and from nowhere else.

Allowed is a list of host names. Still, a name may lead anywhere: so it is resolved once, every address must be a
public one, and the connection goes to the address that was checked, not to the name. Redirects are followed by hand,
each checked like the first URL. Environment variables of proxies are not looked at.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any, BinaryIO
from urllib.parse import urljoin, urlsplit

from prunevid.serve.refusals import Refusal, forbidden, malformed, too_large, unusable
from prunevid.serve.settings import ServeSettings

_PORTS = {"http": 80, "https": 443}
_REDIRECTS = (301, 302, 303, 307, 308)
_CHUNK = 2**16
_TUNNELS = tuple(map(ipaddress.ip_network, ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "::/96")))
"""IPv6 networks whose addresses carry an IPv4 address; a public host has no need of them."""


def is_public(address: str) -> bool:
    """Whether an address belongs to the public internet: not private, loopback, link-local, multicast, reserved,
    unspecified, nor an IPv6 address that carries an IPv4 address, unless it is a mapped public one."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return is_public(str(parsed.ipv4_mapped))
        if any(parsed in network for network in _TUNNELS):
            return False
    return parsed.is_global and not (parsed.is_multicast or parsed.is_reserved or parsed.is_unspecified)


def connect(address: str, port: int, timeout: float) -> socket.socket:
    """A TCP connection to a numeric address."""
    return socket.create_connection((address, port), timeout)


@dataclass(frozen=True)
class _Target:
    """Where one request goes: `address` is one of `host`, all of which are public."""

    scheme: str
    host: str
    port: int
    address: str
    path: str


class Fetcher:
    """Gets remote files.

    Args:
        settings: allowed hosts, redirects, seconds.
        resolve: `socket.getaddrinfo`.
        connect: opens a connection to a numeric address.
        context: of TLS; the system's certificates by default.
    """

    def __init__(
        self,
        settings: ServeSettings,
        resolve: Callable[..., Any] = socket.getaddrinfo,
        connect: Callable[[str, int, float], socket.socket] = connect,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._settings = settings
        self._resolve = resolve
        self._connect = connect
        self._context = context

    def fetch(self, url: str, file: BinaryIO, most: int, what: str, deadline: float | None = None) -> int:
        """Writes what a URL gives into a file.

        Args:
            file: open for writing.
            most: bytes that it may have.
            what: names it in messages.
            deadline: on the clock `time.monotonic`; `fetch_seconds` from now by default.

        Returns:
            Bytes written.

        Raises:
            Refusal: 400 no URL, 403 host or address not allowed, 413 too large, 422 not to be had, 504 too slow.
        """
        if deadline is None:
            deadline = time.monotonic() + self._settings.fetch_seconds
        for _ in range(self._settings.max_redirects + 1):
            target = self._target(url, what)
            location, written = self._once(target, file, most, deadline, what)
            if location is None:
                return written
            url = urljoin(url, location)
        raise unusable(
            f"The address of {what} redirects more than {self._settings.max_redirects} times.", "too_many_redirects"
        )

    def _target(self, url: str, what: str) -> _Target:
        """Where a URL leads, checked.

        Raises:
            Refusal: 400: it can't be read. 403: another scheme, a host that is not on the list, or a private address.
        """
        if any(ord(mark) <= 32 or ord(mark) > 126 for mark in url) or "\\" in url:
            raise malformed(f"The URL of {what} holds a space or another character that URLs don't have.")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise malformed(f"The URL of {what} can't be read.") from error
        host = (parts.hostname or "").rstrip(".")
        if not host or parts.username is not None or parts.password is not None:
            raise malformed(f"The URL of {what} must name a host, without a user or a password.")
        if parts.scheme not in _PORTS:
            raise forbidden(f"{what.capitalize()} may be fetched by http and https only.")
        usual = _PORTS[parts.scheme]
        port = usual if port is None else port
        names = (host, f"{host}:{port}") if port == usual else (f"{host}:{port}",)
        if not any(name in self._settings.allowed_hosts for name in names):
            raise forbidden(f"The host of {what} is not on this server's list of allowed hosts.", "host_not_allowed")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return _Target(parts.scheme, host, port, self._address(host, port, what), path)

    def _address(self, host: str, port: int, what: str) -> str:
        """An address of a host, all of whose addresses are public."""
        try:
            found = self._resolve(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise unusable(f"The host of {what} has no address.", "not_fetched") from error
        addresses = [str(entry[4][0]) for entry in found]
        if not addresses:
            raise unusable(f"The host of {what} has no address.", "not_fetched")
        if not all(map(is_public, addresses)):
            raise forbidden(f"The host of {what} has an address that is not public.", "private_address")
        return addresses[0]

    def _once(self, target: _Target, file: BinaryIO, most: int, deadline: float, what: str) -> tuple[str | None, int]:
        """One request: where it redirects to (None: nowhere), and the bytes written."""
        try:
            with closing(self._open(target, deadline)) as connection, _shutting(connection.sock, deadline):
                if isinstance(connection.sock, ssl.SSLSocket):
                    connection.sock.do_handshake()
                connection.request(
                    "GET", target.path, headers={"Accept-Encoding": "identity", "User-Agent": "prunevid"}
                )
                response = connection.getresponse()
                location = response.getheader("Location")
                if response.status in _REDIRECTS and location:
                    return location, 0
                if response.status != 200 or response.getheader("Content-Encoding", "identity") != "identity":
                    raise unusable(f"The host of {what} answered with status {response.status}.", "not_fetched")
                written = _copy(response, file, most, what)
                if time.monotonic() >= deadline:  # a body without a length just ends when it is shut
                    raise TimeoutError
                return None, written
        except (OSError, http.client.HTTPException, ValueError) as error:
            if time.monotonic() >= deadline:
                raise Refusal(
                    504, f"Fetching {what} took longer than {self._settings.fetch_seconds:g} s.", "fetch_time_limit"
                ) from error
            raise unusable(f"{what.capitalize()} can't be fetched from its host.", "not_fetched") from error

    def _open(self, target: _Target, deadline: float) -> http.client.HTTPConnection:
        """A connection to the checked address; nothing is resolved a second time. TLS is agreed on later."""
        raw = self._connect(target.address, target.port, max(deadline - time.monotonic(), 0.001))
        if target.scheme == "https":
            context = self._context or ssl.create_default_context()
            raw = context.wrap_socket(raw, server_hostname=target.host, do_handshake_on_connect=False)
        connection = http.client.HTTPConnection(target.host, target.port)
        if target.port == _PORTS[target.scheme]:
            connection.default_port = target.port  # leaves it out of the header Host
        connection.sock = raw
        connection.auto_open = 0
        return connection


def _copy(response: http.client.HTTPResponse, file: BinaryIO, most: int, what: str) -> int:
    """Copies a body of at most so many bytes.

    Raises:
        Refusal: 413.
        IncompleteRead: it ended too early.
    """
    large = too_large(f"{what.capitalize()} is larger than the {most} bytes that are left for it.")
    declared = response.length
    if declared is not None and declared > most:
        raise large
    written = 0
    while chunk := response.read1(_CHUNK):
        written += len(chunk)
        if written > most:
            raise large
        file.write(chunk)
    if declared is not None and written < declared:
        raise http.client.IncompleteRead(b"", declared - written)
    return written


class _shutting:
    """Shuts a connection down when its time is over, in the middle of whatever it does."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self._timer = threading.Timer(max(deadline - time.monotonic(), 0.001), self._shut, [connection])
        self._timer.daemon = True

    @staticmethod
    def _shut(connection: socket.socket) -> None:
        with suppress(OSError):
            socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *error: object) -> None:
        self._timer.cancel()
