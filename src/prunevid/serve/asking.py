# SPDX-License-Identifier: Apache-2.0
"""What a page asks: its clip, one question with one or several methods, and what is shown meanwhile; no Gradio."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prunevid.errors import PruneVidError
from prunevid.serve import words
from prunevid.serve.conversation import Message
from prunevid.serve.engine import Engine, Listener, Question, Reply
from prunevid.serve.media import MediaStore
from prunevid.serve.refusals import Refusal, internal, unusable
from prunevid.serve.uploads import Uploads
from prunevid.serve.worker import Done, Failed, Job, Piece, Started, Waiting

_log = logging.getLogger(__name__)
UNPRUNED = "none"
BUDGETS = ("default", "share", "tokens")
_MOST_VISITS = 256
_WIDTH = 1000  # pixels of a picture: letters stay readable in the page's column


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
    """What the page shows; HTML. None leaves a part as it is."""

    status: str
    talk: str | None = None
    picture: str | None = None
    words: str | None = None


@dataclass
class Visit:
    """One open page.

    Attributes:
        client: who it is to the queue.
        upload: the file that was sent and not read yet; removed when it was.
        name: what messages call the clip.
        kept: key of the clip in the engine's sessions, when it was read.
        kept_for: path and max_frames of the question before; what is kept was read with them.
        job: the answer that runs or waits.
        stopped: whether Stop was pressed during this question.
        busy: whether a question is being answered.
        heard: what came of the answer so far.
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
    heard: str = ""
    exchanges: list[tuple[str, str]] = field(default_factory=list)


class Desk:
    """Answers pages with an engine.

    Args:
        engine: its limits hold for pages, too.
        store: where files of a request lie.
        uploads: what pages send.
    """

    def __init__(self, engine: Engine, store: MediaStore, uploads: Uploads) -> None:
        self._engine, self._store, self._uploads = engine, store, uploads
        self._visits: OrderedDict[tuple[str, str], Visit] = OrderedDict()

    def visit(self, key: str, client: str) -> Visit:
        """The visit of an open page; few are remembered, the idle ones go first.

        Args:
            key: of the page; one that another client made up means another page.
            client: its address.
        """
        own = (client, key)
        visit = self._visits.setdefault(own, Visit(client))
        self._visits.move_to_end(own)
        idle = [other for other, known in self._visits.items() if not known.busy and other != own]
        for host, other in idle[: max(0, len(self._visits) - _MOST_VISITS)]:
            self.leave(other, host)
        return visit

    def leave(self, key: str, client: str) -> None:
        """The page was closed: its answer is stopped, its clip is forgotten, its upload removed."""
        visit = self._visits.pop((client, key), None)
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
        self._uploads.remove(visit.upload)
        visit.upload, visit.kept, visit.kept_for, visit.exchanges = None, None, ("", None), []

    def take(self, visit: Visit, path: str) -> None:
        """Takes a file that was uploaded as the page's clip.

        Raises:
            Refusal: 422: it is no upload, or it is gone.
        """
        self._uploads.sweep()
        if not self._uploads.holds(path) or not Path(path).is_file():
            raise unusable("The upload is not there any more; send the clip again.", "no_such_file")
        self.forget(visit)
        visit.upload = Path(path).resolve()
        visit.name = visit.upload.name

    # ---- a question ----------------------------------------------------------------------------------------------

    async def ask(self, visit: Visit, form: Form) -> AsyncIterator[Seen]:
        """Asks, and says what to show each time that something changes; the last one says how it ended."""
        if visit.busy:
            yield Seen(words.note("This page has a question open; wait for its answer, or press Stop.", "error"))
            return
        visit.busy, visit.stopped, visit.heard = True, False, ""
        try:
            async for seen in self._asked(visit, form):
                yield seen
        except Exception as error:
            if not isinstance(error, Refusal):
                _log.exception("A question of a page failed.")
                error = internal()
            if visit.stopped and visit.heard:
                visit.exchanges.append((form.text, visit.heard))
            told = words.note("Stopped.") if visit.stopped else words.note(str(error), "error")
            yield Seen(told, words.talk(visit.exchanges))
        finally:
            if visit.job is not None:
                self._engine.cancel(visit.job)
            visit.job, visit.busy = None, False

    async def _asked(self, visit: Visit, form: Form) -> AsyncIterator[Seen]:
        form = self._settle(visit, form)
        names = list(dict.fromkeys([form.method, *form.against]))
        sides: list[tuple[str, Reply | str]] = []
        for number, name in enumerate(names):
            head = f"{self._label(name)} ({number + 1} of {len(names)}): " if len(names) > 1 else ""
            piece = ""
            async for change in self._side(visit, self._question(visit, form, name), form):
                if isinstance(change, Reply):
                    sides.append((self._label(name), change))
                elif isinstance(change, Refusal):
                    if len(names) == 1 or visit.stopped or change.status not in (422, 503):
                        raise change
                    sides.append((self._label(name), str(change)))
                else:
                    piece += change.text if isinstance(change, Piece) else ""
                    visit.heard = _said([*_texts(sides), (self._label(name), piece)], len(names))
                    shown = words.talk([*visit.exchanges, (form.text, visit.heard)])
                    table = words.table(sides) if sides else ""
                    yield Seen(words.note(head + _progress(change), "busy"), shown, "", table)
        replies = [(name, reply) for name, reply in sides if isinstance(reply, Reply)]
        if not replies:
            raise unusable(str(sides[0][1]))
        visit.exchanges.append((form.text, _said(_texts(sides), len(names))))
        drawn = await asyncio.to_thread(_draw, replies)
        cost = words.table(sides) if len(names) > 1 else words.figures(replies[0][1])
        follow = "Done. Ask another question about this clip, or give another clip."
        yield Seen(words.note(follow), words.talk(visit.exchanges), drawn, cost)

    def _settle(self, visit: Visit, form: Form) -> Form:
        """The form with the clip that is asked about; another path means another clip.

        Raises:
            Refusal: 422: there is none, or it was read with other frames and is gone.
        """
        if form.path and form.path != visit.kept_for[0]:
            self.forget(visit)
        form = dataclasses.replace(form, path=form.path or visit.kept_for[0])
        if form.path or visit.upload is not None:
            if visit.kept is not None and visit.kept_for[1] != form.max_frames:
                self._engine.sessions.drop(visit.client, visit.kept)
                visit.kept = None
            return form
        if visit.kept is None:
            raise unusable("There is no clip yet; upload one, or name one in the folder of clips.", "no_media")
        fits = form.max_frames is None or 1 <= form.max_frames <= self._engine.settings.max_frames
        if fits and visit.kept_for[1] != form.max_frames:  # the engine refuses what does not fit
            raise unusable("The upload was removed when it was read; send it again to look at other frames.")
        return form

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
            visit.kept_for = (form.path, form.max_frames)
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
                    self._keep(visit, event.result)
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

    def _keep(self, visit: Visit, reply: Reply) -> None:
        """The clip was read: its frames are kept for a while, its upload is not."""
        visit.kept = reply.session
        self._uploads.remove(visit.upload)
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


def _texts(sides: list[tuple[str, Reply | str]]) -> list[tuple[str, str]]:
    return [(name, reply.text) for name, reply in sides if isinstance(reply, Reply)]


def _said(texts: list[tuple[str, str]], sides: int) -> str:
    """An answer as it is, or a line for each of several."""
    if sides == 1:
        return texts[0][1]
    return "\n".join(f"{name}: {text}" for name, text in texts if text)


def _draw(replies: list[tuple[str, Reply]]) -> str:
    """The picture of what was kept, from the frames in memory; words where there is nothing to draw."""
    from prunevid import view

    names, answers = [name for name, _ in replies], [reply.answer for _, reply in replies]
    frames = replies[0][1].clip.frames
    pictures = {}
    try:
        for theme in ("light", "dark"):
            if len(answers) == 1:
                image = view.sheet(answers[0], frames, width=_WIDTH, theme=theme)
            else:
                image = view.compare_sheet(answers, names, frames, width=_WIDTH, theme=theme)
            pictures[theme] = view.png(image)
    except PruneVidError as error:
        return words.note(f"No picture: {error}")
    return words.picture(pictures, "The clip's frames, with the tokens that were kept clear and the others dark")
