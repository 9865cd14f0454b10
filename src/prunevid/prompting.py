# SPDX-License-Identifier: Apache-2.0
"""From clips and questions to what a model's own processor returns, with the frames' true times.

A processor that isn't told when the frames were shown assumes 24 a second, and then all temporal rotary
positions of a short clip collapse into one (docs/algorithm.md, "Positions"). Every clip therefore travels
with metadata of its own.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from prunevid.errors import InputError, UnsupportedModelError
from prunevid.turns import written
from prunevid.video import Clip

CLOCK = 1000.0
"""Ticks a second, at least, of the clock in which frame times are given to processors."""
SLACK = 1e-6
"""Relative; positions are truncated to whole numbers, so a rate that is too high by one rounding would lose a
step."""

_PER_TOKEN = ("input_ids", "attention_mask", "mm_token_type_ids")
_PER_QUESTION = ("qformer_input_ids", "qformer_attention_mask")  # what a Q-Former reads beside the frames


def true_metadata(clip: Clip) -> Any:
    """`Clip.metadata` on a finer clock, as a transformers `VideoMetadata`.

    Processors take two things from metadata: `sampled_fps` = number of frames / total_num_frames * fps (Qwen2.5-VL
    makes the seconds of a grid step of it) and `timestamps` = frames_indices / fps. Counted in the file's frames,
    both are rounded, for total_num_frames is whole: by some percent in a short part of a clip. Counted in ticks of
    a fast clock, `sampled_fps` is the clip's to a millionth and the timestamps are its times to a millisecond.

    Args:
        clip: T sampled frames and the seconds at which they were shown.
    """
    from transformers.video_utils import VideoMetadata

    rate = float(clip.sampled_fps)
    if not math.isfinite(rate) or rate <= 0:
        rate = 1.0
    rate *= 1.0 - SLACK
    ticks = max(1, math.ceil(CLOCK / rate))
    clock = rate * ticks
    fields = clip.metadata()
    fields["total_num_frames"] = len(clip) * ticks
    fields["fps"] = clock
    fields["frames_indices"] = [round(time * clock) for time in clip.times]
    return VideoMetadata(**fields)


def truncates_seconds(base: Any) -> bool:
    """Whether this model cuts `second_per_grid_ts` to whole seconds, as Qwen2.5-VL does in transformers 5.17.

    There, every grid step under a second gets the same temporal position. Found out by asking for the positions of a
    video of three steps of 1.75 s and one token each: the last starts 3.5 s after the first, not 2.

    Args:
        base: the module with `get_rope_index` (`model.model`).
    """
    numbering = getattr(base, "get_rope_index", None)
    if numbering is None or "second_per_grid_ts" not in inspect.signature(numbering).parameters:
        return False
    config = base.config
    rate, merge = config.vision_config.tokens_per_second, config.vision_config.spatial_merge_size
    ids = torch.full((1, 3), config.video_token_id)
    positions, _ = numbering(
        input_ids=ids,
        mm_token_type_ids=torch.full_like(ids, 2),
        video_grid_thw=torch.tensor([[3, merge, merge]]),
        second_per_grid_ts=torch.tensor([1.75]),
        attention_mask=torch.ones_like(ids),
    )
    return int(positions[0, 0, 2] - positions[0, 0, 0]) < int(3.5 * rate)


class Prompter:
    """Makes model inputs for one model with one processor.

    Args:
        processor: a transformers processor with a chat template, a tokenizer and a video processor.
        device: where the tensors go.
        dtype: type of the pixel values (other tensors keep theirs); None leaves float32.
        whole_seconds: round the seconds of a grid step, to one at least, for a model that would cut them off
            (`truncates_seconds`).

    Raises:
        UnsupportedModelError: the processor has no chat template or takes no videos.
    """

    def __init__(
        self,
        processor: Any,
        device: torch.device | str,
        dtype: torch.dtype | None = None,
        whole_seconds: bool = False,
    ) -> None:
        if getattr(processor, "video_processor", None) is None:
            raise UnsupportedModelError(
                f"The processor {type(processor).__name__} takes no videos; use a model that comes with a video "
                "processor."
            )
        if not getattr(processor, "chat_template", None):
            raise UnsupportedModelError(
                "The model's processor has no chat template, so questions can't be asked; use an instruction-tuned "
                "model."
            )
        self.processor = processor
        self.device = torch.device(device)
        self.dtype = dtype
        self.whole_seconds = whole_seconds

    def check(self, question: object) -> str:
        """The question without space around it.

        Raises:
            InputError: it is empty, no text, or holds one of the model's placeholders for pictures and
                videos.
        """
        if not isinstance(question, str):
            raise InputError(f"A question must be text, but this one is a {type(question).__name__}.")
        if not question.strip():
            raise InputError("The question is empty; ask something about the clip.")
        for name in ("video_token", "image_token"):
            token = getattr(self.processor, name, None)
            if isinstance(token, str) and token in question:
                raise InputError(f"The question contains {token!r}, which stands for frames; leave it out.")
        return question.strip()

    def text(self, question: str) -> str:
        """The prompt in the model's chat format, with one placeholder for the video."""
        content = [{"type": "video"}, {"type": "text", "text": self.check(question)}]
        rendered = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        return str(rendered)

    def conversation(
        self, question: object, history: Sequence[tuple[str, str]] = (), prompt: str | None = None
    ) -> str | None:
        """The whole prompt of a question that follows others; `prompt` as it is, or None for a question alone.

        Args:
            question: the last one.
            history: (question, answer) of those before, which the model is shown.
            prompt: a whole prompt, which takes the place of both.

        Raises:
            InputError: see `check`, for earlier questions and answers too; both history and prompt are given; the
                model's chat format has no place for earlier turns.
        """
        if not history:
            self.whole(question, prompt)  # type: ignore[arg-type]
            return prompt
        if prompt is not None:
            raise InputError("Give either a history or a whole prompt, and not both.")
        turns = [(role, self._shown(text)) for pair in history for role, text in zip(("user", "assistant"), pair)]
        rendered = written(self.processor, [*turns, ("user", self.check(question))])
        if rendered is None:
            raise InputError("The chat format of this model has no place for earlier turns; ask without a history.")
        return self.check_prompt(rendered)

    def _shown(self, text: object) -> str:
        """An earlier question or answer, which may be empty."""
        return "" if isinstance(text, str) and not text.strip() else self.check(text)

    def check_prompt(self, prompt: object) -> str:
        """A whole prompt as it is.

        Raises:
            InputError: it is no text, or does not hold the video's placeholder exactly once, or holds one for pictures.
        """
        if not isinstance(prompt, str):
            raise InputError(f"A prompt must be text, but this one is a {type(prompt).__name__}.")
        video, image = (getattr(self.processor, name, None) for name in ("video_token", "image_token"))
        if isinstance(video, str) and prompt.count(video) != 1:
            raise InputError(
                f"The prompt holds {prompt.count(video)} times {video!r}, which stands for the video; write it once."
            )
        if isinstance(image, str) and image != video and image in prompt:
            raise InputError(f"The prompt contains {image!r}, which stands for a picture; leave it out.")
        return prompt

    def whole(self, question: str, prompt: str | None = None) -> str:
        """What the model reads: `prompt` where it is given, and the question in the model's chat format otherwise."""
        return self.text(question) if prompt is None else self.check_prompt(prompt)

    def encode(
        self, clips: Sequence[Clip], questions: Sequence[str], prompts: Sequence[str | None] | None = None
    ) -> dict[str, Any]:
        """Model inputs of a batch: row i asks `questions[i]` about `clips[i]`; shorter rows are padded on the
        left.

        Args:
            prompts: whole prompts (`check_prompt`), one for each clip, which take the questions' place; a None leaves
                the question.

        Returns:
            What the processor returns, on the device: input_ids and attention_mask (B, S), pixel values,
                grids, ...

        Raises:
            InputError: see `check` and `check_prompt`.
        """
        texts = [
            self.whole(question, prompt) for question, prompt in zip(questions, prompts or [None] * len(questions))
        ]
        options: dict[str, Any] = {}
        if hasattr(self.processor.video_processor, "cap_pixels_per_frame"):
            # Long videos stay within the token budget of the family's reference implementation.
            configured = self.processor.video_processor.cap_pixels_per_frame
            options["cap_pixels_per_frame"] = True if configured is None else configured
        inputs = self.processor(
            text=texts,
            videos=self._videos(clips),
            video_metadata=[true_metadata(clip) for clip in clips],
            do_sample_frames=False,
            input_data_format="channels_last",
            padding=True,
            padding_side="left",
            return_tensors="pt",
            **options,
        )
        return {name: self._place(name, value) for name, value in inputs.items()}

    def _videos(self, clips: Sequence[Clip]) -> list[Any]:
        """The frames as the processor wants them: SmolVLM2's takes a list a row (transformers 5.17 only so)."""
        by_row = hasattr(self.processor, "global_image_token")
        frames = [clip.in_memory().frames for clip in clips]
        return [[pixels] if by_row else pixels for pixels in frames]

    def _place(self, name: str, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if name == "second_per_grid_ts" and self.whole_seconds:
            value = value.round().clamp(min=1.0)
        if name.startswith("pixel_values") and self.dtype is not None:
            return value.to(self.device, self.dtype)
        return value.to(self.device)


class VideoPrompt:
    """The inputs of many questions about one clip: frames are prepared once, and every question gets the same
    tensors.

    The very same pixel tensor object goes to the model each time, by which the engine knows that it has seen
    it.

    Args:
        prompter: makes the inputs of the first question, and of those that begin otherwise.
        clip: the clip.
        encode: does so in its place (`prunevid.outlines.outline`, say).
    """

    def __init__(self, prompter: Prompter, clip: Clip, encode: Callable[..., dict[str, Any]] | None = None) -> None:
        self._prompter = prompter
        self._encode = encode or prompter.encode
        self._clip = clip
        self._first: dict[str, Any] | None = None
        self._head = ""
        self._border = ""
        self._length = 0

    def encode(self, question: str, prompt: str | None = None) -> dict[str, Any]:
        """Model inputs of one question, as `Prompter.encode` gives them for a batch of one.

        Prompts whose texts are the same up to the video share the work; others are tokenised anew.
        """
        text = self._prompter.whole(question, prompt)
        if self._first is None:
            self._first = self._encode([self._clip], [question], [prompt])
            self._learn(text)
            return dict(self._first)
        head, tail = self._split(text)
        # A tokenizer may treat what follows a placeholder by its first character, and take space away there.
        if self._length and head == self._head and tail[:1] == self._border:
            return self._continue(tail)
        inputs = self._encode([self._clip], [question], [prompt])
        anew = _PER_TOKEN + _PER_QUESTION
        return {name: value if name in anew else self._first[name] for name, value in inputs.items()}

    def inputs(self) -> list[Any]:
        """What is held of the clip, besides its frames."""
        return list((self._first or {}).values())

    def forget(self) -> None:
        """Lets go of what is held."""
        self._first, self._length = None, 0

    def _split(self, text: str) -> tuple[str, str]:
        """The prompt up to and including the video's placeholder, and the rest."""
        token = getattr(self._prompter.processor, "video_token", None)
        if not isinstance(token, str):
            return "", ""
        head, found, tail = text.rpartition(token)
        return head + found, tail

    def _tokens(self, text: str) -> Tensor:
        ids = self._prompter.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        return torch.tensor(ids, dtype=torch.long, device=self._prompter.device)

    def _learn(self, text: str) -> None:
        """Finds where the question starts, if tokenising the rest on its own gives the same tokens."""
        inputs = self._first or {}
        row = inputs["input_ids"][0]
        per_token = [name for name, value in inputs.items() if getattr(value, "shape", None) == (1, len(row))]
        head, tail = self._split(text)
        if not head or not set(per_token) <= set(_PER_TOKEN) or any(name in inputs for name in _PER_QUESTION):
            return
        rest = self._tokens(tail)
        if 0 < len(rest) < len(row) and torch.equal(row[-len(rest) :], rest):
            self._head, self._border, self._length = head, tail[:1], len(row) - len(rest)

    def _continue(self, tail: str) -> dict[str, Any]:
        """The first question's inputs with another question behind the video."""
        first = self._first or {}
        rest = self._tokens(tail)[None]
        fill = {"input_ids": rest, "attention_mask": torch.ones_like(rest)}
        fill["mm_token_type_ids"] = torch.zeros_like(rest)
        return {
            name: torch.cat([value[:, : self._length], fill[name].to(value.dtype)], dim=1)
            if name in _PER_TOKEN
            else value
            for name, value in first.items()
        }
