# SPDX-License-Identifier: Apache-2.0
"""Clips that are decoded, prepared and encoded in chunks of frames, beside the same clips as a whole."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload

from app import tiny_qwen
from app.test_families_qa import OTHER, PROCESSORS, QUESTION, _qa
from engine import families
from prunevid import models
from prunevid.errors import ConfigError, InputError, UnsupportedError
from prunevid.models.stllm import STLLMForConditionalGeneration
from prunevid.prompting import Prompter
from prunevid.qa import VideoQA
from prunevid.video import DamagedClipWarning
from prunevid.vision_chunks import CHUNK_FRAMES, LONG, Shown, chunk_sizes
from video import written
from video.written import BY_NAME

FRAMES = 23
MIXING = ("stllm",)  # with the BT-Adapter


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_qwen.write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", count=FRAMES)


def _unmixed_stllm() -> Any:
    """ST-LLM without the BT-Adapter."""
    config = families._stllm()
    config.bt_adapter_depth = 0
    model = STLLMForConditionalGeneration(config).eval().requires_grad_(False)
    processor = PROCESSORS["stllm"][0]()
    model.config.video_token_id = processor.video_token_id
    return VideoQA(model, processor, config=families.settings("stllm"))


def _made(family: str) -> VideoQA:
    return _unmixed_stllm() if family == "stllm-unmixed" else _qa(family)


@contextmanager
def _language_inputs(qa: VideoQA) -> Iterator[list[list[torch.Tensor]]]:
    """What the language model is given in every prefill, before anything is pruned."""
    language, seen = models.adapter_for(qa.model).language_model(models.base_of(qa.model)), []

    def keep(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if kwargs["inputs_embeds"].shape[1] > 1:
            deep = kwargs.get("deepstack_visual_embeds") or []
            seen.append([kwargs["inputs_embeds"].clone(), *(one.clone() for one in deep)])

    handle = language.register_forward_pre_hook(keep, with_kwargs=True)
    yield seen
    handle.remove()


@contextmanager
def _frames_given(qa: VideoQA) -> Iterator[list[int]]:
    """How many frames the tower is given at a time."""
    base, adapter = models.base_of(qa.model), models.adapter_for(qa.model)
    own, given = getattr(base, adapter.feature_function), []
    signature = inspect.signature(own)

    @functools.wraps(own)
    def counted(*args: Any, **kwargs: Any) -> Any:
        arguments = signature.bind(*args, **kwargs).arguments
        grid = arguments.get("video_grid_thw")
        pixels = next(value for name, value in arguments.items() if name.startswith("pixel"))
        if grid is not None:
            given.append(int(grid[:, 0].sum()) * adapter.frame_block(base, 2))
        else:
            given.append(pixels.shape[:2].numel() if pixels.ndim == 5 else len(pixels))
        return own(*args, **kwargs)

    base.__dict__[adapter.feature_function] = counted
    yield given
    del base.__dict__[adapter.feature_function]


def _same(first: Any, second: Any) -> None:
    for name in ("stage1", "stage2", "stage3", "total"):
        assert first.stats[name] == second.stats[name]
    assert first.text == second.text and first.clip == second.clip


# ---- every family -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [name for name in (*PROCESSORS, "stllm-unmixed") if name not in MIXING])
def test_chunks_give_what_the_whole_clip_gives(family: str, clip: Path) -> None:
    qa = _made(family)
    options: dict[str, Any] = {"max_frames": FRAMES, "max_new_tokens": 3}
    with _language_inputs(qa) as seen, _frames_given(qa) as given:
        qa.vision_chunk_frames = 0
        whole = qa.ask(clip, QUESTION, **options)
        assert "vision_chunks" not in whole.stats and len(given) == 1
        qa.vision_chunk_frames = 6
        chunked = qa.ask(clip, QUESTION, **options)
    _same(whole, chunked)
    for expected, found in zip(*seen):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert chunked.stats["vision_chunks"]["count"] == len(given) - 1 == 4
    assert sum(given[1:]) >= FRAMES and max(given[1:]) <= 8
    assert chunked.stats["milliseconds"]["vision"] > 0


@pytest.mark.parametrize("family", (*PROCESSORS, "stllm-unmixed"))
def test_towers_mix_what_their_adapters_say(family: str, clip: Path) -> None:
    """Another picture in one frame changes the cells of its step alone, or the adapter says that frames are mixed."""
    qa = _made(family)
    base, adapter = models.base_of(qa.model), models.adapter_for(qa.model)
    loaded = qa.load_clip(clip, max_frames=12)
    other = loaded.frames.copy()
    other[5] = 255 - other[5]
    found = []
    for frames in (loaded.frames, other):
        inputs = qa._answering.prompter.encode([type(loaded)(**{**loaded.__dict__, "frames": frames})], [QUESTION])
        with _language_inputs(qa) as seen, torch.no_grad():
            qa.model(**inputs)
        places = inputs["input_ids"][0] == adapter.video_token_id(base.config)
        found.append(seen[0][0][0, places])
    changed = (found[0] != found[1]).any(1)
    if adapter.feature_function == "get_video_features" and len(changed) % 12 == 1:
        changed = changed[:-1]  # the newline
    block = adapter.frame_block(base, 12)
    step = changed.view(12 // (block or 1), -1).any(1)
    if block is None:
        assert step.sum() > 1
    else:
        assert step.nonzero()[:, 0].tolist() == [5 // block]


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "llava_onevision", "smolvlm", "video_llava"])
def test_what_methods_ask_of_the_tower_comes_in_chunks_too(family: str, clip: Path) -> None:
    made = _qa(family)
    qa = VideoQA(made.model, made.processor, method="visionzip", retention_ratio=0.3, vision_chunk_frames=0)
    whole = qa.ask(clip, QUESTION, max_frames=FRAMES, max_new_tokens=2)
    qa.vision_chunk_frames = 8
    chunked = qa.ask(clip, QUESTION, max_frames=FRAMES, max_new_tokens=2)
    _same(whole, chunked)
    assert torch.equal(whole.maps[0].merged.assignment, chunked.maps[0].merged.assignment)


@pytest.mark.parametrize("family", ["qwen3_vl", "llava_onevision", "internvl", "smolvlm", "video_llava"])
def test_batches_of_long_and_short_clips(family: str, clip: Path) -> None:
    qa = _qa(family)
    qa.vision_chunk_frames = 0
    clips = [qa.load_clip(clip, max_frames=frames) for frames in (FRAMES, 5, FRAMES)]
    pairs = list(zip(clips, (QUESTION, OTHER, OTHER)))
    whole = qa.ask_batch(pairs, max_new_tokens=3)
    qa.vision_chunk_frames = 8
    for one, other in zip(whole, qa.ask_batch(pairs, max_new_tokens=3)):
        _same(one, other)


# ---- which clips ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frames", "wanted", "block", "expected"),
    [
        (64, 16, 1, [16] * 4),
        (65, 16, 1, [16, 16, 16, 17]),
        (66, 16, 1, [16] * 4 + [2]),
        (41, 8, 2, [8, 8, 8, 8, 9]),
        (43, 7, 2, [8] * 5 + [3]),
        (42, 8, 2, [8, 8, 8, 8, 10]),
        (9, 1, 1, [2, 2, 2, 3]),
        (20, 16, 1, [16, 4]),
        (17, 16, 1, None),
        (16, 16, 1, None),
        (16, 100, 1, None),
        (1, 4, 2, None),
        (LONG, "auto", 1, None),
        (LONG + 2, "auto", 2, [CHUNK_FRAMES, CHUNK_FRAMES + 2]),
        (500, 0, 1, None),
        (500, 16, None, None),
    ],
)
def test_sizes_of_chunks(frames: int, wanted: Any, block: int | None, expected: list[int] | None) -> None:
    assert chunk_sizes(frames, wanted, lambda count: block) == expected


@pytest.mark.parametrize("value", [-1, 1.5, True, "all", None])
def test_other_values_are_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match="vision_chunk_frames is"):
        VideoQA.builtin(vision_chunk_frames=value)


def test_mixing_towers_get_the_clip_whole(clip: Path) -> None:
    qa = _qa("stllm")
    answer = qa.ask(clip, QUESTION, max_frames=12, max_new_tokens=2)
    assert "vision_chunks" not in answer.stats
    qa.vision_chunk_frames = 4
    with pytest.raises(UnsupportedError, match="mixes frames"):
        qa.ask(clip, QUESTION, max_frames=12)


def test_processors_that_compare_frames_get_the_clip_whole(clip: Path) -> None:
    qa = _qa("video_llama_3")
    qa.processor.video_processor.use_token_compression = True
    loaded = qa.load_clip(clip, max_frames=FRAMES)
    for wanted in ("auto", 0):
        assert Shown(qa.model, qa._answering.prompter, [loaded], [QUESTION], wanted=wanted).supplied(None) is not None
    with pytest.raises(UnsupportedError, match="use_token_compression"):
        Shown(qa.model, qa._answering.prompter, [loaded], [QUESTION], wanted=4)


def test_long_clips_are_chunked_by_themselves(tmp_path: Path) -> None:
    qa, path = _qa("qwen2_5_vl"), tiny_qwen.write_clip(tmp_path / "long.mp4", count=LONG + 8)
    with _frames_given(qa) as given:
        answer = qa.ask(path, QUESTION, max_frames=LONG + 8, max_new_tokens=2, measure_flops=True)
    assert max(given) <= CHUNK_FRAMES
    assert answer.stats["vision_chunks"]["count"] == 3
    assert len(answer.frames()) == LONG + 8
    qa.vision_chunk_frames = 0
    whole = qa.ask(path, QUESTION, max_frames=LONG + 8, max_new_tokens=2, measure_flops=True)
    _same(whole, answer)
    assert len(qa.ask(path, QUESTION, max_frames=8, max_new_tokens=2).clip.times) == 8


# ---- what can go wrong ------------------------------------------------------------------------------------------


def _threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("prunevid-frames")]


@pytest.mark.parametrize("place", ["tower", "frames"])
def test_errors_leave_nothing_half_changed(place: str, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    qa = _qa("qwen2_5_vl")
    qa.vision_chunk_frames = 6
    options: dict[str, Any] = {"max_frames": FRAMES, "max_new_tokens": 2}
    expected = qa.ask(clip, QUESTION, **options)
    video_processor = qa.processor.video_processor
    before = (type(video_processor), dict(video_processor.__dict__), dict(qa.processor.__dict__))
    calls = []

    def failing(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise InputError("Broken on purpose.")
        return own(*args, **kwargs)

    with monkeypatch.context() as patched:
        if place == "tower":
            own = qa.model.model.visual.forward
            patched.setattr(qa.model.model.visual, "forward", failing)
        else:
            from prunevid import vision_chunks

            own = vision_chunks.part_of
            patched.setattr(vision_chunks, "part_of", failing)
        with pytest.raises(InputError, match="on purpose"):
            qa.ask(clip, QUESTION, **options)
    assert not _threads() and len(calls) == 3
    assert qa.processor.video_processor is video_processor
    assert (type(video_processor), video_processor.__dict__, qa.processor.__dict__) == before
    assert "get_video_features" not in qa.model.model.__dict__ and qa._answering._pruning is None
    _same(expected, qa.ask(clip, QUESTION, **options))


@pytest.mark.parametrize("family", ["qwen2_5_vl", "internvl"])
def test_a_file_that_lacks_frames_is_read_anew(family: str, tmp_path: Path) -> None:
    whole = written.write(BY_NAME["lossless.mkv"], tmp_path)
    broken = written.spoil(whole, tmp_path / "broken.mkv", set(range(30, 34)))
    qa = _qa(family)
    qa.vision_chunk_frames = 0
    with pytest.warns(DamagedClipWarning):
        expected = qa.ask(broken, QUESTION, max_frames=60, max_new_tokens=2)
    qa.vision_chunk_frames = 8
    with pytest.warns(DamagedClipWarning):
        answer = qa.ask(broken, QUESTION, max_frames=60, max_new_tokens=2)
    _same(expected, answer)
    assert len(answer.clip.times) < 60 and answer.stats["vision_chunks"]["count"] > 1 and not _threads()


def test_compare_takes_chunks(clip: Path) -> None:
    qa = _qa("qwen3_vl")
    qa.vision_chunk_frames = 0
    whole = qa.compare(clip, QUESTION, max_frames=FRAMES, max_new_tokens=2)
    other = _qa("qwen3_vl")
    other.vision_chunk_frames = 6
    with _frames_given(other) as given:
        chunked = other.compare(clip, QUESTION, max_frames=FRAMES, max_new_tokens=2)
    assert max(given) <= 8 and len(given) == 3 * 4  # to warm up, unpruned, pruned
    for one, two in zip(whole, chunked):
        _same(one, two)
        assert two.stats["vision_chunks"]["count"] == 4


def test_an_offloaded_model_takes_chunks(clip: Path) -> None:
    whole = _qa("qwen2_5_vl").ask(clip, QUESTION, max_frames=FRAMES, max_new_tokens=2)
    made = _qa("qwen2_5_vl")
    model = cpu_offload(made.model, execution_device=torch.device("cpu"))
    assert next(model.parameters()).device.type == "meta"
    qa = VideoQA(model, made.processor, config=made.config, vision_chunk_frames=6)
    _same(whole, qa.ask(clip, QUESTION, max_frames=FRAMES, max_new_tokens=2))


def test_several_sequences(clip: Path) -> None:
    """Beams see the same features, or are refused where transformers repeats the stand-ins of the pixels."""
    qa = _qa("qwen2_5_vl")
    options: dict[str, Any] = {"max_frames": FRAMES, "max_new_tokens": 3, "num_beams": 2, "num_return_sequences": 2}
    whole = qa.ask(clip, QUESTION, **options)
    qa.vision_chunk_frames = 6
    try:
        chunked = qa.ask(clip, QUESTION, **options)
    except UnsupportedError as error:
        assert "vision_chunk_frames=0" in str(error)
    else:
        _same(whole, chunked)
        assert chunked.texts == whole.texts


def test_an_open_clip_beside_a_long_one(clip: Path) -> None:
    """What is remembered of a clip that is held open stays when another is asked about in chunks."""
    qa = _qa("qwen2_5_vl")
    qa.vision_chunk_frames = 6
    alone = qa.ask(clip, QUESTION, max_frames=FRAMES, max_new_tokens=2)
    with qa.open(clip, max_frames=8) as video:
        first = video.ask(OTHER, max_new_tokens=2)
        _same(alone, qa.ask(clip, QUESTION, max_frames=FRAMES, max_new_tokens=2))
        again = video.ask(OTHER, max_new_tokens=2)
    _same(first, again)
    assert again.stats["milliseconds"]["vision"] == 0


# ---- clips that are held open -----------------------------------------------------------------------------------


@pytest.mark.parametrize("ahead", [True, False])
@pytest.mark.parametrize("family", (*PROCESSORS, "stllm-unmixed"))
def test_open_clips_are_encoded_in_chunks_once(family: str, ahead: bool, clip: Path) -> None:
    """Three questions about an open clip, answered as by the clip as a whole; pixels are not held."""
    qa = _made(family)
    options: dict[str, Any] = {"max_new_tokens": 3}
    count = 16 if family in MIXING else FRAMES
    qa.vision_chunk_frames = 0
    asked = (QUESTION, OTHER, QUESTION)
    whole = [qa.ask(clip, question, max_frames=count, **options) for question in asked]
    with qa.open(clip, max_frames=count, prefill=False) as video:
        video.ask(QUESTION, **options)
        pixels = video.memory["inputs"]
    qa.vision_chunk_frames = "auto" if family in MIXING else 6
    conditions = models.adapter_for(qa.model).conditions
    with _frames_given(qa) as given, qa.open(clip, max_frames=count, prefill=ahead) as video:
        answers = [video.ask(question, **options) for question in asked]
        held = video.memory
        assert video.bytes < 2**22
    for one, two in zip(whole, answers):
        _same(one, two)
    times = [answer.stats["milliseconds"] for answer in answers]
    assert times[0]["vision"] > 0 and times[0]["decode_video"] > 0 and times[2]["vision"] == 0
    if family in MIXING:
        assert held["inputs"] > 0.9 * pixels and "vision_chunks" not in answers[0].stats
        return
    encodings = 2 if conditions else 1  # features that depend on the question are made for each one
    assert len(given) == 4 * encodings and max(given) <= 8
    assert held["inputs"] < pixels / 5  # token ids, mostly
    chunks = [answer.stats.get("vision_chunks", {}).get("count") for answer in answers]
    assert chunks == [4, 4 if conditions else None, None]


def test_features_of_an_open_clip_that_do_not_fit_are_made_anew(clip: Path) -> None:
    qa = _qa("qwen2_5_vl")
    whole = [qa.ask(clip, question, max_frames=FRAMES, max_new_tokens=3) for question in (QUESTION, OTHER)]
    qa.vision_chunk_frames = 6
    with qa.open(clip, max_frames=FRAMES) as video:
        least = video.memory["inputs"]
    with _frames_given(qa) as given, qa.open(clip, max_frames=FRAMES, max_open_bytes=least + 64) as video:
        answers = [video.ask(question, max_new_tokens=3) for question in (QUESTION, OTHER)]
        assert video.memory["encoded"] == video.memory["prefix"] == 0
    for one, two in zip(whole, answers):
        _same(one, two)
    assert len(given) == 3 * 4 and all(answer.stats["vision_chunks"]["count"] == 4 for answer in answers)


@pytest.mark.parametrize("wanted", [6, "auto"])
def test_several_sequences_of_an_open_clip(wanted: Any, tmp_path: Path) -> None:
    """Beams about a clip that comes in chunks: where the version copies pixels, "auto" encodes it whole for them."""
    qa, count = _qa("qwen2_5_vl"), FRAMES if wanted == 6 else LONG + 8
    clip = tiny_qwen.write_clip(tmp_path / "clip.mp4", count=count)
    beams = {"num_beams": 2, "num_return_sequences": 2}
    qa.vision_chunk_frames = 0
    whole = qa.ask(clip, OTHER, max_frames=count, max_new_tokens=3, **beams)
    plain = qa.ask(clip, OTHER, max_frames=count, max_new_tokens=3)
    qa.vision_chunk_frames = wanted
    copied = "mm_encoder_outputs" not in inspect.signature(qa.model.forward).parameters
    with qa.open(clip, max_frames=count) as video:
        if wanted == 6 and copied:
            with pytest.raises(UnsupportedError, match="vision_chunk_frames=0"):
                video.ask(OTHER, max_new_tokens=3, **beams)
        else:
            wide = video.ask(OTHER, max_new_tokens=3, **beams)
            _same(whole, wide)
            assert wide.texts == whole.texts and len(wide.texts) == 2
        answer = video.ask(OTHER, max_new_tokens=3)
        _same(plain, answer)
        assert answer.stats["open"]["why"] is None and answer.stats["open"]["prefix_tokens"] > 0


def test_an_open_file_that_lacks_frames_is_read_anew(tmp_path: Path) -> None:
    whole = written.write(BY_NAME["lossless.mkv"], tmp_path)
    broken = written.spoil(whole, tmp_path / "broken.mkv", set(range(30, 34)))
    qa = _qa("qwen2_5_vl")
    qa.vision_chunk_frames = 0
    with pytest.warns(DamagedClipWarning):
        expected = [qa.ask(broken, question, max_frames=60, max_new_tokens=2) for question in (QUESTION, OTHER)]
    qa.vision_chunk_frames = 8
    with pytest.warns(DamagedClipWarning), qa.open(broken, max_frames=60) as video:
        answers = [video.ask(question, max_new_tokens=2) for question in (QUESTION, OTHER)]
        assert len(video.clip) == len(answers[0].clip.times) < 60
    for one, two in zip(expected, answers):
        _same(one, two)
    assert "vision_chunks" not in answers[1].stats and not _threads()


def test_an_error_while_an_open_clip_is_encoded_can_be_asked_over(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    qa = _qa("qwen2_5_vl")
    qa.vision_chunk_frames = 6
    expected = qa.ask(clip, QUESTION, max_frames=FRAMES, max_new_tokens=2)
    own, calls = qa.model.model.visual.forward, []

    def failing(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise InputError("Broken on purpose.")
        return own(*args, **kwargs)

    with qa.open(clip, max_frames=FRAMES, prefill=False) as video:
        with monkeypatch.context() as patched:
            patched.setattr(qa.model.model.visual, "forward", failing)
            with pytest.raises(InputError, match="on purpose"):
                video.ask(QUESTION, max_new_tokens=2)
        assert not _threads() and len(calls) == 3 and video.memory["encoded"] == 0
        _same(expected, video.ask(QUESTION, max_new_tokens=2))


def test_the_stand_in_takes_no_memory(clip: Path) -> None:
    qa = _qa("llava_onevision")
    loaded = qa.load_clip(clip, max_frames=FRAMES)
    shown = Shown(qa.model, qa._answering.prompter, [loaded], [QUESTION], wanted=4)
    pixels = shown.inputs["pixel_values_videos"]
    assert pixels.shape[1] == FRAMES and pixels.untyped_storage().nbytes() <= 8
    whole = Prompter(qa.processor, "cpu", pixels.dtype).encode([loaded], [QUESTION])
    assert shown.inputs.keys() == whole.keys()
    for name, value in whole.items():
        assert value.shape == shown.inputs[name].shape and value.dtype == shown.inputs[name].dtype
        assert name.startswith("pixel") or torch.equal(value, shown.inputs[name])
