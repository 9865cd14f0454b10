# SPDX-License-Identifier: Apache-2.0
"""Frames that are images already: files, folders of files, PIL images, arrays and tensors. Needs no PyAV."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from prunevid.errors import InputError
from prunevid.video.clip import Clip
from prunevid.video.lazy import LazyFrames
from prunevid.video.limits import Limits
from prunevid.video.progress import Reporter
from prunevid.video.sampling import Request, select

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})


def natural_key(name: str) -> tuple[tuple[int, int | str], ...]:
    """Sort key that puts "frame2" before "frame10"; a name without digits sorts as text, ignoring case."""
    parts = re.split(r"(\d+)", name)
    pieces = ((0, int(part)) if part.isdecimal() else (1, part.casefold()) for part in parts if part)
    return (*pieces, (-1, name))  # a name that ends here comes before one that goes on


def folder_frames(folder: Path) -> list[Path]:
    """The image files of a folder (not of folders in it) in natural order; hidden files don't count.

    Raises:
        InputError: the folder can't be read or holds no image.
    """
    try:
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        raise InputError(f"{folder} can't be read ({error.strerror}); check its permissions.") from error
    found = [entry for entry in entries if entry.suffix.lower() in IMAGE_SUFFIXES and entry.is_file()]
    if not found:
        raise InputError(
            f"The folder {folder} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))}); "
            "give a folder of frames or the path of a clip."
        )
    return sorted(found, key=lambda entry: natural_key(entry.name))


def load_images(images: Any, *, limits: Limits | None = None) -> list[NDArray[np.uint8]]:
    """Several images in place of a video, each at its own size.

    Args:
        images: a list of paths, PIL images, (H, W, 3) or (3, H, W) arrays or tensors, mixed as you like; or one
            of these.
        limits: what an image may cost.

    Returns:
        (H, W, 3) uint8 RGB arrays, upright (EXIF orientation applied), alpha dropped.

    Raises:
        InputError: no image, an unreadable one, or one above the limit.
    """
    limits = limits or Limits()
    if not isinstance(images, (list, tuple)):
        images = [images]
    if not images:
        raise InputError("The list of images is empty; give at least one image.")
    return [read_image(image, limits, f"image {number}") for number, image in enumerate(images)]


def read_image(image: Any, limits: Limits, what: str) -> NDArray[np.uint8]:
    """One image as (H, W, 3) uint8 RGB; `what` names it in messages unless it has a path.

    Raises:
        InputError: not an image, unreadable, or above the limit.
    """
    if isinstance(image, (str, os.PathLike)):
        return _read_path(Path(image), limits)
    if isinstance(image, Image.Image):
        return _from_pil(image, limits, what)
    if _is_array(image):
        pixels = as_frames(image, what)
        if pixels.shape[0] != 1:
            raise InputError(f"{what} has shape {tuple(image.shape)}, but must be one (H, W, 3) image.")
        limits.check_pixels(pixels.shape[2], pixels.shape[1], what)
        return pixels[0]
    raise InputError(
        f"{what} is of type {type(image).__name__}, but must be a path, a PIL image or an (H, W, 3) array."
    )


def _read_path(path: Path, limits: Limits) -> NDArray[np.uint8]:
    if not path.is_file():
        raise InputError(f"There is no image file {path}; give the path of an image on this machine.")
    try:
        with Image.open(path, formats=_formats(limits)) as image:
            return _from_pil(image, limits, str(path))
    except Image.DecompressionBombError as error:
        raise InputError(f"{path} is too large an image to be opened safely; scale it down.") from error
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} can't be read as an image; replace it or leave it out.") from error


def _formats(limits: Limits) -> list[str] | None:
    """Pillow's formats that may open a picture, those that this build has; None: all."""
    if limits.pictures is None:
        return None
    Image.init()
    return [name for name in limits.pictures if name in Image.OPEN]


def _from_pil(image: Image.Image, limits: Limits, what: str) -> NDArray[np.uint8]:
    """Checked by the size in its header, before any pixel is decoded."""
    limits.check_pixels(image.width, image.height, what)
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):  # 16 bits in a wider integer: PIL would clip in place of scaling
        wide = np.asarray(upright).astype(np.int64)
        upright = Image.fromarray((np.clip(wide, 0, 65535) >> 8).astype(np.uint8))
    return np.array(upright.convert("RGB"), dtype=np.uint8)


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def as_frames(array: Any, what: str = "the array") -> NDArray[np.uint8]:
    """Arrays and tensors as (T, H, W, 3) uint8.

    Accepts (T, H, W, C), (T, C, H, W), and one image (H, W, C) or (C, H, W), with C = 3, 4 (alpha, dropped) or 1
    (grey); where both readings are possible the channels are last. Integers must be 0 ... 255, floats 0 ... 1.

    Raises:
        InputError: another shape, another range, or no frames.
    """
    shape = tuple(int(size) for size in array.shape)
    values = _to_numpy(array)
    if values.ndim == 3:
        values = values[None]
    if values.ndim != 4:
        raise InputError(f"{what} has shape {shape}, but must be (T, H, W, 3) or (T, 3, H, W).")
    if values.shape[-1] not in (1, 3, 4):
        if values.shape[1] not in (1, 3, 4):
            raise InputError(f"{what} has shape {shape}, but must be (T, H, W, 3) or (T, 3, H, W).")
        values = values.transpose(0, 2, 3, 1)
    if 0 in values.shape:
        raise InputError(f"{what} has shape {shape} and so holds no pixel; give at least one frame.")
    pixels = _to_bytes(values[..., :3], what)
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:3], 3)))


def _to_numpy(array: Any) -> NDArray[Any]:
    """Tensors come to the host; torch is not imported for it, and bfloat16, which NumPy lacks, is widened."""
    if hasattr(array, "detach"):
        array = array.detach().cpu()
        if array.is_floating_point():
            array = array.float()
        return np.asarray(array.numpy())
    return np.asarray(array)


def _to_bytes(values: NDArray[Any], what: str) -> NDArray[np.uint8]:
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind not in "iuf":
        raise InputError(f"{what} has dtype {values.dtype}, but must hold integers 0 ... 255 or floats 0 ... 1.")
    top = 1 if values.dtype.kind == "f" else 255
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= top):
        raise InputError(
            f"{what} of dtype {values.dtype} holds values from {low} to {high}, but must stay in 0 ... {top}."
        )
    scaled = np.rint(values * 255.0) if top == 1 else values
    return scaled.astype(np.uint8)


def sample_frames(
    count: int,
    fetch: Callable[[int], NDArray[np.uint8]],
    rate: float,
    request: Request,
    limits: Limits,
    reporter: Reporter,
    source: str,
    backend: str,
    lazy: bool = False,
) -> Clip:
    """Sample `count` evenly timed frames, fetching only those that are chosen; `lazy`: when they are asked for.

    Raises:
        InputError: the chosen frames differ in size, or a limit is exceeded.
    """
    times = [number / rate for number in range(count)]
    selection = select(times, count / rate, rate, request, source)
    limits.check_seconds(selection.span, source)
    if lazy:
        pixels: Any = _lazily(fetch, selection.indices, reporter)
    else:
        reporter.begin(len(selection.indices))
        frames: list[NDArray[np.uint8]] = []
        for number in selection.indices:
            frames.append(fetch(number))
            _check_size(frames, selection.indices, source)
            reporter.step()
        pixels = np.stack(frames)
    return Clip(
        frames=pixels,
        times=tuple(times[number] for number in selection.indices),
        fps=rate,
        duration=count / rate,
        indices=selection.indices,
        total_frames=count,
        source=source,
        sampled_fps=selection.sampled_fps,
        backend=backend,
    )


def _lazily(fetch: Callable[[int], NDArray[np.uint8]], numbers: Sequence[int], reporter: Reporter) -> LazyFrames:
    """Chosen frames, fetched when they are asked for; the first one now, for its size."""

    def fetched(places: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        reporter.begin(len(places))
        for place in places:
            frame = fetch(numbers[place])
            reporter.step()
            yield frame

    height, width, _ = fetch(numbers[0]).shape
    return LazyFrames((len(numbers), height, width, 3), fetched)


def _check_size(frames: Sequence[NDArray[np.uint8]], indices: Sequence[int], source: str) -> None:
    first, latest = frames[0].shape, frames[-1].shape
    if first != latest:
        raise InputError(
            f"The frames of {source} differ in size: frame {indices[0]} is {first[1]} x {first[0]}, frame "
            f"{indices[len(frames) - 1]} is {latest[1]} x {latest[0]}; bring them to one size, or pass them as images."
        )
