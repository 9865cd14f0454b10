# SPDX-License-Identifier: Apache-2.0
"""A judge behind any endpoint that speaks OpenAI's chat completions.

The key comes from the environment and goes into the requests alone: no file, log, setting or error holds it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from prunevid.errors import ConfigError, InputError, JudgeError, MissingDependencyError, one_line
from prunevid.evaluation.judging.asking import Gate, Identity, Said
from prunevid.evaluation.judging.cases import Case

KEY_VARIABLES = ("PRUNEVID_JUDGE_API_KEY", "OPENAI_API_KEY")
DEFAULT_URL = "https://api.openai.com/v1"
LONGEST_PAUSE = 60.0
_LATER = "the answers and every reply so far are kept: run the command again to go on"


class _Malformed(Exception):
    """The endpoint answered with something that is no chat completion."""


class Endpoint:
    """A judge that is asked over HTTP.

    Args:
        model: the name to ask for; one with a date gives scores that can be compared later.
        base_url: of the interface, ending before /chat/completions; None: OpenAI's.
        temperature: of sampling; the published protocol takes 0. None sends none, for models that refuse it.
        timeout: of a request, in seconds.
        attempts: how often a request is sent at most while the endpoint can't be reached, is too slow, is busy (429) or
            fails (5xx).
        pause: seconds before the first repetition; each further pause is twice as long, up to a minute. What the
            endpoint says in Retry-After goes first.
        environment: where the key is looked up: `KEY_VARIABLES`, the first that is set. An endpoint other than OpenAI's
            may do without.

    Raises:
        ConfigError: a number or the address is out of range.
        InputError: there is no key, or it can't be sent.
        MissingDependencyError: the extra `eval` is not installed.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        temperature: float | None = 0.0,
        timeout: float = 60.0,
        attempts: int = 6,
        pause: float = 1.0,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        if not model.strip():
            raise ConfigError("The judge's model has no name; give one with --judge-model.")
        if temperature is not None and not 0 <= temperature <= 2:
            raise ConfigError(f"The judge's temperature is {temperature}; give 0 to 2.")
        if timeout <= 0 or attempts < 1:
            raise ConfigError(f"The judge needs time and an attempt at least, not {timeout} s and {attempts} attempts.")
        url = base_url or DEFAULT_URL
        self.identity = Identity(model, _public(url), temperature)
        self._timeout, self._attempts, self._pause = timeout, attempts, pause
        self._key = _key(os.environ if environment is None else environment, needed=base_url is None)
        self._client = _client(url, self._key, timeout)

    def ask(self, case: Case, gate: Gate) -> Said:
        """See `prunevid.evaluation.judging.asking.Judge`."""
        import openai
        import tenacity

        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self._attempts) | tenacity.stop_when_event_set(gate.stop),
            wait=self._wait,
            retry=tenacity.retry_if_exception(_passes),
            sleep=tenacity.sleep_using_event(gate.stop),
            reraise=True,
        )
        try:
            return retrying(self._once, case, gate)
        except (openai.OpenAIError, _Malformed) as error:
            if getattr(error, "code", None) == "content_filter":  # of this one item: no reason to stop the others
                return Said("", None, 0, 0, 0)
            message = self._sentence(error)
        # Out of the handler, so that no traceback shows the endpoint's own words, which may hold the key.
        raise JudgeError(message)

    def _once(self, case: Case, gate: Gate) -> Said:
        """Sends one request."""
        gate.enter()
        options: dict[str, Any] = (
            {} if self.identity.temperature is None else {"temperature": self.identity.temperature}
        )
        try:
            completion = self._client.chat.completions.create(
                model=self.identity.model, messages=[dict(message) for message in case.messages], **options
            )
            text = completion.choices[0].message.content
        except (ValueError, AttributeError, TypeError, IndexError):
            raise _Malformed from None
        usage = getattr(completion, "usage", None)
        counts = [getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens", "total_tokens")]
        return Said(text or "", getattr(completion, "model", None), *counts)

    def _wait(self, state: Any) -> float:
        """Seconds until a request is sent again."""
        grown = self._pause * 2.0 ** (state.attempt_number - 1)
        asked = _retry_after(state.outcome.exception())
        return min(grown if asked is None else asked, LONGEST_PAUSE)

    def _sentence(self, error: Exception) -> str:
        """What went wrong, in one sentence that holds no key."""
        import openai

        who = f"The judge at {self.identity.endpoint}"
        status = getattr(error, "status_code", None)
        if isinstance(error, openai.APITimeoutError):
            return f"{who} did not answer within {self._timeout:g} s; {_LATER}."
        if isinstance(error, openai.APIConnectionError):
            return f"{who} can't be reached ({self._clean(error.__cause__ or error)}); {_LATER}."
        if status in (401, 403):
            return f"{who} refuses the key (HTTP {status}); set {' or '.join(KEY_VARIABLES)} to a valid one; {_LATER}."
        if status is not None and status >= 400:
            return f"{who} answers with HTTP {status} ({self._clean(error)}); {_LATER}."
        return f"{who} answers with something that is no chat completion; check --base-url; {_LATER}."

    def _clean(self, error: BaseException) -> str:
        """An error's words on one short line, without the key."""
        body = getattr(error, "body", None)
        said = body.get("message") if isinstance(body, Mapping) else None
        text = one_line(said or error) or type(error).__name__
        if self._key:
            text = text.replace(self._key, "***")
        return text if len(text) <= 200 else text[:197] + "..."


def _client(url: str, key: str | None, timeout: float) -> Any:
    try:
        import openai
        import tenacity  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            f"A judge needs the package {error.name}; install it with pip install 'prunevid[eval]'."
        ) from error
    return openai.OpenAI(api_key=key or "none", base_url=url, timeout=timeout, max_retries=0)


def _key(environment: Mapping[str, str], *, needed: bool) -> str | None:
    """The key of the first variable that is set."""
    for name in KEY_VARIABLES:
        key = environment.get(name, "").strip()
        if key and not (key.isascii() and key.isprintable()):
            raise InputError(f"The key in {name} holds characters that can't be sent; set it anew.")
        if key:
            return key
    if needed:
        raise InputError(f"No key for the judge; set {' or '.join(KEY_VARIABLES)}, or name another --base-url.")
    return None


def _public(url: str) -> str:
    """An address without user, password, query and fragment, as it may be written down."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or parts.scheme not in ("http", "https"):
        raise ConfigError("The judge's --base-url is no address; give one as http://127.0.0.1:8000/v1.")
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}{'' if port is None else f':{port}'}{parts.path.rstrip('/')}"


def _passes(error: BaseException) -> bool:
    """Whether asking again later may help."""
    import openai

    if isinstance(error, (openai.APIConnectionError, _Malformed)):
        return True
    status = getattr(error, "status_code", None)
    if status is None or getattr(error, "code", None) == "insufficient_quota":
        return False
    return status in (408, 409, 425, 429) or status >= 500


def _retry_after(error: BaseException | None) -> float | None:
    """The seconds of the header Retry-After, which holds a number or a date."""
    from datetime import datetime, timezone

    response = getattr(error, "response", None)
    text = "" if response is None else response.headers.get("retry-after", "")
    try:
        return max(float(text), 0.0)
    except ValueError:
        pass
    try:
        date = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    return max((date - datetime.now(timezone.utc)).total_seconds(), 0.0) if date.tzinfo else None
