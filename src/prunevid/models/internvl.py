# SPDX-License-Identifier: Apache-2.0
"""InternVL: frames are pictures like any other; which of them make a video is the caller's to say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from prunevid.errors import InputError
from prunevid.models.base import Adapter, VideoLayout, first_pixels


class InternVL(Adapter):
    """InternVL 2.5, 3 and 3.5 in the layout of transformers.

    The model has no video input: its processor writes one placeholder run a frame, the same as for the tiles of a
    picture, and nothing in the model's input tells them apart. `frames_per_video` does.
    """

    model_types: ClassVar[frozenset[str]] = frozenset({"internvl"})
    checkpoints: ClassVar[tuple[str, ...]] = (
        "OpenGVLab/InternVL3-1B-hf",
        "OpenGVLab/InternVL3-2B-hf",
        "OpenGVLab/InternVL3-8B-hf",
        "OpenGVLab/InternVL3-14B-hf",
        "OpenGVLab/InternVL3-38B-hf",
        "OpenGVLab/InternVL3-78B-hf",
    )
    feature_function: ClassVar[str] = "get_image_features"
    modality: ClassVar[str] = "image"
    pixels: ClassVar[str] = "pixel_values"
    frames_as_images: ClassVar[bool] = True
    contiguous: ClassVar[bool] = False

    def video_token_id(self, config: Any) -> int:
        """Frames use the pictures' placeholder."""
        return int(config.image_token_id)

    def image_token_id(self, config: Any) -> int | None:
        """None: pictures that are no frames come as layouts without cells."""
        return None

    def layouts(self, base: Any, arguments: dict[str, Any], output: Any) -> list[VideoLayout]:
        """See `Adapter.layouts`; a picture that is no frame is a layout of protected tokens alone."""
        vision = base.config.vision_config
        side = int(vision.image_size[0] // vision.patch_size[0] * base.config.downsample_ratio)
        pictures = int(first_pixels(arguments).shape[0])
        layouts = []
        for frames in _split(pictures, arguments.get("frames_per_video")):
            if frames > 0:
                layouts.append(VideoLayout(frames, side, side))
            else:
                layouts += [VideoLayout(0, side, side, tail=side * side)] * -frames
        return layouts


def _split(pictures: int, frames: int | Sequence[int] | None) -> list[int]:
    """Runs of pictures in order: n > 0 the frames of one video, n < 0 that many pictures that stay whole."""
    if isinstance(frames, int) and frames > 0:
        if pictures % frames:
            raise InputError(
                f"{pictures} pictures can't be videos of {frames} frames each (frames_per_video); give a list with "
                "the number of frames of every video."
            )
        return [frames] * (pictures // frames)
    if not frames or isinstance(frames, int):
        return [-pictures]
    if sum(map(abs, frames)) != pictures:
        raise InputError(
            f"frames_per_video {list(frames)} describes {sum(map(abs, frames))} pictures, but the prompt has "
            f"{pictures}; give the number of frames of every video in the order of the prompt, and of pictures that "
            "are no frames as a negative number."
        )
    return list(frames)
