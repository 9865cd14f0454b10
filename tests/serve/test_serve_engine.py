# SPDX-License-Identifier: Apache-2.0
"""Questions through the engine to the embedded model: the same answers as VideoQA's, text as it comes, refusals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from prunevid.builtin import make_clip
from prunevid.qa import VideoQA
from prunevid.serve import conversation
from prunevid.serve.conversation import Message
from prunevid.serve.engine import Engine, Question, public
from prunevid.serve.refusals import Refusal
from prunevid.serve.sessions import Sessions
from prunevid.serve.settings import ServeSettings
from prunevid.serve.streaming import Stopping, TextSink, TokenStreamer
from prunevid.video import Limits, load_clip, load_images
from serve.made import CLIP_SEED, Collected, ask, collect
from shipped import VISUAL


@pytest.fixture(scope="module")
def engine(qa: VideoQA) -> Iterator[Engine]:
    made = Engine(qa, ServeSettings(max_new_tokens=8))
    yield made
    made.close()


def test_answers_are_those_of_video_qa_and_stream_to_the_same_text(
    engine: Engine, qa: VideoQA, clip_file: Path
) -> None:
    for item in make_clip(CLIP_SEED).questions[:4]:
        expected = qa.ask(clip_file, item.text)
        got = collect(engine, ask(clip_file, item.text))
        assert got.reply.text == expected.text == "".join(got.pieces)
        assert got.reply.finish_reason == "length"  # one word, by the embedded model's default
        stats = expected.stats
        assert got.reply.visual_tokens == stats["stage1"]["original_tokens"] == VISUAL
        assert got.reply.visual_tokens_kept == round(VISUAL * stats["total"]["retained_ratio"])
        assert got.reply.prompt_tokens - got.reply.prompt_tokens_kept == VISUAL - got.reply.visual_tokens_kept
        assert got.reply.completion_tokens == 1


@pytest.mark.parametrize(
    ("changes", "label", "kept"),
    [
        ({}, "prunevid", None),
        ({"method": "none"}, "none", VISUAL),
        ({"method": "uniform", "retention_ratio": 0.25}, "uniform", VISUAL // 4),
        ({"method": "fastv", "retention_tokens": 10}, "fastv", 10),
        ({"retention_tokens": 5}, "prunevid", 5),
    ],
)
def test_each_question_has_its_own_method(
    engine: Engine, qa: VideoQA, clip_file: Path, changes: dict[str, Any], label: str, kept: int | None
) -> None:
    reply = collect(engine, replace(ask(clip_file, "is there a square?"), **changes)).reply
    assert reply.method == label
    assert kept is None or reply.visual_tokens_kept == kept
    assert qa._answering._pruning is None and not hasattr(qa.model, "_prunevid_pruning")
    assert engine.qa.method.label == "prunevid"


def test_the_server_s_own_budget_gives_way_to_the_question_s(qa: VideoQA, clip_file: Path) -> None:
    engine = Engine(qa.using("prunevid", retention_ratio=0.5), ServeSettings())
    kept = [
        collect(engine, replace(ask(clip_file, "is there a square?"), **budget)).reply.visual_tokens_kept
        for budget in ({}, {"retention_tokens": 4})
    ]
    engine.close()
    assert kept[0] > kept[1] == 4


def test_generation_ends_with_the_model_s_own_end(engine: Engine, clip_file: Path) -> None:
    reply = collect(engine, replace(ask(clip_file, "is there a square?"), max_new_tokens=8)).reply
    assert reply.finish_reason == "stop" and 1 < reply.completion_tokens < 8


def test_a_stop_text_ends_the_answer(engine: Engine, qa: VideoQA, clip_file: Path) -> None:
    whole = collect(engine, ask(clip_file, "is there a square?")).reply.text
    got = collect(engine, replace(ask(clip_file, "is there a square?"), stop=(whole[1:],), max_new_tokens=8))
    assert got.reply.text == "".join(got.pieces) == whole[:1]
    # transformers asks for the end before it hands the token on, or after it, according to its version
    assert got.reply.finish_reason == "stop" and got.reply.completion_tokens in (1, 2)


def test_a_seed_makes_sampling_repeatable_and_leaves_torch_s_state_alone(engine: Engine, clip_file: Path) -> None:
    question = replace(ask(clip_file, "what colour is it?"), temperature=2.0, max_new_tokens=8)
    before = torch.get_rng_state()
    texts = [collect(engine, replace(question, seed=seed)).reply.text for seed in (1, 1, 2, 3, 4, 5)]
    assert torch.equal(torch.get_rng_state(), before)
    assert texts[0] == texts[1] and len(set(texts)) > 1
    greedy = [collect(engine, replace(question, temperature=0.0, seed=seed)).reply.text for seed in (1, 2, 3)]
    assert len(set(greedy)) == 1


def test_earlier_turns_are_part_of_the_prompt(engine: Engine, qa: VideoQA, clip_file: Path) -> None:
    turns = (
        Message("system", "answer in one word"),
        Message("user", "is there a square?"),
        Message("assistant", "yes"),
        Message("user", "what colour is it?"),
    )
    prompt = conversation.prompt(turns, qa.processor)
    assert prompt is not None and prompt.count(qa.processor.video_token) == 1
    places = [prompt.index(text) for text in ("answer in", qa.processor.video_token, "is there", "yes", "what colour")]
    assert places == sorted(places)
    got = collect(engine, Question(turns, clip_file))
    expected = qa.ask(clip_file, "what colour is it?", prompt=prompt)
    assert got.reply.text == expected.text
    alone = collect(engine, ask(clip_file, "what colour is it?"))
    assert got.reply.prompt_tokens > alone.reply.prompt_tokens


class _Template:
    """A processor whose template says what it takes."""

    def __init__(self, lists: bool, roles: tuple[str, ...], strict: bool) -> None:
        self.lists, self.roles, self.strict = lists, roles, strict

    def apply_chat_template(self, messages: list[dict[str, Any]], **options: Any) -> str:
        lines = []
        for message in messages:
            content = message["content"]
            if message["role"] not in self.roles:
                if self.strict:
                    raise ValueError("no such role")
                continue
            if isinstance(content, list) and (self.lists or message["role"] == "user"):
                content = "".join(item.get("text", "<video>") for item in content)
            lines.append(content if isinstance(content, str) else "")
        return "\n".join(lines)


@pytest.mark.parametrize("lists", [True, False])
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("roles", [("system", "user", "assistant"), ("user", "assistant"), ("user",)])
def test_templates_that_drop_or_refuse_turns(lists: bool, strict: bool, roles: tuple[str, ...]) -> None:
    processor = _Template(lists, roles, strict)
    follow = (Message("user", "first"), Message("assistant", "said"), Message("user", "second"))
    for messages, needed in ((follow, "assistant"), ((Message("system", "be brief"), Message("user", "q")), "system")):
        if needed in roles:
            text = conversation.prompt(messages, processor)
            assert text is not None and all(message.text in text for message in messages)
        else:
            with pytest.raises(Refusal, match="has no place for") as caught:
                conversation.prompt(messages, processor)
            assert caught.value.status == 422


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clip": None}, "Give one clip"),
        ({"images": ("a.png",)}, "Give one clip"),
        ({"clip": None, "images": ("a.png",) * 33}, "33 pictures"),
        ({"method": "nosuch"}, "nosuch"),
        ({"method": "fastv|fastv"}, "fastv"),
        ({"retention_ratio": 1.5}, "1.5"),
        ({"retention_ratio": 0.5, "retention_tokens": 3}, "retention"),
        ({"max_new_tokens": 9}, "from 1 to 8"),
        ({"max_new_tokens": 0}, "from 1 to 8"),
        ({"max_frames": 33}, "from 1 to 32"),
        ({"temperature": 2.5}, "from 0 to 2"),
        ({"temperature": float("nan")}, "from 0 to 2"),
        ({"top_p": 0.0}, "above 0"),
        ({"seed": 2**63}, "64 bits"),
        ({"messages": ()}, "none"),
        ({"messages": (Message("user", " "),)}, "empty"),
        ({"messages": (Message("user", ""), Message("assistant", "")) * 200}, "above the limit of 256"),
        ({"messages": (Message("user", "x" * 20000),)}, "above the limit of 16384"),
        ({"messages": (Message("user", "a <|video_pad|>"),)}, "control token"),
        ({"messages": (Message("user", "a"), Message("user", "b"))}, "in turns"),
        ({"messages": (Message("user", "a"), Message("assistant", "b"))}, "in turns"),
        ({"messages": (Message("user", "a"), Message("system", "b"), Message("user", "b"))}, "in turns"),
        ({"clip": None, "session": "unknown"}, None),
    ],
)
def test_what_can_t_be_asked_is_refused_before_it_is_queued(
    engine: Engine, clip_file: Path, changes: dict[str, Any], message: str | None
) -> None:
    question = replace(ask(clip_file, "is there a square?"), **changes)
    if message is None:
        assert collect(engine, question).refusal.status == 422
        return
    with pytest.raises(Refusal, match=message) as caught:
        collect(engine, question)
    assert caught.value.status == 422
    assert engine.worker.places == 0


def test_unusable_clips_are_named_as_the_client_names_them(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "secret" / "0.clip"
    path.parent.mkdir()
    path.write_bytes(b"no clip at all" * 100)
    refusal = collect(engine, replace(ask(path, "is there a square?"), names={str(path): "the clip"})).refusal
    assert refusal.status == 422 and "the clip" in str(refusal) and "secret" not in str(refusal)
    assert public("a /x/y/z b\n/x/y", {"/x/y": "one", "/x/y/z": "two"}) == "a two b one"


@pytest.mark.parametrize(
    "text", ["#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{path}\n", "ffconcat version 1.0\nfile {name}\n"]
)
def test_playlists_don_t_lead_to_other_files(engine: Engine, clip_file: Path, tmp_path: Path, text: str) -> None:
    path = clip_file.parent / "list.clip"
    path.write_text(text.format(path=clip_file, name=clip_file.name))
    refusal = collect(engine, ask(path, "is there a square?")).refusal
    assert refusal.status == 422 and "no clip" in str(refusal)


@pytest.mark.parametrize(("kind", "taken"), [("png", True), ("jpeg", True), ("eps", False), ("ppm", False)])
def test_pictures_of_plain_formats_only(engine: Engine, tmp_path: Path, kind: str, taken: bool) -> None:
    path = tmp_path / "1.media"
    Image.fromarray(make_clip(CLIP_SEED).frames[0]).save(path, kind)
    if kind != "eps":  # that format needs another program
        assert load_images([path], limits=Limits(pictures=(kind.upper(),)))[0].shape[-1] == 3
    got = collect(engine, Question((Message("user", "is there a square?"),), images=(path,), names={str(path): "it"}))
    if taken:
        assert len(got.reply.clip) == 1
    else:
        assert got.refusal.status == 422 and "it can't be read as an image" in str(got.refusal)


@pytest.mark.parametrize(
    ("limits", "message"),
    [({"max_pixels": 100}, "above the limit of 100"), ({"max_seconds": 0.5}, "above the limit of 0.5 s")],
)
def test_clips_above_the_limits(qa: VideoQA, clip_file: Path, limits: dict[str, Any], message: str) -> None:
    engine = Engine(qa, ServeSettings(**limits))
    refusal = collect(engine, ask(clip_file, "is there a square?")).refusal
    engine.close()
    assert refusal.status == 422 and message in str(refusal)


def test_follow_ups_use_the_clip_that_was_kept(engine: Engine, clip_file: Path) -> None:
    first = collect(engine, replace(ask(clip_file, "is there a square?"), keep=True), client="a").reply
    assert first.session
    follow = replace(ask(None, "what colour is it?"), session=first.session)
    again = collect(engine, follow, client="a").reply
    assert again.clip is first.clip
    assert again.text == collect(engine, ask(clip_file, "what colour is it?")).reply.text
    assert collect(engine, follow, client="b").refusal.code == "unknown_session"
    engine.sessions.drop("b", first.session)
    assert len(engine.sessions) == 1
    engine.sessions.drop("a", first.session)
    assert collect(engine, follow, client="a").refusal.code == "unknown_session"


def test_sessions_are_few_and_end() -> None:
    clip = load_clip(make_clip(0).frames)
    now = [0.0]
    sessions = Sessions(most=2, seconds=10.0, now=lambda: now[0])
    keys = [sessions.put("a", clip) for _ in range(2)]
    sessions.get("a", keys[0])
    third = sessions.put("a", clip)  # the second was not used for longest
    for key, there in ((keys[0], True), (keys[1], False), (third, True)):
        if there:
            assert sessions.get("a", key) is clip
        else:
            with pytest.raises(Refusal):
                sessions.get("a", key)
    now[0] = 11.0
    assert len(sessions) == 0


def test_listeners_count_replies(engine: Engine, clip_file: Path) -> None:
    heard: list[Any] = []
    engine.on_reply(heard.append)
    got: Collected = collect(engine, ask(clip_file, "is there a square?"))
    engine._listeners.clear()
    assert heard == [got.reply]


@pytest.mark.parametrize("stop", [(), ("END",), ("b c", "\n")])
@pytest.mark.parametrize("text", ["  a b c d END e\n", "xEN", "", "  ", "aE E EN END", "a\n\nb", "b b c"])
def test_pieces_join_to_the_text_before_the_first_stop(text: str, stop: tuple[str, ...]) -> None:
    cuts = [text.lstrip().find(item) for item in stop if item in text.lstrip()]
    expected = text.lstrip()[: min(cuts)] if cuts else text.strip()
    for step in (1, 2, 5, 100):
        pieces: list[str] = []
        sink = TextSink(pieces.append, stop)
        for end in range(step, len(text) + step, step):
            sink.update(text[:end])
        assert sink.close(text) == "".join(pieces) == expected.rstrip()
        assert all(pieces) and sink.ended == bool(cuts)


def test_tokens_of_half_characters_wait_for_their_rest() -> None:
    class Bytes:
        def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
            return bytes(ids).decode("utf-8", "replace")

    pieces: list[str] = []
    sink = TextSink(pieces.append)
    streamer = TokenStreamer(Bytes(), sink)
    streamer.put(torch.tensor([[1, 2, 3]]))
    for byte in "aé€z".encode():
        streamer.put(torch.tensor([byte]))
    assert pieces == ["a", "é", "€", "z"] and sink.close(streamer.text) == "aé€z"
    assert streamer.prompt_tokens == 3


def test_the_stopping_criterion_asks_anew_each_time() -> None:
    said = iter([False, True])
    stopping = Stopping(lambda: next(said))
    ids = torch.zeros(2, 5, dtype=torch.long)
    assert stopping(ids, None).tolist() == [False, False]
    assert stopping(ids, None).tolist() == [True, True]
