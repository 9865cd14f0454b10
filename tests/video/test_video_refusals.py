# SPDX-License-Identifier: Apache-2.0
"""What can't be a clip is refused in one sentence that names it; files are only read."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

import prunevid.video as video_package
from prunevid.errors import InputError, MissingDependencyError
from prunevid.video import DamagedClipWarning, Limits, load_clip
from prunevid.video.decoding import Decoder
from video import written
from video.test_video_damage import growing
from video.written import BY_NAME


def refused(source: Any, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        load_clip(source, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert ". " not in message.replace("Limits(", "")
    return message


def missing(folder: Path) -> Path:
    return folder / "nowhere.mp4"


def empty(folder: Path) -> Path:
    (folder / "empty.mp4").touch()
    return folder / "empty.mp4"


def text(folder: Path) -> Path:
    (folder / "notes.txt").write_text("What happens in the clip?\n" * 50)
    return folder / "notes.txt"


def text_as_mp4(folder: Path) -> Path:
    return text(folder).rename(folder / "notes.mp4")


def noise(folder: Path) -> Path:
    (folder / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(4000))
    return folder / "noise.mp4"


def sound(folder: Path) -> Path:
    with wave.open(str(folder / "sound.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(16000))
    return folder / "sound.wav"


def cover(folder: Path) -> Path:
    """Music with a picture of its cover (an ID3 tag by hand), which FFmpeg shows as a video stream."""
    picture = folder / "cover.png"
    Image.new("RGB", (16, 16), "red").save(picture)
    body = b"\0image/png\0\x03\0" + picture.read_bytes()
    frame = b"APIC" + len(body).to_bytes(4, "big") + b"\0\0" + body
    size = len(frame)
    packed = bytes((size >> shift) & 0x7F for shift in (21, 14, 7, 0))
    # MPEG-1 layer III, 32 kbit/s, 44.1 kHz, mono: 104 bytes a frame, all silence
    silence = (b"\xff\xfb\x10\xc4" + bytes(100)) * 60
    (folder / "music.mp3").write_bytes(b"ID3\x03\0\0" + packed + frame + silence)
    return folder / "music.mp3"


def no_frames(folder: Path) -> Path:
    """A video stream that nothing was written to."""
    path = folder / "hollow.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        container.start_encoding()
    return path


def bare_folder(folder: Path) -> Path:
    inner = folder / "bare"
    inner.mkdir()
    (inner / "clip.mp4").write_bytes(b"0")
    (inner / ".hidden.png").write_bytes(b"0")
    return inner


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.mp4")
    return folder / "pipe.mp4"


def playlist(folder: Path) -> Path:
    lines = ["#EXTM3U", "#EXT-X-TARGETDURATION:1", "#EXTINF:1,", "http://127.0.0.1:9/part.ts", "#EXT-X-ENDLIST", ""]
    (folder / "list.m3u8").write_text("\n".join(lines))
    return folder / "list.m3u8"


def broken_image(folder: Path) -> Path:
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    return folder / "broken.png"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (missing, "There is no file"),
        (empty, "is empty (0 bytes)"),
        (text, "is text and no clip"),
        (text_as_mp4, "is no clip that FFmpeg's libraries can read"),
        (noise, "is no clip that FFmpeg's libraries can read"),
        (sound, "holds sound but no video"),
        (cover, "holds sound but no video"),
        (no_frames, "without a single frame"),
        (bare_folder, "holds no image"),
        (pipe, "is neither a file nor a folder"),
        (playlist, "list.m3u8"),
        (broken_image, "can't be read as an image"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_sources_that_are_no_clip(make: Callable[[Path], Path], words: str, tmp_path: Path) -> None:
    path = make(tmp_path)
    message = refused(path)
    assert words in message
    assert path.name in message
    assert refused(str(path)) == message


def test_addresses_are_not_opened() -> None:
    assert "There is no file" in refused("http://127.0.0.1:9/clip.mp4")


@pytest.mark.parametrize("source", [None, 3, {}, b"clip.mp4", object()])
def test_other_things_are_refused_by_type(source: Any) -> None:
    assert type(source).__name__ in refused(source)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"start": 2.0}, "start is 2 s, but"),
        ({"start": 1e6}, "start is 1e+06 s, but"),
        ({"start": 1.5, "end": 0.5}, "the start must be before the end"),
        ({"start": -1}, "start is -1"),
        ({"max_frames": 0}, "max_frames is 0"),
        ({"sampling": "every"}, "sampling is 'every'"),
        ({"sampling": "fps", "fps": 0}, "fps is 0"),
        ({"fps": 2.0}, "use sampling='fps'"),
        ({"source_fps": 2.0}, "source_fps is 2"),
        ({"source_fps": -2.0}, "source_fps is -2.0"),
        ({"limits": Limits(max_seconds=1.5)}, "above the limit of 1.5 s"),
        ({"limits": Limits(max_pixels=3000)}, "64 x 48 = 3072 pixels, above the limit of 3000"),
    ],
)
def test_arguments_out_of_range(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = written.write(BY_NAME["gop12b0.mp4"], tmp_path)
    assert words in refused(path, **options)


def test_limits_can_be_raised(tmp_path: Path) -> None:
    path = written.write(BY_NAME["gop12b0.mp4"], tmp_path)
    assert len(load_clip(path, limits=Limits(max_pixels=64 * 48, max_seconds=2.0))) == 16
    part = load_clip(path, start=0.5, end=1.0, limits=Limits(max_seconds=0.6))
    assert (part.indices[0], part.indices[-1]) == (15, 29)


@pytest.mark.parametrize("fields", [{"max_pixels": 0}, {"max_seconds": -1}, {"max_pixels": "9"}, {"max_seconds": None}])
def test_limits_are_checked(fields: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"Limits.{next(iter(fields))} is"):
        Limits(**fields)


def test_a_large_frame_is_refused_before_it_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written.write(BY_NAME["gop12b0.mp4"], tmp_path)

    def never(self: Decoder) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(Decoder, "_feed", never)
    refused(path, limits=Limits(max_pixels=3000))


def test_a_stream_that_grows_is_stopped_by_the_decoder(tmp_path: Path) -> None:
    path = growing(tmp_path)
    with pytest.warns(DamagedClipWarning):
        clip = load_clip(path, max_frames=20, limits=Limits(max_pixels=64 * 48))
    assert clip.frames.shape == (10, 48, 64, 3)


def test_a_long_clip_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written.write(BY_NAME["gop12b0.mp4"], tmp_path)
    monkeypatch.setattr("prunevid.video.files.read_index", None)
    assert "2.0 s" in refused(path, limits=Limits(max_seconds=1))


def test_files_are_left_as_they_are(tmp_path: Path) -> None:
    for name in ("gop12b3.mp4", "plain.avi", "plain.mkv"):
        path = written.write(BY_NAME[name], tmp_path)
        path.chmod(0o444)
        before = (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).digest(), set(os.listdir(tmp_path)))
        load_clip(path)
        after = (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).digest(), set(os.listdir(tmp_path)))
        assert before == after


@pytest.mark.parametrize("name", ["a%03d.mp4", "a b?.mp4", "http:clip.mp4", "clip", "-clip.mp4", "Käse.mp4"])
def test_unusual_names(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written.write(BY_NAME["gop12b0.mp4"], tmp_path).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert len(load_clip(name, max_frames=2)) == 2


WITHOUT_PYAV = """
import sys, types
package = types.ModuleType("prunevid")  # without what the package itself imports
package.__path__ = [sys.argv[2]]
sys.modules["prunevid"], sys.modules["av"] = package, None
import numpy as np
from prunevid.video import load_clip
from prunevid.errors import MissingDependencyError
assert load_clip(np.zeros((3, 4, 5, 3), np.uint8)).frames.shape == (3, 4, 5, 3)
assert not {"torch", "transformers", "rich"} & set(sys.modules)
try:
    load_clip(sys.argv[1])
except MissingDependencyError as error:
    print(error)
"""


def test_without_pyav_only_files_are_refused(tmp_path: Path) -> None:
    path = written.write(BY_NAME["gop12b0.mp4"], tmp_path)
    package = str(Path(video_package.__file__).parents[1])
    command = [sys.executable, "-c", WITHOUT_PYAV, str(path), package]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "pip install av" in done.stdout


def test_the_import_of_pyav_is_put_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = written.write(BY_NAME["gop12b0.mp4"], tmp_path)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingDependencyError, match="pip install av"):
        load_clip(path)
