# SPDX-License-Identifier: Apache-2.0
"""The web page: Gradio's components around a `Desk`, at "/" of the server."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Any

from prunevid import methods
from prunevid.errors import MissingDependencyError

try:
    import gradio as gr
except ImportError as error:
    raise MissingDependencyError(
        f"The page needs {error.name}, which is not installed; run `pip install 'prunevid[serve]'`."
    ) from error

from prunevid.serve import words
from prunevid.serve.asking import UNPRUNED, Desk, Form, Seen, Visit
from prunevid.serve.engine import Engine
from prunevid.serve.gate import Gate
from prunevid.serve.refusals import Refusal

_TITLE = "prunevid"
_BUDGETS = [("as the method says", "default"), ("share of the tokens", "share"), ("number of tokens", "tokens")]
_CSS = """
.gradio-container { max-width: 1500px !important; }
.pv-question { margin: .5em 0 .1em; font-weight: 600; }
.pv-answer { margin: 0 0 .6em; padding: .5em .8em; border-left: 3px solid #0072b2; font-size: 1.1em; }
.pv-note { margin: 0; padding: .1em 0; opacity: .85; }
.pv-error { color: #b3261e; font-weight: 600; }
.dark .pv-error { color: #ff8a80; }
.pv-picture { width: 100%; height: auto; border-radius: 6px; }
.pv-table { width: 100%; border-collapse: collapse; }
.pv-table th, .pv-table td { text-align: left; padding: .35em .8em .35em 0; border-bottom: 1px solid #8884; }
"""


def mount(app: Any) -> None:
    """Adds the page to an application of `prunevid.serve.api.create_app`; one page in a process.

    Gradio keeps its files where an environment variable says, so that variable is set: to a private folder that goes
    with the application.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    engine: Engine = app.state.engine
    folder = (app.state.store.folder / "page").resolve()
    folder.mkdir(mode=0o700, exist_ok=True)
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    desk = Desk(engine, app.state.store, folder)
    app.state.desk = desk
    gr.mount_gradio_app(
        app,
        _blocks(desk, engine),
        path="/",
        footer_links=[],
        show_error=False,
        max_file_size=engine.settings.max_upload_bytes,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        css=_CSS,
    )
    route = app.routes[-1]
    route.app = Gate(route.app, engine, folder)


def _blocks(desk: Desk, engine: Engine) -> Any:
    """The page's components, and what happens when they are used."""
    with gr.Blocks(title=_TITLE, analytics_enabled=False) as blocks:
        gr.HTML(
            f"<h1>{_TITLE}</h1><p>Ask <b>{words.escape(engine.name)}</b> about a clip, and see which visual tokens "
            "pruning kept.</p>"
        )
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                upload, path = _clip_fields(engine)
                fields = [path, *_question_fields(engine)]
                with gr.Row():
                    ask = gr.Button("Ask", variant="primary", elem_id="pv-ask")
                    stop = gr.Button("Stop", elem_id="pv-stop")
            with gr.Column(scale=5, min_width=480):
                start = words.note("Give a clip and a question, then press Ask.")
                shown = [gr.HTML(start, elem_id="pv-status"), gr.HTML(elem_id="pv-talk")]
                shown += [gr.HTML(elem_id="pv-drawn"), gr.HTML(elem_id="pv-words")]
        _wire(blocks, desk, upload, fields, shown, ask, stop)
    # Waiting is the engine's business: it is fair, bounded, and says how many come before.
    blocks.queue(default_concurrency_limit=None, max_size=8 * (engine.settings.max_queue + 1))
    return blocks


def _clip_fields(engine: Engine) -> tuple[Any, Any]:
    settings = engine.settings
    most = f"{settings.max_upload_bytes / 2**20:g} MiB, {settings.max_seconds:g} s"
    upload = gr.File(label=f"Clip (at most {most})", type="filepath", height=130, elem_id="pv-upload")
    path = gr.Textbox(
        label="or a clip in the server's folder",
        placeholder="holiday/beach.mp4",
        max_length=4096,
        visible=settings.allowed_folder is not None or bool(settings.allowed_hosts),
        elem_id="pv-path",
    )
    return upload, path


def _question_fields(engine: Engine) -> list[Any]:
    names = [(f"{name} (unpruned)" if name == UNPRUNED else name, name) for name in methods.names()]
    question = gr.Textbox(
        label="Question", placeholder="What happens?", max_length=engine.settings.max_text_chars, elem_id="pv-text"
    )
    own = (f"the server's ({engine.qa.method.label})", "")
    method = gr.Dropdown([own, *names], value="", label="Pruning method", elem_id="pv-method")
    with gr.Row():
        budget = gr.Dropdown(_BUDGETS, value="default", label="Keep", min_width=140, elem_id="pv-budget")
        amount = gr.Number(label="How much", value=0.2, min_width=90, visible=False, elem_id="pv-amount")
    budget.change(_amount, budget, amount, api_visibility="private", show_progress="hidden", concurrency_limit=None)
    against = gr.Dropdown(names, value=[], multiselect=True, label="Compare with (same frames)", elem_id="pv-against")
    frames = gr.Number(
        label=f"Frames to look at (at most {engine.settings.max_frames}; empty: the model's own number)",
        value=None,
        precision=0,
        elem_id="pv-frames",
    )
    return [question, method, budget, amount, frames, against]


def _amount(kind: str) -> Any:
    """The field of a budget's amount, where one is needed."""
    start = {"share": 0.2, "tokens": 64}.get(kind)
    return gr.Number(visible=start is not None, **({} if start is None else {"value": start}))


def _wire(blocks: Any, desk: Desk, upload: Any, fields: list[Any], shown: list[Any], ask: Any, stop: Any) -> None:
    """Connects components with the desk. A visit is known by Gradio's key of the open page, which nobody else has."""

    def visit(request: gr.Request) -> Visit:
        host = request.client.host if request.client is not None else "unknown"
        return desk.visit(str(request.session_hash), host)

    async def asked(
        path: str,
        text: str,
        method: str,
        budget: str,
        amount: float | None,
        frames: float | None,
        against: list[str],
        request: gr.Request,
    ) -> AsyncIterator[tuple[str, str, str, str]]:
        filled = form(path, text, method, budget, amount, frames, against)
        async for seen in desk.ask(visit(request), filled):
            yield _outputs(seen)

    def sent(file: str | None, request: gr.Request) -> tuple[str, str, str, str]:
        try:
            if file is not None:
                desk.take(visit(request), file)
                return _outputs(Seen(words.note("The clip is here. Ask about it.")))
            desk.forget(visit(request))
        except Refusal as refusal:
            return _outputs(Seen(words.note(str(refusal), "error")))
        return _outputs(Seen(words.note("The clip is forgotten.")))

    def stopped(request: gr.Request) -> None:
        desk.stop(visit(request))

    def left(request: gr.Request) -> None:
        desk.leave(str(request.session_hash))

    options: dict[str, Any] = {"api_visibility": "private", "concurrency_limit": None, "show_progress": "hidden"}
    for event in (ask.click, fields[1].submit):
        event(asked, fields, shown, **options)
    upload.upload(sent, upload, shown, **options)
    upload.clear(sent, upload, shown, **options)
    stop.click(stopped, None, None, **options)
    blocks.unload(left)


def form(
    path: str | None,
    text: str | None,
    method: str | None,
    budget: str | None,
    amount: float | None,
    frames: float | None,
    against: list[str] | None,
) -> Form:
    """The fields of the page, as they come from a browser: nothing, or 0 for a number, stands for an empty field."""
    return Form(
        text=(text or "").strip(),
        path=(path or "").strip(),
        method=method or None,
        budget=budget or "default",
        amount=amount,
        max_frames=int(frames) if frames else None,
        against=tuple(against or ()),
    )


def _outputs(seen: Seen) -> tuple[str, str, str, str]:
    return seen.status, seen.talk, seen.picture, seen.words
