# SPDX-License-Identifier: Apache-2.0
"""Folders, lists, images and arrays as clips."""

from __future__ import annotations

import random
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from prunevid.errors import InputError
from prunevid.video import Limits, load_clip, load_images
from prunevid.video.images import natural_key
from video.written import picture

FRAMES = np.stack([picture(number, 20, 14) for number in range(12)])


def folder(path: Path, names: list[str] | None = None) -> Path:
    path.mkdir()
    for number, frame in enumerate(FRAMES):
        Image.fromarray(frame).save(path / (names[number] if names else f"frame{number}.png"))
    return path


def test_natural_order() -> None:
    names = ["1.png", "a1", "a2", "a10", "a010b", "B3", "b11", "frame_2_10", "frame_10_2", "x"]
    mixed = names[:]
    random.Random(1).shuffle(mixed)
    assert sorted(mixed, key=natural_key) == names
    assert sorted(["²", "a²", "3"], key=natural_key)[0] == "3"


def test_a_folder_in_natural_order(tmp_path: Path) -> None:
    path = folder(tmp_path / "frames")
    (path / "notes.txt").write_text("not a frame")
    (path / ".hidden.png").write_bytes(b"not a frame")
    (path / "more.png").mkdir()
    clip = load_clip(path)
    assert np.array_equal(clip.frames, FRAMES)
    assert clip.times == tuple(range(12))
    assert (clip.fps, clip.duration, clip.total_frames, clip.source) == (1.0, 12.0, 12, str(path))
    assert clip.metadata()["video_backend"] == "images"


@pytest.mark.parametrize(
    ("options", "indices", "rate", "sampled"),
    [
        ({}, range(12), 1.0, 1.0),
        ({"fps": 4.0}, range(12), 4.0, 4.0),
        ({"source_fps": 4.0}, range(12), 4.0, 4.0),
        ({"max_frames": 3}, (2, 6, 10), 1.0, 0.25),
        ({"sampling": "fps", "fps": 4.0}, range(12), 4.0, 4.0),
        ({"sampling": "fps", "source_fps": 4.0, "fps": 2.0}, range(0, 12, 2), 4.0, 2.0),
        ({"sampling": "fps", "source_fps": 4.0}, (0, 4, 8), 4.0, 1.0),
        ({"source_fps": 4.0, "start": 1.0, "end": 2.0}, range(4, 8), 4.0, 4.0),
    ],
)
@pytest.mark.parametrize("kind", ["folder", "list", "array"])
def test_rates_and_windows(
    kind: str, options: dict[str, Any], indices: Any, rate: float, sampled: float, tmp_path: Path
) -> None:
    source = {"folder": lambda: folder(tmp_path / "f"), "list": lambda: list(FRAMES), "array": lambda: FRAMES}[kind]()
    clip = load_clip(source, **options)
    assert clip.indices == tuple(indices)
    assert np.array_equal(clip.frames, FRAMES[list(indices)])
    assert clip.times == pytest.approx([number / rate for number in indices])
    assert (clip.fps, clip.sampled_fps) == (rate, pytest.approx(sampled))


FLOATS = FRAMES.astype(np.float32) / 255
ARRAYS = {
    "uint8": FRAMES,
    "channels first": FRAMES.transpose(0, 3, 1, 2),
    "int64": FRAMES.astype(np.int64),
    "float32": FLOATS,
    "float64 channels first": FLOATS.astype(np.float64).transpose(0, 3, 1, 2),
    "alpha": np.concatenate([FRAMES, np.full((12, 14, 20, 1), 7, np.uint8)], axis=-1),
    "tensor": torch.from_numpy(FRAMES),
    "tensor channels first": torch.from_numpy(FRAMES).permute(0, 3, 1, 2),
    "tensor float": torch.from_numpy(FLOATS),
    "tensor with gradient": torch.from_numpy(FLOATS).requires_grad_(),
    "list of arrays": list(FRAMES),
    "list of PIL images": [Image.fromarray(frame) for frame in FRAMES],
    "tuple of tensors": tuple(torch.from_numpy(FRAMES).permute(0, 3, 1, 2)),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_of_every_kind(name: str) -> None:
    clip = load_clip(ARRAYS[name])
    assert clip.frames.dtype == np.uint8
    assert clip.frames.flags["C_CONTIGUOUS"]
    assert np.array_equal(clip.frames, FRAMES)


def test_grey_and_half_precision() -> None:
    grey = load_clip(FRAMES[..., :1])
    assert np.array_equal(grey.frames, np.repeat(FRAMES[..., :1], 3, axis=-1))
    for dtype in (torch.bfloat16, torch.float16):
        rounded = load_clip(torch.from_numpy(FLOATS).to(dtype)).frames.astype(int)
        assert np.abs(rounded - FRAMES).max() <= 1


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((4, 5), np.uint8), "shape (4, 5)"),
        (np.zeros((2, 6, 5, 7), np.uint8), "shape (2, 6, 5, 7)"),
        (np.zeros((0, 4, 5, 3), np.uint8), "holds no pixel"),
        (np.zeros((2, 0, 5, 3), np.uint8), "holds no pixel"),
        (np.full((2, 4, 5, 3), 256), "from 256 to 256"),
        (np.full((2, 4, 5, 3), -1), "must stay in 0 ... 255"),
        (np.full((2, 4, 5, 3), 1.5), "must stay in 0 ... 1"),
        (np.full((2, 4, 5, 3), np.nan), "must stay in 0 ... 1"),
        (np.zeros((2, 4, 5, 3), complex), "dtype complex128"),
        (np.zeros((2, 4, 5, 3), bool), "dtype bool"),
        (np.zeros((1, 5000, 5000, 3), np.uint8), "above the limit of 16777216"),
        (np.zeros((1, 3, 5000, 5000), np.uint8), "above the limit of 16777216"),
    ],
)
def test_arrays_that_are_no_frames(array: np.ndarray, words: str) -> None:
    with pytest.raises(InputError) as caught:
        load_clip(array)
    assert words in str(caught.value)


def test_frames_of_different_sizes(tmp_path: Path) -> None:
    other = Image.fromarray(FRAMES[0]).resize((10, 7))
    with pytest.raises(InputError, match=r"differ in size: frame 0 is 20 x 14, frame 2 is 10 x 7"):
        load_clip([FRAMES[0], FRAMES[1], other])
    other.save(folder(tmp_path / "frames") / "frame5.png")
    with pytest.raises(InputError, match=r"frames differ in size.*frame 5 is 10 x 7"):
        load_clip(tmp_path / "frames")


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        ([], "list of frames is empty"),
        ([FRAMES[0], None], "frame 1 is of type NoneType"),
        ([FRAMES[0], FRAMES], "frame 1 has shape (12, 14, 20, 3)"),
        (["nowhere.png"], "There is no image file nowhere.png"),
    ],
)
def test_lists_that_are_no_frames(frames: list[Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        load_clip(frames)
    assert words in str(caught.value)


def test_a_clip_in_a_list_of_images_is_named(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"ftyp")
    with pytest.raises(InputError, match=r"clip\.mp4 can't be read as an image"):
        load_clip([tmp_path / "clip.mp4"])


def test_only_wanted_frames_are_opened(tmp_path: Path) -> None:
    path = folder(tmp_path / "frames")
    for number in (0, 5, 11):
        (path / f"frame{number}.png").write_bytes(b"broken")
    assert load_clip(path, max_frames=3).indices == (2, 6, 10)
    with pytest.raises(InputError, match=r"frame0\.png can't be read as an image"):
        load_clip(path)


def test_one_image_is_a_clip_of_one_frame(tmp_path: Path) -> None:
    Image.fromarray(FRAMES[0]).save(tmp_path / "one.png")
    for source in (tmp_path / "one.png", str(tmp_path / "one.png"), Image.fromarray(FRAMES[0]), FRAMES[0]):
        clip = load_clip(source)
        assert np.array_equal(clip.frames, FRAMES[:1])
        assert clip.metadata()["total_num_frames"] == 1


def test_images_keep_their_sizes(tmp_path: Path) -> None:
    Image.fromarray(FRAMES[1]).save(tmp_path / "one.png")
    small = Image.fromarray(FRAMES[2]).resize((10, 7))
    images = load_images([FRAMES[0], tmp_path / "one.png", small, FLOATS[3]])
    assert [image.shape for image in images] == [(14, 20, 3), (14, 20, 3), (7, 10, 3), (14, 20, 3)]
    assert np.array_equal(images[1], FRAMES[1])
    assert np.array_equal(images[3], FRAMES[3])
    assert len(load_images(small)) == 1
    with pytest.raises(InputError, match="list of images is empty"):
        load_images([])
    with pytest.raises(InputError, match="image 1 has frames of 20 x 14"):
        load_images([small, FRAMES[0]], limits=Limits(max_pixels=100))


def test_modes_and_orientation_of_images(tmp_path: Path) -> None:
    image = Image.fromarray(FRAMES[0])
    alpha = image.copy()
    alpha.putalpha(9)
    assert np.array_equal(load_images(alpha)[0], FRAMES[0])
    grey = load_images(Image.fromarray(FRAMES[0, ..., 0].astype(np.uint16) << 8))[0]
    assert np.array_equal(grey, np.repeat(FRAMES[0, ..., :1], 3, axis=-1))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    image.save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(load_images(tmp_path / "turned.png")[0], np.rot90(FRAMES[0], -1))


def test_a_large_image_is_refused_by_its_header(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 5000, 4000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    ending = b"IEND"
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    data += struct.pack(">I", 0) + ending + struct.pack(">I", zlib.crc32(ending))
    (tmp_path / "large.png").write_bytes(data)
    with pytest.raises(InputError, match=r"large\.png has frames of 5000 x 4000"):
        load_clip(tmp_path / "large.png")
