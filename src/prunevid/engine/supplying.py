# SPDX-License-Identifier: Apache-2.0
"""Features of videos that are encoded in parts: the tower runs on some frames at a time, and their cells are joined.

What the model needs besides the features (hidden states of the tower, say) is dropped part by part, so that only the
features grow with the clip.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prunevid.engine.record import Encoded
from prunevid.engine.timing import now
from prunevid.errors import UnsupportedError
from prunevid.methods.base import TowerView
from prunevid.models.base import Adapter, VideoLayout


def arguments_of(encode: Callable[..., Any], inputs: Mapping[str, Any], pixels: str) -> dict[str, Any]:
    """Those of a prompt's inputs that a feature function takes, as `generate` and the model's forward pass pick them.

    Args:
        encode: the feature function; its pixels may have another name than the model's.
        inputs: of the model.
        pixels: `Adapter.pixels`.
    """
    names = inspect.signature(encode).parameters
    given = {name: inputs[name] for name in names if name in inputs and name != "kwargs"}
    given.setdefault(next(name for name in names if name.startswith("pixel")), inputs[pixels])
    return given


@dataclass(frozen=True)
class Supply:
    """What `Pruning.supply` yields: `add(video, frames, inputs)` for every part in order, then `finish()`.

    known: whether the features are remembered from an earlier prompt (`Pruning.reuse`), so that nothing is to be added.
    """

    add: Callable[[int, int, Mapping[str, Any]], None]
    finish: Callable[[], None]
    known: bool = False


class Joined:
    """Collects the parts of one prompt's videos, one video after the other.

    Args:
        adapter: the family.
        base: the base model.
        encode: its own feature function.
        frames: of every video in order.
        watch: a context that yields what `watch_tower` does, or None; entered for every part.
        measure: whether to take the time.

    Attributes:
        milliseconds: that the tower took.
    """

    def __init__(
        self,
        adapter: Adapter,
        base: Any,
        encode: Callable[..., Any],
        frames: list[int],
        watch: Callable[[], Any],
        measure: bool,
    ) -> None:
        self._adapter, self._base, self._encode, self._watch, self._measure = adapter, base, encode, watch, measure
        self._videos = [_Video(count) for count in frames]
        self._kind: type | None = None
        self.milliseconds = 0.0

    def add(self, video: int, frames: int, inputs: Mapping[str, Any]) -> None:
        """Encodes the next part of a video.

        Args:
            video: its number.
            frames: of this part.
            inputs: the model's inputs for a prompt about this part alone.

        Raises:
            UnsupportedError: the features are not laid out as the family's are.
        """
        given = arguments_of(self._encode, inputs, self._adapter.pixels)
        device = next((value.device for value in given.values() if isinstance(value, Tensor)), None)
        started = now(device, self._measure)
        with torch.no_grad(), self._watch() as seen:
            output = self._encode(**given, return_dict=True)
        self.milliseconds += now(device, self._measure) - started
        arguments = dict(inspect.signature(self._encode).bind(**given).arguments)
        if self._adapter.frames_as_images:
            arguments["frames_per_video"] = [frames]
        layouts = self._adapter.layouts(self._base, arguments, output)
        if len(layouts) != 1:
            raise UnsupportedError(
                f"A part of a video gave {len(layouts)} layouts in place of one; set vision_chunk_frames=0."
            )
        self._kind = self._kind or type(output)
        views = None if seen is None else seen.views(layouts, arguments)
        self._videos[video].add(frames, layouts[0], output, views)

    def finish(self) -> tuple[Any, Encoded]:
        """The feature function's output for all videos, and its description."""
        poolers = [video.features["pooler_output"] for video in self._videos]
        fields = {"pooler_output": poolers[0].together(poolers)}
        depth = self._videos[0].depth
        if depth:
            rows = [[video.features[f"deepstack_{level}"] for video in self._videos] for level in range(depth)]
            fields["deepstack_features"] = [row[0].together(row) for row in rows]
        views = [video.view() for video in self._videos]
        layouts = [video.layout for video in self._videos]
        known = [view for view in views if view is not None]
        kind: Any = self._kind
        declared = {field.name for field in dataclasses.fields(kind)}
        output = kind(**{name: value for name, value in fields.items() if name in declared})
        for name in fields.keys() - declared:  # transformers 5.17 adds them to outputs that have no such field
            setattr(output, name, fields[name])
        return output, Encoded(layouts, self.milliseconds, views=known if len(known) == len(views) else None)


class _Video:
    """The parts of one video of so many frames."""

    def __init__(self, frames: int) -> None:
        self.frames = frames
        self.seen = 0
        self.depth = 0
        self.features: dict[str, _Rows] = {}
        self._layout: VideoLayout | None = None
        self._views: list[TowerView] = []

    def add(self, frames: int, layout: VideoLayout, output: Any, views: list[TowerView] | None) -> None:
        deep = getattr(output, "deepstack_features", None) or []
        self.depth = len(deep)
        found = {"pooler_output": output.pooler_output, **{f"deepstack_{n}": one for n, one in enumerate(deep)}}
        for name, value in found.items():
            if name not in self.features:
                # Some families pad what is left of the last step; every part but the last has whole steps.
                steps = -(-self.frames * layout.frames // frames)
                self.features[name] = _Rows(value, layout, steps)
            self.features[name].add(value, layout)
        steps = layout.frames + (self._layout.frames if self._layout is not None else 0)
        self._layout = dataclasses.replace(layout, frames=steps)
        self._views += views or []
        self.seen += frames

    @property
    def layout(self) -> VideoLayout:
        """Of the whole video."""
        if self._layout is None or self.seen != self.frames:
            raise UnsupportedError(
                f"Of a video of {self.frames} frames {self.seen} were encoded; encode every part of it once."
            )
        return self._layout

    def view(self) -> TowerView | None:
        """What was seen of the tower, of all parts."""
        if not self._views:
            return None
        salience, keys = ([getattr(view, name) for view in self._views] for name in ("salience", "keys"))
        return dataclasses.replace(self._views[0], salience=torch.cat(salience), keys=torch.cat(keys))


class _Rows:
    """The features of one video, written part by part into one tensor that is made for all.

    Versions and families differ in how a video's features are laid out: alone in a list or as a row of a stack, with an
    axis of frames or without one, with the tokens that follow the last frame or without.

    Args:
        value: of the first part.
        layout: of the first part.
        steps: frames of the grid of the whole video.
    """

    def __init__(self, value: Any, layout: VideoLayout, steps: int) -> None:
        self._listed = type(value) if isinstance(value, (list, tuple)) else None
        first = self._one(value)
        row = layout.height * (layout.width + layout.newlines)
        self._stacked = self._listed is None and first.ndim == 3 and first.shape[0] == 1 and layout.frames > 1
        if self._stacked:
            first = first[0]
        self._by_frame = first.ndim == 3
        self._unit = 1 if self._by_frame else row  # entries of the leading axis that one frame takes
        self._tail = first.shape[0] - self._unit * layout.frames
        if self._tail not in (0, layout.tail):
            raise UnsupportedError(
                f"{layout.frames} x {row} tokens gave features of shape {tuple(first.shape)}, so parts of a video "
                "can't be joined; set vision_chunk_frames=0."
            )
        self._all = first.new_empty(self._unit * steps + self._tail, *first.shape[1:])
        self._filled = 0

    def add(self, value: Any, layout: VideoLayout) -> None:
        part = self._one(value)
        part = part[0] if self._stacked else part
        count = self._unit * layout.frames + self._tail  # the next part writes over the tail
        if part.shape[0] != count or part.shape[1:] != self._all.shape[1:] or self._filled + count > len(self._all):
            raise UnsupportedError(
                f"A part of a video has features of shape {tuple(part.shape)} where {count} were expected; set "
                "vision_chunk_frames=0."
            )
        self._all[self._filled : self._filled + count] = part
        self._filled += self._unit * layout.frames

    def together(self, videos: list[_Rows]) -> Any:
        """What the feature function would have returned for these videos."""
        rows = [video._all[: video._filled + video._tail] for video in videos]
        if self._listed is not None:
            return self._listed(rows)
        if self._stacked:
            return torch.stack(rows) if len(rows) > 1 else rows[0][None]
        return torch.cat(rows) if len(rows) > 1 else rows[0]

    def _one(self, value: Any) -> Tensor:
        """The features of the part's only video."""
        if self._listed is None:
            one: Tensor = value
        elif len(value) == 1:
            one = value[0]
        else:
            raise UnsupportedError(
                f"A part of a video gave the features of {len(value)} videos; set vision_chunk_frames=0."
            )
        return one
