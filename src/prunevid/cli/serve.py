# SPDX-License-Identifier: Apache-2.0
"""`prunevid serve`: a server with a web page and an endpoint in OpenAI's format."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from prunevid.cli import options
from prunevid.cli.bundles import Loading, Pruning, bundled
from prunevid.errors import ConfigError, MissingDependencyError

_ACCESS = "Access"
_LIMITS = "Limits"


@dataclass(frozen=True)
class Access:
    """Who may reach the server, where, and what they may name."""

    host: Annotated[
        str | None, typer.Option(help="Address to listen on. Default: 127.0.0.1.", rich_help_panel=_ACCESS)
    ] = None
    port: Annotated[
        int | None, typer.Option(help="Port to listen on; 0 takes a free one. Default: 8000.", rich_help_panel=_ACCESS)
    ] = None
    api_key_env: Annotated[
        str | None,
        typer.Option(help="Name of the environment variable that holds the API key.", rich_help_panel=_ACCESS),
    ] = None
    allow_folder: Annotated[
        Path | None,
        typer.Option(help="Folder whose clips may be named by their path. Default: none.", rich_help_panel=_ACCESS),
    ] = None
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Host that clips may be fetched from; may be given often.", rich_help_panel=_ACCESS),
    ] = None

    def settings(self) -> dict[str, Any]:
        """Fields of `ServeSettings`; None where nothing was said."""
        return {
            "host": self.host,
            "port": self.port,
            "api_key": _key(self.api_key_env),
            "allowed_folder": self.allow_folder,
            "allowed_hosts": tuple(self.allow_host or ()) or None,
        }


@dataclass(frozen=True)
class Limits:
    """What a request may ask for; but for the upload, fields of `ServeSettings`."""

    max_upload: Annotated[
        int | None, typer.Option(help="MiB of clips and pictures in a request. Default: 64.", rich_help_panel=_LIMITS)
    ] = None
    max_seconds: Annotated[
        float | None, typer.Option(help="Seconds of a clip. Default: 600.", rich_help_panel=_LIMITS)
    ] = None
    max_pixels: Annotated[
        int | None, typer.Option(help="Pixels of a frame. Default: 3840 x 2160.", rich_help_panel=_LIMITS)
    ] = None
    max_frames: Annotated[int | None, typer.Option(help="Frames to look at. Default: 32.", rich_help_panel=_LIMITS)] = (
        None
    )
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Tokens of an answer. Default: 512.", rich_help_panel=_LIMITS)
    ] = None
    max_queue: Annotated[
        int | None, typer.Option(help="Requests that may wait. Default: 16.", rich_help_panel=_LIMITS)
    ] = None
    max_per_client: Annotated[
        int | None, typer.Option(help="Open requests of one client. Default: 4.", rich_help_panel=_LIMITS)
    ] = None
    request_seconds: Annotated[
        float | None, typer.Option(help="Seconds that one answer may take. Default: 120.", rich_help_panel=_LIMITS)
    ] = None

    def settings(self) -> dict[str, Any]:
        """Fields of `ServeSettings`; None where nothing was said."""
        given = dict(vars(self))
        upload = given.pop("max_upload")
        return {"max_upload_bytes": None if upload is None else upload * 2**20, **given}


@bundled
def serve(
    *,
    loading: Loading,
    name: Annotated[
        str | None,
        typer.Option(help="What clients call the model. Default: its own name.", rich_help_panel=options.MODEL),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="Pruning method of requests that name none. Default: prunevid.", rich_help_panel=options.MODEL
        ),
    ] = None,
    retention: Annotated[float | None, options.retention(options.MODEL)] = None,
    tokens: Annotated[int | None, options.tokens(options.MODEL)] = None,
    page: Annotated[
        bool, typer.Option("--page/--no-page", help="The web page at / (needs gradio).", rich_help_panel=_ACCESS)
    ] = True,
    access: Access,
    limits: Limits,
) -> None:
    """Serve a model to many clients, with a web page and an endpoint in OpenAI's format at /v1; stop it with Ctrl+C."""
    from prunevid.cli import common
    from prunevid.serve.settings import ServeSettings

    given = {**access.settings(), **limits.settings()}
    settings = ServeSettings(**{field: value for field, value in given.items() if value is not None})
    _require()
    qa = common.load(loading, Pruning(method=method, retention=retention, tokens=tokens))
    if not settings.loopback and settings.api_key is None:
        typer.echo(
            f"prunevid: warning: {settings.host} can be reached by other machines, and there is no API key "
            "(--api-key-env).",
            err=True,
        )
    run(qa, settings, name or _name(loading.model), _page() if page else None)


def run(qa: Any, settings: Any, name: str, mount: Any = None) -> None:
    """Serves until it is stopped, and says where; `mount` as in `prunevid.serve.api.create_app`."""
    from prunevid.serve.api import create_app
    from prunevid.serve.engine import Engine
    from prunevid.serve.server import Server

    engine = Engine(qa, settings, name)

    def ready(address: str) -> None:
        where = f"{address}/v1" if mount is None else f"{address} (the endpoint: {address}/v1)"
        typer.echo(f"Serving {name} with {qa.method.label} at {where}; Ctrl+C stops.")

    server = Server(create_app(engine, mount=mount), engine, ready)
    server.run()
    if not server.started:
        raise ConfigError(f"The server can't listen on {settings.host}:{settings.port}; take another --host or --port.")


def _page() -> Any:
    """What adds the page to the application; None, with a line that says so, where Gradio is not installed."""
    from importlib.util import find_spec

    if find_spec("gradio") is None:
        typer.echo("prunevid: no web page, because gradio is not installed (pip install 'prunevid[serve]').", err=True)
        return None
    from prunevid.serve.page import mount

    return mount


def _key(variable: str | None) -> str | None:
    """The API key in an environment variable.

    Raises:
        ConfigError: there is none.
    """
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ConfigError(f"The environment variable {variable} holds no API key; set it, or leave --api-key-env out.")
    return key


def _name(model: str | None) -> str:
    """What a model is called to clients: the last part of its folder, or its id; no path of this machine."""
    if model is None:
        return "builtin"
    path = Path(model).expanduser()
    return path.resolve().name if path.is_dir() else model


def _require() -> None:
    """Refuses before weights are read.

    Raises:
        MissingDependencyError: the extra `serve` is not installed.
    """
    from importlib.util import find_spec

    for module in ("fastapi", "uvicorn", "prometheus_client"):
        if find_spec(module) is None:
            raise MissingDependencyError(
                f"The server needs {module}, which is not installed; run `pip install 'prunevid[serve]'`."
            )
