# SPDX-License-Identifier: Apache-2.0
"""What is drawn: an answer, or the token maps of a prefill, with the frames that belong to them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from prunevid.errors import InputError
from prunevid.region import WHOLE, Region
from prunevid.view.colours import Pixels
from prunevid.view.pictures import Canvas, blank, checked, fit
from prunevid.view.tokens import Cells

if TYPE_CHECKING:
    from prunevid.answers import Answer
    from prunevid.engine import TokenMap


@dataclass(frozen=True, eq=False)
class Part:
    """One video or image of a prompt.

    Attributes:
        cells: its grid.
        frames: (n, H, W, 3) uint8, or None where they are not at hand; then plain cells are drawn.
        region: the part of the frames that the grid covers.
        times: of the frames, in seconds; empty where they are not known.
    """

    cells: Cells
    frames: Pixels | None
    region: Region = WHOLE
    times: tuple[float, ...] = ()

    def by_step(self, width: int, most: int | None = None) -> Canvas:
        """A canvas with the first frame of every grid step, or of `most` steps; see `Canvas.by_step`."""
        canvas = Canvas.by_step(self._shown(width), self.cells, self._region, most)
        return dataclasses.replace(canvas, frames=fit(canvas.frames, width))

    def by_frame(self, width: int) -> Canvas:
        """A canvas with every frame; see `Canvas.by_frame`."""
        return Canvas.by_frame(fit(self._shown(width), width), self.cells, self._region)

    @property
    def _drawn(self) -> bool:
        """Whether the cells lie over frames: a query slot has no place in them."""
        return self.frames is not None and self.cells.pictured

    @property
    def _region(self) -> Region:
        return self.region if self._drawn else WHOLE

    def _shown(self, width: int) -> Pixels:
        if self.frames is None or not self.cells.pictured:
            return blank(self.cells, width)
        return checked(self.frames)


@dataclass(frozen=True, eq=False)
class Subject:
    """All of it.

    Attributes:
        parts: the videos and images, in the order in which they stand in the prompt.
        heading: lines above a picture, the first one in larger letters.
        stats: what the run cost (`prunevid.stats.row_stats`); empty where it is not known.
    """

    parts: tuple[Part, ...]
    heading: tuple[str, ...] = ()
    stats: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, subject: Answer | Subject | Sequence[TokenMap], frames: Any = None) -> Subject:
        """What to draw of an answer, or of the token maps of one row (`pruning.maps[row]`).

        Args:
            subject: either, or a subject already.
            frames: for one video (T, H, W, 3) uint8 or a `Clip`; a list of such for several, None among them where
                they are not at hand. None: an answer's own, none for token maps.

        Raises:
            InputError: there is no video to draw, or frames that don't fit.
        """
        if isinstance(subject, Subject):
            return subject
        if isinstance(subject, Sequence):
            return cls(_parts(subject, frames))
        return cls._of_answer(subject, frames)

    def with_stats(self, stats: Mapping[str, Any]) -> Subject:
        """The same with what its run cost."""
        return dataclasses.replace(self, stats=stats)

    @classmethod
    def _of_answer(cls, answer: Answer, frames: Any) -> Subject:
        if frames is None and answer.maps:
            frames = answer.frames() if len(answer.maps) == 1 else [None] * len(answer.maps)
        parts = _parts(answer.maps, frames, answer.clip.region, answer.clip.times)
        heading = (f"“{answer.question}”", f"answer: {answer.text}" if answer.text else "no answer")
        return cls(parts, heading, answer.stats)


def _parts(
    maps: Sequence[TokenMap], frames: Any, region: Region = WHOLE, times: tuple[float, ...] = ()
) -> tuple[Part, ...]:
    if not maps:
        raise InputError(
            "There is no video to draw: the prompt had none, or it was not seen by a pruning; ask with a clip."
        )
    each = _listed(frames, len(maps))
    found = []
    for item, own in zip(maps, each):
        fits = own is not None and len(own) == len(times)
        found.append(Part(Cells.of(item), own, region, times if fits else ()))
    return tuple(found)


def _listed(frames: Any, count: int) -> list[Pixels | None]:
    """Frames of every video.

    Raises:
        InputError: there are more or fewer than videos.
    """
    if frames is None:
        return [None] * count
    several = isinstance(frames, (list, tuple))
    listed = list(frames) if several else [frames]
    if len(listed) != count:
        raise InputError(
            f"frames describes {len(listed)} videos, but the prompt has {count}; give a list with the frames of each, "
            "None where they are not at hand."
        )
    return [None if own is None else np.asarray(getattr(own, "frames", own)) for own in listed]
