# SPDX-License-Identifier: Apache-2.0
"""Opening a clip file, read-only and local, and finding the stream to decode; every refusal is one sentence."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunevid.errors import InputError, MissingDependencyError
from prunevid.video.limits import Limits

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

# FFmpeg reads plain text as a terminal recording: never what is meant by a clip.
_TEXT_FORMATS = frozenset({"tty", "bin", "xbin", "adf", "idf"})
_PICTURES = frozenset({"mjpeg", "png", "gif", "bmp", "webp"})


class DamagedClipWarning(UserWarning):
    """Part of a clip could not be decoded; the frames that decode are used."""


def require_av() -> Any:
    """The module `av`, imported when a file has to be opened and not before.

    Raises:
        MissingDependencyError: PyAV is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise MissingDependencyError(
            "Reading a video file needs PyAV, which is not installed; run `pip install av`, "
            "or pass the frames as images."
        ) from error
    return av


@dataclass
class Opened:
    """An open container and what is known about it.

    Attributes:
        name: the path, as messages name it.
        container: PyAV's container, read-only.
        stream: the video stream that is decoded.
        limits: what a frame may cost.
        damage: what went wrong while reading, in words, each once.
    """

    name: str
    container: InputContainer
    stream: VideoStream
    limits: Limits
    damage: list[str] = field(default_factory=list)

    def note(self, problem: str) -> None:
        """Remember something that could not be read."""
        if problem not in self.damage:
            self.damage.append(problem)

    def packets(self) -> Iterator[Packet[VideoStream]]:
        """The packets of the stream from where the container stands.

        A transport stream may announce further streams half-way; PyAV fails at the first packet of one, and passes
        over them when it is asked again.

        Raises:
            av.error.FFmpegError: the container can't be read on.
        """
        while True:
            try:
                yield from self.container.demux(self.stream)
                return
            except IndexError:
                continue

    def warn(self) -> None:
        """Warn once about all that was noted."""
        if self.damage:
            warnings.warn(
                f"{self.name} is damaged ({'; '.join(self.damage)}): the frames that decode are used.",
                DamagedClipWarning,
                stacklevel=6,  # the caller of load_clip
            )


def check_file(path: Path) -> None:
    """Refuse what can't be a clip file before any library touches it.

    Raises:
        InputError: missing, not a regular file, unreadable or empty.
    """
    try:
        if not path.exists():
            raise InputError(f"There is no file {path}; give the path of a clip on this machine.")
        if not path.is_file():
            raise InputError(
                f"{path} is neither a file nor a folder; give the path of a clip or of a folder of frames."
            )
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror}); check the path and its permissions.") from error
    if not os.access(path, os.R_OK):
        raise InputError(f"{path} can't be read (permission denied); allow this user to read it.")
    if size == 0:
        raise InputError(f"{path} is empty (0 bytes); copy or download it again.")


@contextmanager
def open_clip(path: Path, limits: Limits) -> Iterator[Opened]:
    """Open a clip file for reading and check everything that can be checked without decoding.

    Only the local file protocol is allowed, so that a playlist can't make FFmpeg download anything.

    Raises:
        InputError: no clip, no video stream, no decoder, or frames above the limit.
        MissingDependencyError: PyAV is not installed.
    """
    av = require_av()
    check_file(path)
    # The codecs get the limit too: a header that lies about its size, or a stream that grows, is stopped before
    # memory is taken. Twice the limit, because coded sizes are padded; the exact check is `check_pixels`.
    options = {"protocol_whitelist": "file", "max_pixels": str(2 * int(limits.max_pixels) + 65536)}
    if limits.formats is not None:
        options["format_whitelist"] = ",".join(limits.formats)
    try:
        container = av.open(f"file:{path.absolute()}", mode="r", options=options, metadata_errors="ignore")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise InputError(
            f"{path} is no clip that FFmpeg's libraries can read (it is of another kind, truncated or damaged); "
            "check the file or convert it to mp4."
        ) from error
    with container:
        stream = _video_stream(container, path)
        codec = stream.codec_context
        limits.check_pixels(codec.width, codec.height, str(path))
        codec.options = {"max_pixels": options["max_pixels"]}
        stream.thread_type = "AUTO"
        yield Opened(str(path), container, stream, limits)


def _video_stream(container: InputContainer, path: Path) -> VideoStream:
    """The default video stream, or the first; cover pictures of music files don't count.

    Raises:
        InputError: there is none that can be decoded.
    """
    if container.format.name in _TEXT_FORMATS:
        raise InputError(f"{path} is text and no clip; give the path of a video file.")
    streams = [stream for stream in container.streams.video if not _is_cover(stream)]
    if not streams:
        if container.streams.audio:
            raise InputError(f"{path} holds sound but no video; give a file with a video stream.")
        raise InputError(f"{path} holds no video; give a file with a video stream.")
    usable = [stream for stream in streams if stream.codec_context is not None]
    if not usable:
        raise InputError(f"{path} is coded in a way that FFmpeg here has no decoder for; convert it to H.264 in mp4.")
    return usable[0]


def _is_cover(stream: VideoStream) -> bool:
    """Whether a stream is a picture attached to a music file."""
    disposition = getattr(stream, "disposition", None)
    if disposition is not None:
        return bool(disposition & type(disposition).attached_pic)
    # PyAV 14 doesn't tell; FFmpeg gives attached pictures this time base and no frame count.
    codec = stream.codec_context
    picture = codec is not None and codec.name in _PICTURES
    return picture and stream.time_base == Fraction(1, 90000) and bool(stream.container.streams.audio)
