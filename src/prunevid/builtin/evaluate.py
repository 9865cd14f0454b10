# SPDX-License-Identifier: Apache-2.0
"""Held-out accuracy of the embedded model: `python -m prunevid.builtin.evaluate [--clips N] [--config JSON] [--json]`.

Every test clip is written as a real video file, decoded again with `prunevid.video`, and put through the ordinary
processor and `model.generate` (greedy), as a user would. Beside it stand two baselines: the most frequent answer to a
wording in the training split, and the model looking at an empty grey clip. `--config` measures the same under pruning.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from prunevid.builtin.clips import SyntheticClip, make_clip, write_clip
from prunevid.builtin.model import ANSWER_TOKENS, DEFAULTS, build_model, build_processor, load, load_weights
from prunevid.builtin.scenes import FPS, FRAMES, SIZE
from prunevid.builtin.scoring import Asked, Majority, Score, scores
from prunevid.errors import ConfigError


def prompts(processor: Qwen2_5_VLProcessor, texts: list[str]) -> list[str]:
    """Chat prompts, one for each question, with the place of one clip."""
    return [
        processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": text}]}],
            tokenize=False,
            add_generation_prompt=True,
        )
        for text in texts
    ]


@torch.no_grad()
def answer(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    texts: list[str],
    frames: np.ndarray,
    metadata: dict[str, Any],
) -> list[str]:
    """Answers several questions about one clip in one left-padded batch, greedily.

    Args:
        texts: questions.
        frames: (T, H, W, 3) uint8.
        metadata: what transformers' VideoMetadata holds; its fps and frames_indices set the temporal positions.
    """
    inputs = processor(
        text=prompts(processor, texts),
        videos=[frames] * len(texts),
        video_metadata=[dict(metadata) for _ in texts],
        padding=True,
        return_tensors="pt",
    ).to(model.device)
    made = model.generate(**inputs, do_sample=False, max_new_tokens=ANSWER_TOKENS)
    new = made[:, inputs["input_ids"].shape[1] :]
    return [text.strip() for text in processor.batch_decode(new, skip_special_tokens=True)]


def through_file(clip: SyntheticClip, folder: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Frames and metadata of a clip after it was written as a video file and decoded again."""
    from prunevid.video import load_clip

    path = write_clip(clip, folder / "clip.mp4")
    try:
        loaded = load_clip(path, max_frames=len(clip.frames))
        return loaded.frames, dict(loaded.metadata())
    finally:
        path.unlink()


def straight(clip: SyntheticClip) -> tuple[np.ndarray, dict[str, Any]]:
    """Frames and metadata of a clip as it was drawn, without a file."""
    count = len(clip.frames)
    return clip.frames, {"total_num_frames": count, "fps": clip.fps, "frames_indices": list(range(count))}


def evaluate(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    clips: int = 100,
    *,
    first: int = 0,
    split: str = "test",
    questions: int = 12,
    file: bool = True,
) -> list[Asked]:
    """Puts every question of some clips to the model (attach pruning before, if wanted).

    Args:
        clips: number of clips, from seed `first` on, of a split.
        file: through a real video file rather than straight from memory.
    """
    asked: list[Asked] = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(first, first + clips):
            clip = make_clip(seed, split, questions=questions)
            frames, metadata = through_file(clip, Path(folder)) if file else straight(clip)
            said = answer(model, processor, [question.text for question in clip.questions], frames, metadata)
            asked += [Asked(seed, q.kind, q.text, q.answer, word) for q, word in zip(clip.questions, said, strict=True)]
    return asked


def baselines(
    model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor, asked: list[Asked]
) -> dict[str, dict[str, Score]]:
    """Scores of the same questions guessed from the wording ("majority") and asked about an empty clip ("no video")."""
    majority = Majority()
    guessed = [Asked(a.clip, a.kind, a.text, a.answer, majority.guess(a.kind, a.text)) for a in asked]
    texts = sorted({item.text for item in asked})
    empty = np.full((FRAMES, SIZE, SIZE, 3), 128, np.uint8)
    metadata = {"total_num_frames": FRAMES, "fps": FPS, "frames_indices": list(range(FRAMES))}
    said: dict[str, str] = {}
    for start in range(0, len(texts), 32):
        part = texts[start : start + 32]
        said.update(zip(part, answer(model, processor, part, empty, metadata), strict=True))
    blind = [Asked(a.clip, a.kind, a.text, a.answer, said[a.text]) for a in asked]
    return {"majority": scores(guessed), "no video": scores(blind)}


def table(columns: dict[str, dict[str, Score]]) -> str:
    """A plain-text (Markdown) table: a row for each kind, the first column with its interval."""
    names = list(columns)
    lines = [
        "| kind | questions | " + " | ".join(names) + " |",
        "| --- | --- | " + " | ".join("---" for _ in names) + " |",
    ]
    for kind, shown in columns[names[0]].items():
        cells = [f"{shown.accuracy:.3f} ({shown.low:.3f} to {shown.high:.3f})"]
        cells += [f"{columns[name][kind].accuracy:.3f}" for name in names[1:]]
        lines.append(f"| {kind} | {shown.questions} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _pruning(model: Qwen2_5_VLForConditionalGeneration, text: str | None) -> contextlib.AbstractContextManager[Any]:
    """Pruning attached as `--config` says: a JSON object of PruneVidConfig settings, or the name of a method."""
    if text is None:
        return contextlib.nullcontext()
    import prunevid
    from prunevid.config import PruneVidConfig

    if not text.lstrip().startswith("{"):
        return prunevid.attach(model, text)
    try:
        settings = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"--config is no JSON object ({error}).") from error
    return prunevid.attach(model, PruneVidConfig().replace(**{**DEFAULTS, **settings}))


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else None)
    parser.add_argument("--clips", type=int, default=100, help="number of test clips")
    parser.add_argument("--first", type=int, default=0, help="seed of the first one")
    parser.add_argument("--questions", type=int, default=12, help="at most so many questions a clip")
    parser.add_argument("--memory", action="store_true", help="frames from memory instead of a real video file")
    parser.add_argument("--weights", type=Path, help="other weights than the shipped ones")
    parser.add_argument("--config", help="prune: a JSON object of settings, or the name of a method")
    parser.add_argument("--no-baselines", action="store_true", help="leave the baselines out")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args(arguments)
    if given.weights is None:
        model, processor = load()
    else:
        model, processor = load_weights(build_model(), given.weights).eval(), build_processor()
    with _pruning(model, given.config):
        asked = evaluate(
            model, processor, given.clips, first=given.first, questions=given.questions, file=not given.memory
        )
    columns = {"accuracy": scores(asked)}
    if not given.no_baselines:
        columns.update(baselines(model, processor, asked))
    if given.json:
        plain = {name: {kind: asdict(s) for kind, s in column.items()} for name, column in columns.items()}
        sys.stdout.write(json.dumps({"clips": given.clips, "config": given.config, **plain}, indent=1) + "\n")
    else:
        sys.stdout.write(table(columns) + "\n")


if __name__ == "__main__":
    main()
