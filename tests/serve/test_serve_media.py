# SPDX-License-Identifier: Apache-2.0
"""Data URLs, paths and remote files: what is taken, what is refused, and that nothing is left behind."""

from __future__ import annotations

import base64
import contextlib
import io
import os
import shutil
import socket
import ssl
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunevid.serve.fetching import Fetcher, is_public
from prunevid.serve.media import MediaStore, RequestMedia
from prunevid.serve.refusals import Refusal
from prunevid.serve.settings import ServeSettings


def data_url(content: bytes, kind: str = "video/mp4") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MediaStore]:
    (tmp_path / "clips").mkdir()
    made = MediaStore(ServeSettings(max_upload_bytes=1000, allowed_folder=tmp_path / "clips"))
    yield made
    made.close()
    assert not made.folder.exists()
    made.close()


@pytest.fixture
def media(store: MediaStore) -> Iterator[RequestMedia]:
    with store.request() as taken:
        yield taken
    assert list(store.folder.iterdir()) == []


def refused(status: int, code: str | None = None) -> Any:
    class Expect:
        def __enter__(self) -> None:
            return None

        def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
            assert isinstance(error, Refusal), error
            assert error.status == status and (code is None or error.code == code), (error.status, error.code)
            return True

    return Expect()


# ---- data URLs ---------------------------------------------------------------------------------------------------


def test_uploads_are_private_and_removed(store: MediaStore) -> None:
    with store.request() as media:
        path = media.take(data_url(b"abc"), "the video")
        assert path.read_bytes() == b"abc"
        for place, mode in ((store.folder, 0o700), (path.parent, 0o700), (path, 0o600)):
            assert stat.S_IMODE(place.stat().st_mode) == mode
        assert media.names == {str(path): "the video"}
    assert not path.exists() and store.folder.exists()
    with pytest.raises(RuntimeError), store.request() as media:
        media.take(data_url(b"abc"), "x")
        raise RuntimeError
    assert list(store.folder.iterdir()) == []


@given(st.binary(min_size=1, max_size=1000))
def test_every_content_comes_through(content: bytes) -> None:
    store = MediaStore(ServeSettings(max_upload_bytes=1000))
    with store.request() as media:
        assert media.take(data_url(content), "it").read_bytes() == content
    store.close()


def test_pieces_of_a_long_one_are_put_together(monkeypatch: pytest.MonkeyPatch, media: RequestMedia) -> None:
    monkeypatch.setattr("prunevid.serve.media._CHUNK", 8)
    assert media.take(data_url(bytes(range(200))), "it").read_bytes() == bytes(range(200))
    with refused(400):
        media.take("data:;base64,QUI=QUJDQUJDQUJD", "it")  # padding inside, at the end of a piece


@pytest.mark.parametrize(
    "header", ["data:video/mp4;base64,", "data:;base64,", "DATA:a/b;Base64,", "data:a/b;x=1;base64,"]
)
def test_headers_that_are_taken(media: RequestMedia, header: str) -> None:
    assert media.take(header + "QUJD", "it").read_bytes() == b"ABC"


@pytest.mark.parametrize(
    "url",
    [
        "data:",
        "data:,abc",
        "data:video/mp4,abc",
        "data:video/mp4;base64",
        "data:video/mp4;base64,",
        "data:video/mp4;base64,abc",
        "data:video/mp4;base64,ab c",
        "data:video/mp4;base64,ab\nd",
        "data:video/mp4;base64,ab-_",
        "data:video/mp4;base64,=abc",
        "data:video/mp4;base64,a===",
        "data:video/mp4;base64,ab=c",
        "data:video/mp4;base64,QUI=QUJD",
        "data:video/mp4;base64,äöüß",
        "data:" + "a" * 500 + ";base64,QUJD",
    ],
)
def test_data_urls_that_are_malformed(media: RequestMedia, url: str) -> None:
    with refused(400):
        media.take(url, "it")


@pytest.mark.parametrize(("sizes", "fits"), [([1000], True), ([1001], False), ([500, 500], True), ([500, 501], False)])
def test_the_limit_holds_for_all_media_together(media: RequestMedia, sizes: list[int], fits: bool) -> None:
    *before, last = sizes
    for size in before:
        media.take(data_url(b"x" * size), "it")
    if fits:
        assert media.take(data_url(b"x" * last), "it").stat().st_size == last
    else:
        files = len(list(media.folder.iterdir()))
        with refused(413):
            media.take(data_url(b"x" * last), "it")
        assert len(list(media.folder.iterdir())) == files  # refused before a byte was decoded


# ---- paths -------------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path, store: MediaStore) -> Path:
    """An allowed folder with links in it, and files beside it."""
    allowed = tmp_path / "clips"
    (allowed / "in").mkdir()
    for place in (allowed / "a b.mp4", allowed / "in" / "deep.mp4", tmp_path / "secret.mp4"):
        place.write_bytes(b"x")
    (tmp_path / "clips-other").mkdir()
    (tmp_path / "clips-other" / "x.mp4").write_bytes(b"x")
    (allowed / "out.mp4").symlink_to(tmp_path / "secret.mp4")
    (allowed / "up").symlink_to(tmp_path)
    (allowed / "good.mp4").symlink_to(allowed / "in" / "deep.mp4")
    (allowed / "loop.mp4").symlink_to(allowed / "loop.mp4")
    (allowed / "gone.mp4").symlink_to(allowed / "nothing.mp4")
    os.mkfifo(allowed / "pipe.mp4")
    return tmp_path


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("a b.mp4", "a b.mp4"),
        ("{allowed}/a b.mp4", "a b.mp4"),
        ("file://{allowed}/a%20b.mp4", "a b.mp4"),
        ("file://localhost{allowed}/in/deep.mp4", "in/deep.mp4"),
        ("FILE://{allowed}/in/deep.mp4", "in/deep.mp4"),
        ("in/../a b.mp4", "a b.mp4"),
        ("good.mp4", "in/deep.mp4"),
    ],
)
def test_paths_that_are_inside(media: RequestMedia, tree: Path, url: str, found: str) -> None:
    allowed = tree / "clips"
    assert media.take(url.format(allowed=allowed), "it") == allowed / found


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("../secret.mp4", 403),
        ("{root}/secret.mp4", 403),
        ("in/../../secret.mp4", 403),
        ("{allowed}/../secret.mp4", 403),
        ("{allowed}-other/x.mp4", 403),
        ("file://{root}/secret.mp4", 403),
        ("file://{allowed}/%2e%2e/secret.mp4", 403),
        ("file://{allowed}/..%2fsecret.mp4", 403),
        ("out.mp4", 403),
        ("up/secret.mp4", 403),
        ("/etc/passwd", 403),
        ("../nothing.mp4", 403),
        ("~/x.mp4", 422),
        ("loop.mp4", None),
        ("gone.mp4", 422),
        ("nothing.mp4", 422),
        ("pipe.mp4", 422),
        ("in", 422),
        (".", 422),
        ("", 400),
        ("a\0b", 400),
        ("a" * 300, None),
        ("a" * 5000, 400),
        ("file://host/x.mp4", 400),
        ("file:///x.mp4?y=1", 400),
        ("file://[/x", 400),
        ("ftp://host/x.mp4", 422),
        ("gopher://127.0.0.1/x", 422),
        ("concat:a b.mp4", 422),
        ("\ud800", None),
    ],
)
def test_paths_that_are_refused(media: RequestMedia, tree: Path, url: str, status: int | None) -> None:
    with pytest.raises(Refusal) as caught:
        media.take(url.format(allowed=tree / "clips", root=tree), "it")
    assert caught.value.status in ((403, 422) if status is None else (status,))
    assert str(tree) not in str(caught.value)


def test_without_a_folder_there_are_no_local_files(clip_file: Path) -> None:
    store = MediaStore(ServeSettings())
    with store.request() as media, refused(403):
        media.take(str(clip_file), "it")
    with store.request() as media, refused(403, "no_remote_files"):
        media.take("https://example.org/a.mp4", "it")
    store.close()


# ---- remote files ------------------------------------------------------------------------------------------------

PUBLIC = "93.184.216.34"


@pytest.mark.parametrize(
    ("address", "public"),
    [
        (PUBLIC, True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("::ffff:93.184.216.34", True),
        *[
            (address, False)
            for address in (
                *("127.0.0.1", "127.8.9.1", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254"),
                *("100.64.0.1", "192.0.0.1", "198.18.0.1", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255"),
                *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1", "ff02::1", "ff0e::1", "2001:db8::1"),
                *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::7f00:1"),
                *("64:ff9b::5db8:d822", "2002:7f00:1::", "2001:0:53aa:64c::1", "no address", ""),
            )
        ],
    ],
)
def test_public_addresses(address: str, public: bool) -> None:
    assert is_public(address) is public


class Net:
    """A net of names and answers on loopback; counts who was asked and what was connected to."""

    def __init__(self, names: dict[str, list[str]], answers: dict[str, bytes]) -> None:
        self.names, self.answers = names, answers
        self.resolved: list[str] = []
        self.connected: list[tuple[str, int]] = []
        self.requests: list[bytes] = []
        self.sockets: list[socket.socket] = []

    def resolve(self, host: str, port: int, **options: Any) -> list[Any]:
        self.resolved.append(host)
        if host not in self.names:
            raise socket.gaierror("no such name")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in self.names[host]]

    def connect(self, address: str, port: int, timeout: float) -> socket.socket:
        self.connected.append((address, port))
        ours, theirs = socket.socketpair()
        self.sockets.append(theirs)
        threading.Thread(target=self._answer, args=(theirs,), daemon=True).start()
        return ours

    def _answer(self, peer: socket.socket) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            piece = peer.recv(4096)
            if not piece:
                return
            request += piece
        self.requests.append(request)
        answer = self.answers[request.split()[1].decode()]
        with contextlib.suppress(ConnectionError):  # who asked has gone: it waited long enough
            peer.sendall(answer)
        if not answer.endswith(b"STALL"):
            peer.close()


def http(body: bytes = b"", status: int = 200, **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


NAMES = {
    "good.org": [PUBLIC],
    "other.org": ["93.184.216.35"],
    "inside.org": ["10.0.0.1"],
    "mixed.org": [PUBLIC, "127.0.0.1"],
    "mapped.org": ["::ffff:127.0.0.1"],
    "meta.org": ["169.254.169.254"],
    "nowhere.org": [],
    "127.0.0.1": ["127.0.0.1"],
}


def fetch(net: Net, url: str, most: int = 100, **changes: Any) -> bytes:
    hosts = (*NAMES, "good.org:8080", "absent.org")
    settings = ServeSettings(allowed_hosts=hosts, max_redirects=2, **changes)
    file = io.BytesIO()
    written = Fetcher(settings, net.resolve, net.connect).fetch(url, file, most, "the video")
    assert written == len(file.getvalue())
    return file.getvalue()


@pytest.mark.parametrize(
    ("url", "answer", "target"),
    [
        ("http://good.org/a.mp4?b=1", http(b"abc", Content_Length="3"), ("good.org", 80)),
        ("HTTP://GOOD.org:80/a.mp4?b=1", http(b"abc"), ("good.org", 80)),
        (
            "http://good.org:8080/a.mp4?b=1#x",
            http(b"3\r\nabc\r\n0\r\n\r\n", Transfer_Encoding="chunked"),
            ("good.org", 8080),
        ),
    ],
)
def test_an_allowed_file_is_fetched_from_the_checked_address(url: str, answer: bytes, target: tuple[str, int]) -> None:
    net = Net(NAMES, {"/a.mp4?b=1": answer})
    assert fetch(net, url) == b"abc"
    assert net.resolved == ["good.org"] and net.connected == [(PUBLIC, target[1])]
    assert b"\r\nHost: good.org" in net.requests[0]


@pytest.mark.parametrize(
    ("url", "status", "code"),
    [
        ("http://bad.org/", 403, "host_not_allowed"),
        ("http://good.org.bad.org/", 403, "host_not_allowed"),
        ("http://sub.good.org/", 403, "host_not_allowed"),
        ("http://good.org:22/", 403, "host_not_allowed"),
        ("https://good.org:80/", 403, "host_not_allowed"),
        ("http://good.org@bad.org/", 400, None),
        ("http://user:pw@good.org/", 400, None),
        ("http://good.org\\@bad.org/", 400, None),
        ("http://good.org\r\nX: y/", 400, None),
        ("http://göod.org/", 400, None),
        ("http://", 400, None),
        ("http://good.org:x/", 400, None),
        ("http://[::1", 400, None),
        ("ftp://good.org/", 403, None),
        ("http://inside.org/", 403, "private_address"),
        ("http://mixed.org/", 403, "private_address"),
        ("http://mapped.org/", 403, "private_address"),
        ("http://meta.org/latest/meta-data", 403, "private_address"),
        ("http://127.0.0.1/", 403, "private_address"),
        ("http://2130706433/", 403, "host_not_allowed"),
        ("http://absent.org/", 422, "not_fetched"),
        ("http://nowhere.org/", 422, "not_fetched"),
    ],
)
def test_urls_that_are_refused_without_a_connection(url: str, status: int, code: str | None) -> None:
    net = Net(NAMES, {})
    with refused(status, code):
        fetch(net, url)
    assert net.connected == []


@pytest.mark.parametrize(
    ("location", "status"),
    [
        ("http://other.org/end", None),
        ("/end", None),
        ("//other.org/end", None),
        ("http://inside.org/end", 403),
        ("http://bad.org/end", 403),
        ("file:///etc/passwd", (400, 403)),
        ("http://user@good.org/", 400),
    ],
)
def test_redirects_are_checked_one_by_one(location: str, status: Any) -> None:
    net = Net(NAMES, {"/": http(status=302, Location=location), "/end": http(b"abc")})
    if status is None:
        assert fetch(net, "http://good.org/") == b"abc"
        assert len(net.connected) == 2
        return
    with pytest.raises(Refusal) as caught:
        fetch(net, "http://good.org/")
    assert caught.value.status in (status if isinstance(status, tuple) else (status,))
    assert len(net.connected) == 1


def test_redirects_are_few() -> None:
    net = Net(NAMES, {"/": http(status=301, Location="/")})
    with refused(422, "too_many_redirects"):
        fetch(net, "http://good.org/")
    assert len(net.connected) == 3


def test_a_name_that_changes_its_address_is_resolved_once_for_each_connection() -> None:
    net = Net(dict(NAMES), {"/": http(b"abc")})
    resolve: Callable[..., Any] = net.resolve

    def rebinding(host: str, port: int, **options: Any) -> Any:
        found = resolve(host, port, **options)
        net.names["good.org"] = ["127.0.0.1"]
        return found

    net.resolve = rebinding  # type: ignore[method-assign]
    assert fetch(net, "http://good.org/") == b"abc"
    assert net.connected == [(PUBLIC, 80)]
    with refused(403, "private_address"):
        fetch(net, "http://good.org/")


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (http(b"x" * 101, Content_Length="101"), 413),
        (http(b"", Content_Length="99999999999"), 413),
        (http(b"x" * 101), 413),
        (http(b"65\r\n" + b"x" * 101 + b"\r\n0\r\n\r\n", Transfer_Encoding="chunked"), 413),
        (http(b"x", status=404), 422),
        (http(b"x", status=206), 422),
        (http(b"x", Content_Encoding="gzip"), 422),
        (http(b"x", Content_Length="5"), 422),
        (http(b"zz\r\n", Transfer_Encoding="chunked"), 422),
        (http(status=302), 422),
        (b"no http at all\r\n\r\n", 422),
        (b"", 422),
    ],
)
def test_answers_that_can_t_be_used(answer: bytes, status: int) -> None:
    with refused(status):
        fetch(Net(NAMES, {"/": answer}), "http://good.org/")


@pytest.mark.parametrize("answer", [b"STALL", http(b"abSTALL", Content_Length="50")])
def test_a_host_that_stalls_is_left(answer: bytes) -> None:
    net = Net(NAMES, {"/": answer})
    with refused(504, "fetch_time_limit"):
        fetch(net, "http://good.org/", fetch_seconds=0.1)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Certificate and key of good.org, signed by itself."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the program openssl to make a certificate")
    folder = tmp_path_factory.mktemp("tls")
    paths = str(folder / "cert.pem"), str(folder / "key.pem")
    wanted = ["-subj", "/CN=good.org", "-addext", "subjectAltName=DNS:good.org", "-out", paths[0], "-keyout", paths[1]]
    kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    subprocess.run([openssl, "req", *kind, *wanted], check=True, capture_output=True)
    return paths


@pytest.mark.parametrize(("host", "trusted"), [("good.org", True), ("other.org", True), ("good.org", False)])
def test_https_checks_the_name_and_the_certificate(certificate: tuple[str, str], host: str, trusted: bool) -> None:
    ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ours.load_cert_chain(*certificate)
    net = Net(NAMES, {"/a": http(b"abc", Content_Length="3")})
    plain = net._answer

    def answer(peer: socket.socket) -> None:
        with contextlib.suppress(OSError):
            plain(ours.wrap_socket(peer, server_side=True))

    net._answer = answer  # type: ignore[method-assign]
    settings = ServeSettings(allowed_hosts=tuple(NAMES), fetch_seconds=20)
    context = ssl.create_default_context(cafile=certificate[0] if trusted else None)
    fetcher = Fetcher(settings, net.resolve, net.connect, context)
    if host == "good.org" and trusted:
        assert fetcher.fetch(f"https://{host}/a", io.BytesIO(), 10, "it") == 3
        assert net.connected == [(PUBLIC, 443)] and b"\r\nHost: good.org\r\n" in net.requests[0]
    else:
        with refused(422, "not_fetched"):
            fetcher.fetch(f"https://{host}/a", io.BytesIO(), 10, "it")
        assert net.requests == []


def test_all_files_of_a_request_share_the_time() -> None:
    net = Net(NAMES, {"/a": b"STALL", "/b": http(b"abc")})
    settings = ServeSettings(allowed_hosts=("good.org",), fetch_seconds=0.1)
    store = MediaStore(settings, Fetcher(settings, net.resolve, net.connect))
    with store.request() as media:
        with refused(504):
            media.take("http://good.org/a", "it")
        with refused(504):
            media.take("http://good.org/b", "it")
    with store.request() as media:
        assert media.take("http://good.org/b", "it").read_bytes() == b"abc"
    store.close()


def test_media_come_from_the_fetcher(tmp_path: Path) -> None:
    net = Net(NAMES, {"/a": http(b"abc"), "/b": http(b"x" * 8)})
    settings = ServeSettings(allowed_hosts=("good.org",), max_upload_bytes=10)
    store = MediaStore(settings, Fetcher(settings, net.resolve, net.connect))
    with store.request() as media:
        assert media.take("http://good.org/a", "it").read_bytes() == b"abc"
        with refused(413):
            media.take("http://good.org/b", "it")
    assert list(store.folder.iterdir()) == []
    store.close()
