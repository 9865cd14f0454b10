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
from prunevid.serve.uploads import Uploads

_TITLE = "prunevid"
_BUDGETS = [("as the method says", "default"), ("share of the tokens", "share"), ("number of tokens", "tokens")]
# Gradio puts its own class before every rule; of a rule with several selectors it changes all where one has ".dark".
_CSS = """
.gradio-container { width: 100% !important; max-width: 1440px !important; margin: 0 auto !important; }
#pv-upload .download { visibility: hidden; }
#pv-head h1 { margin: 0; font-size: 1.7em; }
#pv-head p { margin: .2em 0 0; opacity: .85; }
.pv-note, .pv-busy, .pv-error { padding: .55em .9em; border-radius: 8px; background: #8881; }
.pv-busy { background: #0072b21c; }
.pv-busy::before { content: ""; display: inline-block; width: .65em; height: .65em; margin-right: .6em;
  border-radius: 50%; background: #0072b2; animation: pv-beat 1.2s ease-in-out infinite; }
@keyframes pv-beat { 50% { opacity: .25; } }
.pv-error { color: #b3261e; background: #b3261e14; font-weight: 600; }
.dark .pv-error { color: #ffb4ab; background: #ffb4ab1c; }
.pv-question { margin: .5em 0 .2em; font-weight: 600; white-space: pre-wrap; overflow-wrap: anywhere; }
.pv-answer { margin: 0 0 .7em; padding: .4em .9em; border-left: 3px solid #0072b2; font-size: 1.1em;
  white-space: pre-wrap; overflow-wrap: anywhere; }
.pv-frame, .pv-scroll { overflow-x: auto; }
.pv-frame { border: 1px solid #8884; border-radius: 8px; }
.pv-frame img.pv-picture { display: block; width: 100%; min-width: 560px; height: auto; margin: 0; border-radius: 0; }
.pv-frame img.pv-dark { display: none; }
.dark .pv-frame img.pv-light { display: none; }
.dark .pv-frame img.pv-dark { display: block; }
.pv-figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(170px, 1fr)); gap: .7em; }
.pv-figures div { padding: .6em .9em; border: 1px solid #8884; border-radius: 8px; }
.pv-figures b { display: block; font-size: 1.35em; }
.pv-figures span { font-size: .9em; opacity: .85; }
.gradio-container table.pv-table { width: 100%; margin: 0; border-collapse: collapse; }
.gradio-container table.pv-table, .gradio-container table.pv-table :is(thead, tbody, tr) { border: 0; }
.gradio-container table.pv-table :is(th, td) { padding: .45em .9em .45em 0; border: 0;
  border-bottom: 1px solid #8884; text-align: left; vertical-align: top; white-space: pre-wrap; }
.pv-hint { margin: .5em 0 0; font-size: .9em; opacity: .85; }
"""


def mount(app: Any) -> None:
    """Adds the page to an application of `prunevid.serve.api.create_app`; one page in a process.

    Gradio keeps its files where an environment variable says, so that variable is set: to a private folder that goes
    with the application.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    engine: Engine = app.state.engine
    folder = app.state.store.folder / "page"
    folder.mkdir(mode=0o700, exist_ok=True)
    uploads = Uploads(folder, engine.settings)
    os.environ["GRADIO_TEMP_DIR"] = str(uploads.folder)
    desk = Desk(engine, app.state.store, uploads)
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
        theme=gr.themes.Default(primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        css=_CSS,
    )
    route = app.routes[-1]
    route.app = Gate(route.app, engine, uploads)


def _blocks(desk: Desk, engine: Engine) -> Any:
    """The page's components, and what happens when they are used."""
    with gr.Blocks(title=_TITLE, analytics_enabled=False, fill_width=True) as blocks:
        gr.HTML(
            f"<h1>{_TITLE}</h1><p>Ask <b>{words.escape(engine.name)}</b> about a clip, and see which visual tokens "
            "pruning kept.</p>",
            elem_id="pv-head",
        )
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                upload, path, question = _asking_fields(engine)
                with gr.Row():
                    ask = gr.Button("Ask", variant="primary", min_width=80, elem_id="pv-ask")
                    stop = gr.Button("Stop", min_width=80, elem_id="pv-stop")
                fields = [path, question, *_pruning_fields(engine)]
            with gr.Column(scale=5, min_width=320):
                start = words.note("Give a clip and a question, then press Ask.")
                shown = [gr.HTML(start, elem_id="pv-status"), gr.HTML(elem_id="pv-talk")]
                shown += [gr.HTML(elem_id="pv-drawn"), gr.HTML(elem_id="pv-words")]
        _wire(blocks, desk, upload, fields, shown, ask, stop)
    # Waiting is the engine's business: it is fair, bounded, and says how many come before.
    blocks.queue(default_concurrency_limit=None, max_size=8 * (engine.settings.max_queue + 1))
    return blocks


def _asking_fields(engine: Engine) -> tuple[Any, Any, Any]:
    """The upload, the path, the question."""
    settings = engine.settings
    most = f"{settings.max_upload_bytes / 2**20:.3g} MiB, {settings.max_seconds:g} s"
    upload = gr.File(label=f"Clip (at most {most})", type="filepath", height=160, elem_id="pv-upload")
    with gr.Group():
        path = gr.Textbox(
            label="or a URL of an allowed host"
            if settings.allowed_folder is None
            else "or a clip in the server's folder",
            placeholder="holiday/beach.mp4",
            max_length=4096,
            visible=settings.allowed_folder is not None or bool(settings.allowed_hosts),
            elem_id="pv-path",
        )
        question = gr.Textbox(
            label="Question", placeholder="What happens?", max_length=settings.max_text_chars, elem_id="pv-text"
        )
    return upload, path, question


def _pruning_fields(engine: Engine) -> list[Any]:
    """The method, the kind of budget and its amount, the frames, the methods to compare with."""
    names = [(f"{name} (unpruned)" if name == UNPRUNED else name, name) for name in methods.names()]
    own = (f"the server's ({engine.qa.method.label})", "")
    with gr.Group():
        method = gr.Dropdown([own, *names], value="", label="Pruning method", elem_id="pv-method")
        budget = gr.Dropdown(_BUDGETS, value="default", label="Keep", elem_id="pv-budget")
        amount = gr.Number(label="How much", value=0.2, visible=False, elem_id="pv-amount")
        against = gr.Dropdown(names, value=[], multiselect=True, label="Compare with", elem_id="pv-against")
        most = engine.settings.max_frames
        usual = engine.qa.max_frames
        frames = gr.Number(
            label=f"Frames to look at (at most {most})", value=min(usual, most), precision=0, elem_id="pv-frames"
        )
    budget.change(_amount, budget, amount, api_visibility="private", show_progress="hidden", concurrency_limit=None)
    return [method, budget, amount, frames, against]


def _amount(kind: str) -> Any:
    """The field of a budget's amount, where one is needed."""
    start = {"share": 0.2, "tokens": 64}.get(kind)
    value: dict[str, Any] = {} if start is None else {"value": start}
    return gr.Number(visible=start is not None, **value)


def _wire(blocks: Any, desk: Desk, upload: Any, fields: list[Any], shown: list[Any], ask: Any, stop: Any) -> None:
    """Connects components with the desk. A visit is known by Gradio's key of the open page, which nobody else has."""

    def visit(request: gr.Request) -> Visit:
        return desk.visit(str(request.session_hash), _host(request))

    async def asked(
        path: str,
        text: str,
        method: str,
        budget: str,
        amount: float | None,
        frames: float | None,
        against: list[str],
        request: gr.Request,
    ) -> AsyncIterator[tuple[Any, ...]]:
        filled = form(path, text, method, budget, amount, frames, against)
        async for seen in desk.ask(visit(request), filled):
            yield _outputs(seen)

    def sent(file: str | None, request: gr.Request) -> tuple[Any, ...]:
        try:
            if file is not None:
                desk.take(visit(request), file)
                return "", *_outputs(Seen(words.note("The clip is here. Ask about it."), "", "", ""))
            desk.forget(visit(request))
        except Refusal as refusal:
            return gr.skip(), *_outputs(Seen(words.note(str(refusal), "error")))
        return gr.skip(), *_outputs(Seen(words.note("The clip is forgotten."), "", "", ""))

    def stopped(request: gr.Request) -> None:
        desk.stop(visit(request))

    def left(request: gr.Request) -> None:
        desk.leave(str(request.session_hash), _host(request))

    options: dict[str, Any] = {"api_visibility": "private", "concurrency_limit": None, "show_progress": "hidden"}
    for event in (ask.click, fields[1].submit):
        event(asked, fields, shown, **options)
    upload.upload(sent, upload, [fields[0], *shown], **options)
    upload.clear(sent, upload, [fields[0], *shown], **options)
    fields[0].blur(_instead, fields[0], upload, **options)
    stop.click(stopped, None, None, **options)
    blocks.unload(left)


def _host(request: gr.Request) -> str:
    return request.client.host if request.client is not None else "unknown"


def _instead(path: str) -> Any:
    """A clip that is named takes the place of one that was sent."""
    return None if path.strip() else gr.skip()


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


def _outputs(seen: Seen) -> tuple[Any, ...]:
    """What Gradio is given for the four parts of the page."""
    return tuple(gr.skip() if part is None else part for part in (seen.status, seen.talk, seen.picture, seen.words))
