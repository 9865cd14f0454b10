# SPDX-License-Identifier: Apache-2.0
"""What a page asks: its clip, one question with one or several methods, and what is shown meanwhile; no Gradio."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prunevid.errors import PruneVidError
from prunevid.serve import words
from prunevid.serve.conversation import Message
from prunevid.serve.engine import Engine, Listener, Question, Reply
from prunevid.serve.media import MediaStore
from prunevid.serve.refusals import Refusal, internal, unusable
from prunevid.serve.worker import Done, Failed, Job, Piece, Started, Waiting

UNPRUNED = "none"
BUDGETS = ("default", "share", "tokens")
_MOST_VISITS = 256


@dataclass(frozen=True)
class Form:
    """What was filled in.

    Attributes:
        text: the question.
        path: of a clip in the allowed folder; empty: the upload, or the clip that is kept.
        method: its name; None: the server's.
        budget: one of `BUDGETS`; "default" leaves it to the method.
        amount: of that budget.
        max_frames: None: as many as the server looks at by default.
        against: methods that answer the same question about the same frames.
    """

    text: str
    path: str = ""
    method: str | None = None
    budget: str = "default"
    amount: float | None = None
    max_frames: int | None = None
    against: tuple[str, ...] = ()


@dataclass(frozen=True)
class Seen:
    """What the page shows; HTML."""

    status: str = ""
    talk: str = ""
    picture: str = ""
    words: str = ""


@dataclass
class Visit:
    """One open page.

    Attributes:
        client: who it is to the queue.
        upload: the file that was sent and not read yet; removed when it was.
        name: what messages call the clip.
        kept: key of the clip in the engine's sessions, when it was read.
        kept_for: path and max_frames that the kept clip was read with.
        job: the answer that runs or waits.
        stopped: whether Stop was pressed during this question.
        busy: whether a question is being answered.
        exchanges: questions and answers about the clip.
    """

    client: str
    upload: Path | None = None
    name: str = "the clip"
    kept: str | None = None
    kept_for: tuple[str, int | None] = ("", None)
    job: Job | None = None
    stopped: bool = False
    busy: bool = False
    exchanges: list[tuple[str, str]] = field(default_factory=list)


class Desk:
    """Answers pages with an engine.

    Args:
        engine: its limits hold for pages, too.
        store: where files of a request lie.
        folder: where uploads of pages lie, inside the store's.
    """

    def __init__(self, engine: Engine, store: MediaStore, folder: Path) -> None:
        self._engine, self._store, self.folder = engine, store, folder
        self._visits: OrderedDict[str, Visit] = OrderedDict()

    def visit(self, key: str, client: str) -> Visit:
        """The visit of an open page; few are remembered, the idle ones go first."""
        visit = self._visits.setdefault(key, Visit(client))
        self._visits.move_to_end(key)
        idle = [other for other, known in self._visits.items() if not known.busy and other != key]
        for other in idle[: max(0, len(self._visits) - _MOST_VISITS)]:
            self.leave(other)
        return visit

    def leave(self, key: str) -> None:
        """The page was closed: its answer is stopped, its clip is forgotten, its upload removed."""
        visit = self._visits.pop(key, None)
        if visit is not None:
            self.stop(visit)
            self.forget(visit)

    def stop(self, visit: Visit) -> None:
        """Ends the answer that runs or waits, and those that would follow it."""
        visit.stopped = True
        if visit.job is not None:
            self._engine.cancel(visit.job)

    def forget(self, visit: Visit) -> None:
        """Drops the clip of a page and what was said about it."""
        if visit.kept is not None:
            self._engine.sessions.drop(visit.client, visit.kept)
        _remove(visit.upload)
        visit.upload, visit.kept, visit.kept_for, visit.exchanges = None, None, ("", None), []

    def take(self, visit: Visit, path: str) -> None:
        """Takes a file that was uploaded as the page's clip.

        Raises:
            Refusal: 403, 413, 422: it does not lie in the folder of uploads, is too large, or is gone.
        """
        file = Path(path).resolve()
        if not file.is_relative_to(self.folder.resolve()) or not file.is_file():
            raise unusable("The upload is not there any more; send the clip again.", "no_such_file")
        self.forget(visit)
        visit.upload, visit.name = file, file.name
        for stray in self.folder.iterdir():  # Gradio opens an empty file beside each upload, and leaves it
            if stray.is_file() and stray.stat().st_size == 0:
                stray.unlink(missing_ok=True)

    # ---- a question ----------------------------------------------------------------------------------------------

    async def ask(self, visit: Visit, form: Form) -> AsyncIterator[Seen]:
        """Asks, and says what to show each time that something changes; the last one says how it ended."""
        if visit.busy:
            yield Seen(words.note("This page has a question open; wait for its answer, or press Stop.", "error"))
            return
        visit.busy, visit.stopped = True, False
        try:
            async for seen in self._asked(visit, form):
                yield seen
        except PruneVidError as error:
            refusal = error if isinstance(error, Refusal) else internal()
            text = "Stopped." if visit.stopped else str(refusal)
            yield Seen(words.note(text, "note" if visit.stopped else "error"), words.talk(visit.exchanges))
        finally:
            if visit.job is not None:
                self._engine.cancel(visit.job)
            visit.job, visit.busy = None, False

    async def _asked(self, visit: Visit, form: Form) -> AsyncIterator[Seen]:
        self._settle(visit, form)
        names = list(dict.fromkeys([form.method, *form.against]))
        sides: list[tuple[str, Reply | str]] = []
        for number, name in enumerate(names):
            head = f"{self._label(name)} ({number + 1} of {len(names)}): " if len(names) > 1 else ""
            text = ""
            async for change in self._side(visit, self._question(visit, form, name), form):
                if isinstance(change, Reply):
                    sides.append((self._label(name), change))
                elif isinstance(change, Refusal):
                    if len(names) == 1 or visit.stopped or change.status not in (422, 503):
                        raise change
                    sides.append((self._label(name), str(change)))
                else:
                    text += change.text if isinstance(change, Piece) else ""
                    shown = words.talk([*visit.exchanges, (form.text, text)])
                    yield Seen(words.note(head + _progress(change)), shown, words=words.table(sides) if sides else "")
        replies = [(name, reply) for name, reply in sides if isinstance(reply, Reply)]
        if not replies:
            raise unusable(str(sides[0][1]))
        visit.exchanges.append((form.text, _said(replies)))
        drawn = await asyncio.to_thread(_draw, replies)
        cost = words.table(sides) if len(names) > 1 else words.note(words.in_words(replies[0][1]))
        follow = "Done. Ask another question about this clip, or give another clip."
        yield Seen(words.note(follow), words.talk(visit.exchanges), drawn, cost)

    def _settle(self, visit: Visit, form: Form) -> None:
        """Makes sure that there is a clip to ask about; another path means another clip.

        Raises:
            Refusal: 422: there is none, or it was read with other frames and is gone.
        """
        if form.path and form.path != visit.kept_for[0]:
            self.forget(visit)
            visit.name = "the clip"
        if form.path or visit.upload is not None:
            if visit.kept is not None and visit.kept_for[1] != form.max_frames:
                self._engine.sessions.drop(visit.client, visit.kept)
                visit.kept = None
            return
        if visit.kept is None:
            raise unusable("There is no clip yet; upload one, or name one in the folder of clips.", "no_media")
        if visit.kept_for[1] != form.max_frames:
            raise unusable("The upload was removed when it was read; send it again to look at other frames.")

    def _question(self, visit: Visit, form: Form, method: str | None) -> Question:
        """The question for one method, without its clip."""
        budget = {} if method == UNPRUNED else _budget(form)
        return Question((Message("user", form.text),), method=method, max_frames=form.max_frames, keep=True, **budget)

    async def _side(
        self, visit: Visit, question: Question, form: Form
    ) -> AsyncIterator[Waiting | Started | Piece | Reply | Refusal]:
        """The events of one method's answer; the last is its reply, or why there is none."""
        with ExitStack() as stack:
            place = self._engine.reserve(visit.client)
            stack.callback(place.release)
            whole = await asyncio.to_thread(self._with_clip, visit, question, form, stack)
            listener = Listener()
            try:
                visit.job = await asyncio.to_thread(self._engine.submit, place, whole, listener)
                if visit.stopped:
                    self._engine.cancel(visit.job)
            except Refusal as refusal:
                yield refusal
                return
            async for event in listener:
                if isinstance(event, Done):
                    self._keep(visit, event.result, form)
                    yield event.result
                elif isinstance(event, Failed):
                    if event.refusal.code == "unknown_session":
                        visit.kept = None
                    yield event.refusal
                else:
                    yield event

    def _with_clip(self, visit: Visit, question: Question, form: Form, stack: ExitStack) -> Question:
        """The question with the clip that is kept, or with a file."""
        if visit.kept is not None:
            return dataclasses.replace(question, session=visit.kept)
        if visit.upload is not None:
            return dataclasses.replace(question, clip=str(visit.upload), names={str(visit.upload): visit.name})
        media = stack.enter_context(self._store.request())
        file = media.take(form.path, "the clip")
        return dataclasses.replace(question, clip=str(file), names=media.names)

    def _keep(self, visit: Visit, reply: Reply, form: Form) -> None:
        """The clip was read: its frames are kept for a while, its upload is not."""
        visit.kept, visit.kept_for = reply.session, (form.path, form.max_frames)
        _remove(visit.upload)
        visit.upload = None

    def _label(self, method: str | None) -> str:
        return {None: self._engine.qa.method.label, UNPRUNED: "unpruned"}.get(method) or str(method)


def _budget(form: Form) -> dict[str, Any]:
    """The fields of a `Question`.

    Raises:
        Refusal: 422: an unknown kind, or no amount.
    """
    if form.budget == "default":
        return {}
    if form.budget not in BUDGETS or form.amount is None:
        raise unusable("Say how much to keep: a share above 0 and at most 1, or a number of tokens.")
    if form.budget == "share":
        return {"retention_ratio": float(form.amount)}
    if form.amount != int(form.amount):
        raise unusable(f"The number of tokens is {form.amount:g}, but must be a whole number.")
    return {"retention_tokens": int(form.amount)}


def _progress(event: Waiting | Started | Piece) -> str:
    if isinstance(event, Waiting):
        before = f"{event.ahead} question{'s' * (event.ahead != 1)} before yours"
        return f"Waiting: {before}." if event.ahead else "It is your turn."
    return "Reading the clip and the question ..." if isinstance(event, Started) else "Answering ..."


def _said(replies: list[tuple[str, Reply]]) -> str:
    if len(replies) == 1:
        return replies[0][1].text
    return "; ".join(f"{name}: {reply.text}" for name, reply in replies)


def _draw(replies: list[tuple[str, Reply]]) -> str:
    """The picture of what was kept, from the frames in memory; words where there is nothing to draw."""
    from prunevid import view

    frames = replies[0][1].clip.frames
    answers = [reply.answer for _, reply in replies]
    try:
        if len(answers) == 1:
            image = view.sheet(answers[0], frames, width=1400)
        else:
            image = view.compare_sheet(answers, [name for name, _ in replies], frames, width=1400)
    except PruneVidError as error:
        return words.note(f"No picture: {error}")
    return words.picture(view.png(image), "The clip's frames, with the tokens that were kept clear and the others dark")


def _remove(path: Path | None) -> None:
    """Removes an upload and the folder that was made for it."""
    if path is None:
        return
    path.unlink(missing_ok=True)
    with suppress(OSError):  # it is not empty, or gone
        os.rmdir(path.parent)
