# SPDX-License-Identifier: Apache-2.0
"""Answers and handles that show themselves: from the record and the same frames, without running the model."""

from __future__ import annotations

import copy
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import prunevid
from engine import matrix
from engine.families import FAMILIES, make_inputs, make_prompt, settings
from engine.methods_matrix import model_of
from engine.tiny import generate
from prunevid.builtin.model import WEIGHTS
from prunevid.errors import InputError
from prunevid.region import WHOLE, seen_region
from prunevid.view import Cells, attention_sheet, overlay, sheet, stages_svg, watch
from view.drawn import answer_of, clip, clip_file, embedded, white

needs_weights = pytest.mark.skipif(not WEIGHTS.is_file(), reason="the embedded model's weights are not there")


@needs_weights
def test_drawing_never_runs_the_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not the model, nor anything that a method does."""
    answer, watched = answer_of("prunevid"), watch(embedded(), clip_file(), clip().questions[0].text)

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a picture ran the model")

    for owner, name in ((torch.nn.Module, "__call__"), (torch, "matmul"), (torch.Tensor, "__matmul__")):
        monkeypatch.setattr(owner, name, refuse)
    monkeypatch.setattr("prunevid.methods.prunevid.merge_video", refuse)
    monkeypatch.setattr("prunevid.methods.prunevid.question_scores", refuse)
    with pytest.raises(AssertionError, match="ran the model"):
        embedded().ask(clip_file(), clip().questions[0].text)
    answer.show()
    for ending in ("png", "mp4", "gif"):
        answer.show(tmp_path / f"a.{ending}", width=240)
    overlay(answer, width=60)
    attention_sheet(watched)
    stages_svg(answer.stats, answer.maps)
    assert answer._repr_html_().startswith("<img ")


@needs_weights
def test_frames_of_a_file_are_read_again_and_those_in_memory_held(tmp_path: Path) -> None:
    qa, question = embedded(), clip().questions[0].text
    copied = Path(shutil.copy(clip_file(), tmp_path / "clip.mp4"))
    loaded = qa.load_clip(copied, max_frames=5, start=1.0)
    answer = qa.ask(loaded, question)
    assert answer.seen is None and answer.clip.indices == loaded.indices
    assert (answer.frames() == loaded.frames).all()
    own = [frame for frame in white(6, 64, 64)]
    kept = qa.ask(own, question)
    assert kept.seen is not None and kept.frames().shape == (6, 64, 64, 3) and (kept.frames() == 255).all()
    again = pickle.loads(pickle.dumps(copy.deepcopy(kept)))
    assert (again.frames() == 255).all()
    batch = qa.ask_batch([(own, question), (copied, question)])
    assert [one.seen is None for one in batch] == [False, True]
    with qa.open(copied, max_frames=4) as video:
        assert (video.ask(question).frames() == video.clip.frames).all()
    copied.unlink()
    with pytest.raises(InputError, match="is gone; pass frames="):
        answer.show()
    assert "is gone" in answer._repr_html_() and answer.question in answer._repr_html_()
    assert answer.show(frames=loaded).width == 1120
    shutil.copy(clip_file(), copied)
    other = prunevid.builtin.write_clip(clip(), tmp_path / "large.mp4", scale=8)
    other.replace(copied)
    with pytest.raises(InputError):
        answer.frames()


@needs_weights
def test_another_method_for_one_question() -> None:
    qa, question = embedded(), clip().questions[0].text
    own = qa.method
    found = qa.using("uniform", retention_tokens=9).ask(clip_file(), question, max_frames=6)
    assert found.stats["stage1"]["compressed_tokens"] == 9 and len(found.clip.times) == 6 and qa.method is own
    with qa.open(clip_file()), pytest.raises(prunevid.errors.AlreadyAttachedError):
        qa.using("none")


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava_onevision", "video_llava"])
def test_a_handle_draws_every_row(family: str) -> None:
    """Rows with one video, another one, none, and two; protected tokens count as in the statistics."""
    names = matrix.BATCH
    model, prompts = model_of(family), matrix.prompts_of(family, names)
    with matrix.attach(model, family, settings(family)) as pruning:
        with pytest.raises(InputError, match="had 0 rows"):
            pruning.figure()
        generate(model, make_inputs(*prompts), 1)
        for row, maps in enumerate(pruning.maps):
            if not maps:
                with pytest.raises(InputError, match="no video to draw"):
                    pruning.figure(row=row)
                continue
            counts = [Cells.of(item).counts for item in maps]
            stats = pruning.stats[row]
            assert sum(count[0] for count in counts) == stats["stage1"]["original_tokens"]
            assert sum(count[1] for count in counts) == stats["stage1"]["compressed_tokens"]
            assert sum(count[-1] for count in counts) == stats["stage2"]["compressed_tokens"]
            plain = pruning.figure(row=row)
            shown = pruning.figure([white(5)] * len(maps), row=row)
            assert plain.size[0] == shown.size[0] == 1120 and plain.tobytes() != shown.tobytes()
        assert pruning.figure(row=3).height > pruning.figure(row=0).height
        with pytest.raises(InputError, match="row is 4"):
            pruning.figure(row=4)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava_onevision"])
def test_images_beside_videos(family: str) -> None:
    """Also an image that the model shows in several views: a grid for each."""
    model, prompt = model_of(family), make_prompt(family, 2, (3, 2), 3, "image", 5)
    with prunevid.attach(model, settings(family, prune_images=True), **FAMILIES[family].attach) as pruning:
        generate(model, make_inputs(prompt), 1)
        maps = pruning.maps[0]
        cells = [Cells.of(item) for item in maps]
        assert [one.image for one in cells] == [False, *[True] * max(1, len(prompt.images[0].views))]
        assert all(one.shape[0] == 1 for one in cells[1:])
        assert pruning.figure([white(5), *[white(1)] * (len(maps) - 1)]).height > sheet(maps[:1]).height


@pytest.mark.parametrize(
    ("processor", "size", "expected"),
    [
        ({}, (640, 360), WHOLE),
        ({"do_center_crop": False, "crop_size": 224, "size": {"shortest_edge": 224}}, (640, 360), WHOLE),
        ({"do_center_crop": True, "crop_size": {"height": 224, "width": 224}, "size": {"shortest_edge": 224}},
         (640, 320), (0.25, 0.0, 0.75, 1.0)),
        ({"do_center_crop": True, "crop_size": {"height": 224, "width": 224}, "size": {"shortest_edge": 448}},
         (300, 300), (0.25, 0.25, 0.75, 0.75)),
        ({"do_center_crop": True, "crop_size": {"height": 200, "width": 100}, "size": {"height": 200, "width": 200}},
         (640, 320), (0.25, 0.0, 0.75, 1.0)),
        ({"crop_size": 336}, (320, 640), (0.0, 0.25, 1.0, 0.75)),
        ({"do_center_crop": None, "crop_size": None, "size": {"height": 384, "width": 384}}, (640, 360), WHOLE),
    ],
)  # fmt: skip
def test_the_part_of_a_frame_that_a_model_sees(
    processor: dict[str, Any], size: tuple[int, int], expected: tuple[float, ...]
) -> None:
    part = SimpleNamespace(**processor)
    for whole in (SimpleNamespace(video_processor=part), SimpleNamespace(image_processor=part)):
        assert seen_region(whole, *size) == pytest.approx(expected)


def test_the_seen_region_is_where_the_processor_looks() -> None:
    """A frame whose seen part alone is lit comes out lit all over."""
    transformers = pytest.importorskip("transformers")
    part = transformers.VideoLlavaVideoProcessor()
    left, top, right, bottom = seen_region(SimpleNamespace(video_processor=part), 600, 300)
    frames = np.zeros((2, 300, 600, 3), dtype=np.uint8)
    frames[:, round(top * 300) : round(bottom * 300), round(left * 600) : round(right * 600)] = 255
    pixels = part(videos=[frames], do_normalize=False, do_sample_frames=False, return_tensors="pt")
    seen = next(value for name, value in pixels.items() if name.startswith("pixel"))
    assert (seen[..., 2:-2] > 0.99).all()
