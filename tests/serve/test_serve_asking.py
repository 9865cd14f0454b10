# SPDX-License-Identifier: Apache-2.0
"""What a page asks, without Gradio: clips, follow-ups, comparing, stopping, leaving, and what is shown."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from prunevid.qa import VideoQA
from prunevid.serve import asking
from prunevid.serve.asking import Desk, Form, Seen, Visit
from prunevid.serve.engine import Engine
from prunevid.serve.media import MediaStore
from prunevid.serve.refusals import Refusal
from prunevid.serve.settings import ServeSettings
from prunevid.serve.uploads import Uploads
from serve.made import PATIENCE, SlowQA, eventually

QUESTION = "is there a square?"


class Room:
    """A desk with its engine, and a folder "clips" whose here.mp4 may be named."""

    def __init__(self, qa: Any, folder: Path, clip_file: Path, **settings: Any) -> None:
        clips = folder / "clips"
        clips.mkdir()
        shutil.copy(clip_file, clips / "here.mp4")
        (clips / "broken.mp4").write_bytes(b"this is no video")
        self.clips, self._clip = clips, clip_file
        self.engine = Engine(qa, ServeSettings(allowed_folder=clips, **settings), "tiny")
        self.store = MediaStore(self.engine.settings)
        (self.store.folder / "page").mkdir()
        self.uploads = Uploads(self.store.folder / "page", self.engine.settings)
        self.desk = Desk(self.engine, self.store, self.uploads)

    def send(self, visit: Visit, file: Path | None = None) -> Path:
        """Uploads a file for a visit."""
        folder = self.uploads.folder / f"{len(list(self.uploads.folder.iterdir())):032x}"
        folder.mkdir()
        sent = Path(shutil.copy(file or self._clip, folder / "holiday.mp4"))
        self.desk.take(visit, str(sent))
        return sent

    def ask(self, visit: Visit, text: str = QUESTION, **fields: Any) -> list[Seen]:
        """All that is shown for a question."""
        return asyncio.run(asyncio.wait_for(collect(self.desk, visit, Form(text, **fields)), PATIENCE))

    def files(self) -> list[Path]:
        """What lies in the private folder."""
        return [path for path in self.store.folder.rglob("*") if path.is_file()]

    def close(self) -> None:
        self.engine.close()
        self.store.close()


async def collect(desk: Desk, visit: Visit, form: Form) -> list[Seen]:
    return [seen async for seen in desk.ask(visit, form)]


def said(html: str | None) -> str:
    """The words of a piece of HTML, a space between tags."""
    return " ".join(re.sub(r"<[^>]*>", " ", html or "").split())


def answers(html: str | None) -> list[str]:
    return re.findall(r"<div class=pv-answer>(.*?)</div>", html or "", re.DOTALL)


@pytest.fixture(autouse=True)
def _small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "_WIDTH", 240)


@pytest.fixture
def make(tmp_path: Path, clip_file: Path) -> Iterator[Callable[..., Room]]:
    made: list[Room] = []

    def making(qa: Any, **settings: Any) -> Room:
        made.append(Room(qa, tmp_path, clip_file, **settings))
        return made[-1]

    yield making
    for room in made:
        room.close()


@pytest.fixture
def room(make: Callable[..., Room], qa: VideoQA) -> Room:
    return make(qa)


@pytest.fixture
def visit(room: Room) -> Visit:
    return room.desk.visit("page", "me")


# ---- clips and follow-ups ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["upload", "path"])
def test_ask_and_ask_again(room: Room, visit: Visit, qa: VideoQA, clip_file: Path, way: str) -> None:
    sent = room.send(visit) if way == "upload" else None
    shown = room.ask(visit, path="" if sent else "here.mp4")
    expected = qa.ask(qa.load_clip(clip_file), QUESTION).text
    assert answers(shown[-1].talk) == [expected] and said(shown[-1].status).startswith("Done.")
    assert "data:image/png;base64," in str(shown[-1].picture) and "visual tokens" in said(shown[-1].words)
    assert [seen.picture for seen in shown[:-1]] == [""] * (len(shown) - 1)  # nothing old beside a new question
    assert room.files() == [] and len(room.engine.sessions) == 1 and room.engine.worker.places == 0

    for path in ("", "here.mp4" if way == "path" else ""):
        shown = room.ask(visit, "how many objects are there?", path=path)
    assert len(answers(shown[-1].talk)) == 3 and len(room.engine.sessions) == 1


def test_a_path_is_read_again_for_other_frames_and_an_upload_is_asked_for(room: Room, visit: Visit) -> None:
    room.ask(visit, path="here.mp4", max_frames=4)
    assert "4 frames" in said(room.ask(visit, path="here.mp4", max_frames=4)[-1].words)
    assert "of 8 frames" in said(room.ask(visit, max_frames=8)[-1].words)  # the path stays the clip
    room.send(visit)
    assert said(room.ask(visit, max_frames=8)[-1].status).startswith("Done.")
    assert "send it again" in said(room.ask(visit, max_frames=4)[-1].status)
    assert len(room.engine.sessions) == 1


def test_another_clip_begins_anew(room: Room, visit: Visit) -> None:
    first = room.send(visit)
    second = room.send(visit)
    assert not first.exists() and second.exists()
    room.ask(visit)
    shown = room.ask(visit, path="here.mp4")
    assert len(answers(shown[-1].talk)) == 1 and len(room.engine.sessions) == 1
    room.desk.forget(visit)
    assert len(room.engine.sessions) == 0
    assert "There is no clip yet" in said(room.ask(visit)[-1].status)


def test_a_clip_that_is_no_longer_kept(room: Room, visit: Visit) -> None:
    room.send(visit)
    room.ask(visit)
    room.engine.sessions.clear()
    assert "no longer kept; send it again" in said(room.ask(visit)[-1].status)
    assert "There is no clip yet" in said(room.ask(visit)[-1].status)
    room.ask(visit, path="here.mp4")
    room.engine.sessions.clear()
    room.ask(visit, path="here.mp4")
    assert said(room.ask(visit, path="here.mp4")[-1].status).startswith("Done.")  # a path is read again


@pytest.mark.parametrize("named", ["/etc/passwd", "{folder}", "{folder}/../x.mp4", "{folder}/no/clip.mp4", "", "\0"])
def test_only_uploads_are_taken(room: Room, visit: Visit, named: str) -> None:
    with pytest.raises(Refusal) as error:
        room.desk.take(visit, named.replace("{folder}", str(room.uploads.folder)))
    assert error.value.status == 422 and visit.upload is None


# ---- one sentence for each error ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({}, "There is no clip yet; upload one, or name one in the folder of clips."),
        ({"path": "../secret.mp4"}, "The path of the clip is not inside the allowed folder."),
        ({"path": "/etc/passwd"}, "The path of the clip is not inside the allowed folder."),
        ({"path": "nothing.mp4"}, "There is no file for the clip in the allowed folder that can be read."),
        ({"path": "broken.mp4"}, "the clip"),
        ({"path": "https://example.org/clip.mp4"}, "fetches nothing from other hosts"),
        ({"path": "here.mp4", "text": ""}, "is empty"),
        ({"path": "here.mp4", "text": "x" * 20_000}, "16384"),
        ({"path": "here.mp4", "max_frames": 1000}, "max_frames is 1000, but must be from 1 to 32 on this server."),
        ({"path": "here.mp4", "max_frames": -1}, "max_frames is -1, but must be from 1 to 32 on this server."),
        ({"path": "here.mp4", "method": "nosuch"}, "nosuch"),
        ({"path": "here.mp4", "against": ("nosuch",), "method": "neither"}, "neither"),
        ({"path": "here.mp4", "budget": "share", "amount": 2.0}, "2"),
        ({"path": "here.mp4", "budget": "share"}, "Say how much to keep"),
        ({"path": "here.mp4", "budget": "all", "amount": 1.0}, "Say how much to keep"),
        ({"path": "here.mp4", "budget": "tokens", "amount": 1.5}, "1.5, but must be a whole number."),
        ({"path": "here.mp4", "budget": "tokens", "amount": -3.0}, "-3"),
        ({"path": "here.mp4", "method": "<b>x</b>"}, "<b>x</b>"),
    ],
)
def test_errors(room: Room, visit: Visit, fields: dict[str, Any], sentence: str) -> None:
    last = room.ask(visit, **{"text": QUESTION, **fields})[-1]
    text = said(last.status).replace("&lt;", "<").replace("&gt;", ">")
    assert "pv-error" in last.status and sentence in text
    assert str(room.clips) not in text and str(room.store.folder) not in text and "<b>" not in last.status
    assert not visit.busy and room.engine.worker.places == 0 and room.files() == []
    assert said(room.ask(visit, path="here.mp4")[-1].status).startswith("Done.")


def test_an_upload_that_is_no_clip_is_named_as_it_was_sent(room: Room, visit: Visit) -> None:
    sent = room.send(visit, room.clips / "broken.mp4")
    text = said(room.ask(visit)[-1].status)
    assert "holiday.mp4" in text and str(sent.parent) not in text


def test_an_error_leaves_the_last_picture(room: Room, visit: Visit) -> None:
    room.ask(visit, path="here.mp4")
    (last,) = room.ask(visit, path="here.mp4", budget="share")
    assert last.picture is None and last.words is None and len(answers(last.talk)) == 1


@pytest.mark.parametrize(("clients", "sentence"), [(["me"], "You have 1 requests open"), (["a", "b"], "queue is full")])
def test_a_full_queue(make: Callable[..., Room], qa: VideoQA, clients: list[str], sentence: str) -> None:
    room = make(qa, max_queue=1, max_per_client=1)
    visit = room.desk.visit("page", "me")
    places = [room.engine.reserve(client) for client in clients]
    assert sentence in said(room.ask(visit, path="here.mp4")[-1].status) and room.files() == []
    places[0].release()
    assert said(room.ask(visit, path="here.mp4")[-1].status).startswith("Done.")


def test_an_error_that_nobody_foresaw_is_no_secret(
    room: Room, visit: Visit, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*args: Any) -> Any:
        raise RuntimeError("inner secret")

    monkeypatch.setattr(asking, "_draw", fails)
    last = room.ask(visit, path="here.mp4")[-1]
    assert said(last.status) == "The server failed on this request; its log says where."
    assert "inner secret" in caplog.text and not visit.busy


# ---- methods, budgets, comparing ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"method": "none"}, "300 visual tokens and nothing pruned"),
        ({"method": "none", "budget": "share", "amount": 0.5}, "300 visual tokens and nothing pruned"),
        ({"method": "fastv", "budget": "share", "amount": 0.5}, "150 of 300 visual tokens (50%) kept by fastv"),
        ({"method": "fastv", "budget": "tokens", "amount": 36.0}, "36 of 300 visual tokens (12%) kept by fastv"),
        ({"budget": "share", "amount": 0.25}, "75 of 300 visual tokens (25%) kept by prunevid"),
    ],
)
def test_the_method_and_the_budget(room: Room, visit: Visit, fields: dict[str, Any], kept: str) -> None:
    assert kept in said(room.ask(visit, path="here.mp4", **fields)[-1].words)


def test_comparing_is_about_the_same_frames(room: Room, visit: Visit, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    load = room.engine.qa.load_clip

    def counted(clip: Any, **options: Any) -> Any:
        read.extend([clip] if isinstance(clip, str) else [])  # frames that were read already come as a `Clip`
        return load(clip, **options)

    monkeypatch.setattr(room.engine.qa, "load_clip", counted)
    shown = room.ask(visit, path="here.mp4", against=("none", "fastv"), budget="share", amount=0.25)
    assert len(read) == 1
    rows = [said(row).split() for row in re.findall(r"<tr>.*?</tr>", str(shown[-1].words))]
    assert [row[0] for row in rows] == ["Method", "prunevid", "unpruned", "fastv"]
    assert "(25%)" in rows[1] and "(100%)" in rows[2] and "(25%)" in rows[3]
    lines = answers(shown[-1].talk)[0].split("\n")
    assert [line.split(":")[0] for line in lines] == ["prunevid", "unpruned", "fastv"]
    assert any("fastv (3 of 3): " in seen.status for seen in shown)
    assert len(room.engine.sessions) == 1 and "<img" in str(shown[-1].picture)


def test_a_method_that_cant_run_has_a_row_with_the_reason(room: Room, visit: Visit) -> None:
    shown = room.ask(visit, path="here.mp4", against=("nosuch",))
    assert "nosuch" in said(shown[-1].words) and "pv-error" in str(shown[-1].words)
    assert said(shown[-1].status).startswith("Done.") and answers(shown[-1].talk)[0].startswith("prunevid: ")


# ---- waiting, streaming, stopping, leaving -----------------------------------------------------------------------


class Watching:
    """A question of a visit in the background of an event loop, and what it has shown so far."""

    def __init__(self, room: Room, visit: Visit, **fields: Any) -> None:
        self.shown: list[Seen] = []
        self.task = asyncio.ensure_future(self._watch(room, visit, Form(QUESTION, **fields)))

    async def _watch(self, room: Room, visit: Visit, form: Form) -> None:
        async for seen in room.desk.ask(visit, form):
            self.shown.append(seen)

    async def until(self, words: str) -> None:
        """Waits until something is shown with these words in it."""
        for _ in range(int(PATIENCE / 0.01)):
            if any(words in said(seen.status) + said(seen.talk) for seen in self.shown):
                return
            assert not self.task.done(), self.shown
            await asyncio.sleep(0.01)
        raise AssertionError(self.shown)

    async def end(self) -> Seen:
        await asyncio.wait_for(self.task, PATIENCE)
        return self.shown[-1]


@pytest.fixture
def slow(qa: VideoQA) -> SlowQA:
    return SlowQA(qa)


def test_an_answer_streams(make: Callable[..., Room], slow: SlowQA) -> None:
    room = make(slow)

    async def scene() -> list[Seen]:
        watching = Watching(room, room.desk.visit("page", "me"), path="here.mp4")
        await watching.until("Reading the clip")
        for token in range(3):
            slow.steps.release()
            await watching.until(f"a{token}")
        slow.steps.release(1000)
        await watching.end()
        return watching.shown

    shown = asyncio.run(scene())
    texts = [answers(seen.talk)[0] for seen in shown]
    assert all(later.startswith(earlier.removesuffix("&hellip;")) for earlier, later in pairwise(texts))
    assert len(set(texts)) > 3 and texts[-1].split()[-1] == "a99"


@pytest.mark.parametrize("ending", ["stop", "leave", "drop"])
def test_whoever_stops_or_leaves_ends_the_answer(make: Callable[..., Room], slow: SlowQA, ending: str) -> None:
    room = make(slow)
    visit = room.desk.visit("page", "me")
    room.send(visit)

    async def scene() -> Seen | None:
        watching = Watching(room, visit, against=("none",))
        slow.steps.release(2)
        await watching.until("a1")
        if ending == "drop":  # the connection is gone, and with it who listens
            watching.task.cancel()
            return None
        room.desk.stop(visit) if ending == "stop" else room.desk.leave("page", "me")
        return await watching.end()

    last = asyncio.run(scene())
    assert slow.stopped.acquire(timeout=PATIENCE) and slow.made == [0, 1]
    eventually(lambda: room.engine.worker.places == 0)
    assert len(room.engine.sessions) == 0 and not visit.busy
    if ending == "stop":  # what came is left, the clip is too, and the other method is not begun
        assert last is not None and said(last.status) == "Stopped." and answers(last.talk) == ["prunevid: a0 a1"]
        assert len(room.files()) == 1 and visit.upload is not None
    if ending == "leave":
        assert room.files() == []


def test_waiting_for_others_is_told_and_can_be_stopped(make: Callable[..., Room], slow: SlowQA) -> None:
    room = make(slow)
    first, second = room.desk.visit("one", "me"), room.desk.visit("two", "you")

    async def scene() -> Seen:
        running = Watching(room, first, path="here.mp4")
        slow.steps.release()
        await running.until("a0")
        waiting = Watching(room, second, path="here.mp4")
        await waiting.until("Waiting: 1 question before yours.")
        room.desk.stop(second)
        last = await waiting.end()
        assert not running.task.done()
        slow.steps.release(1000)
        assert said((await running.end()).status).startswith("Done.")
        return last

    assert said(asyncio.run(scene()).status) == "Stopped."


def test_one_question_at_a_time_on_a_page(make: Callable[..., Room], slow: SlowQA) -> None:
    room = make(slow)
    visit = room.desk.visit("page", "me")

    async def scene() -> list[Seen]:
        running = Watching(room, visit, path="here.mp4")
        slow.steps.release()
        await running.until("a0")
        shown = await collect(room.desk, visit, Form("another?"))
        slow.steps.release(1000)
        assert said((await running.end()).status).startswith("Done.")
        return shown

    (only,) = asyncio.run(scene())
    assert "wait for its answer" in said(only.status) and only.talk is None


def test_nothing_to_draw_is_said(make: Callable[..., Room], slow: SlowQA) -> None:
    slow.steps.release(1000)
    room = make(slow)
    last = room.ask(room.desk.visit("page", "me"), path="here.mp4")[-1]
    assert said(last.picture).startswith("No picture: ") and said(last.status).startswith("Done.")


# ---- several people ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mine", "other"), [(("a", "me"), ("b", "me")), (("a", "me"), ("a", "you")), (("a", "me"), ("b", "you"))]
)
def test_visits_do_not_mix(room: Room, mine: tuple[str, str], other: tuple[str, str]) -> None:
    own, stranger = room.desk.visit(*mine), room.desk.visit(*other)
    assert own is room.desk.visit(*mine) and own is not stranger
    sent = room.send(own)
    assert "There is no clip yet" in said(room.ask(stranger, "what does the other see?")[-1].status)
    room.ask(own)
    assert "There is no clip yet" in said(room.ask(stranger)[-1].status)
    room.send(stranger)
    shown = room.ask(stranger, "how many objects are there?")
    assert QUESTION not in str(shown[-1].talk) and not sent.exists()
    room.desk.leave(*other)
    assert said(room.ask(own)[-1].status).startswith("Done.") and len(answers(room.ask(own)[-1].talk)) == 3
    room.desk.leave(*mine)
    room.desk.leave(*mine)
    assert len(room.engine.sessions) == 0 and room.files() == []


def test_few_visits_are_remembered_and_the_busy_ones_stay(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "_MOST_VISITS", 3)
    busy, idle = room.desk.visit("busy", "me"), room.desk.visit("idle", "me")
    busy.busy = True
    sent = room.send(idle)
    others = [room.desk.visit(str(number), "me") for number in range(3)]
    assert not sent.exists() and room.desk.visit("busy", "me") is busy and room.desk.visit("2", "me") is others[2]
    assert room.desk.visit("idle", "me") is not idle
