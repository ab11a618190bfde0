"""Chat models for vLLM's OpenAI-compatible endpoints, and a check that says what is wrong."""

import json
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import httpx2
from pydantic import SecretStr

from mpdf_langgraph.errors import ConfigurationError, EndpointError

if TYPE_CHECKING:
    from langchain_openai import ChatOpenAI

_NO_KEY = "EMPTY"  # what a vLLM server without --api-key expects; anything goes
_CONNECT_SECONDS = 5.0
_DISCOVERY_SECONDS = 5.0
_MAX_ANSWER_BYTES = 2_000_000
_MAX_NAMES = 8

# Kept-alive connections belong to one event loop: a second `asyncio.run` in the same process
# would find them dead ("Event loop is closed"), and nothing closes them when the model is
# dropped. Next to a model call a new connection costs nothing, so none is kept.
_LIMITS = httpx2.Limits(max_connections=1000, max_keepalive_connections=0)


@dataclass(frozen=True)
class EndpointStatus:
    """What `check_endpoint` found.

    Attributes:
        ok: Whether the endpoint can be deliberated with. An endpoint without logprobs can.
        message: The finding in one line, free of keys.
        models: The names that the server serves, LoRA adapters included.
        logprobs: Whether answers come with token logprobs; None when it did not get that far.
        max_model_len: Longest prompt plus answer in tokens, where the server says it.
    """

    ok: bool
    message: str
    models: tuple[str, ...] = ()
    logprobs: bool | None = None
    max_model_len: int | None = None


def vllm_chat_model(
    base_url: str,
    model: str | None = None,
    *,
    api_key: str | SecretStr | None = None,
    temperature: float = 1.0,
    max_tokens: int | None = 1024,
    timeout: float = 60.0,
    max_retries: int = 0,
    **kwargs: Any,
) -> "ChatOpenAI":
    """Return a `ChatOpenAI` whose defaults suit a vLLM server.

    Nothing from the environment that is meant for OpenAI (`OPENAI_API_KEY`, organisation,
    project, proxy) reaches the server, redirects are not followed, every call ends, and
    answers carry token logprobs and usage, streamed or not. Where the server has a reasoning
    parser, what it took out of a reply stays with the message, for the trace.

    Args:
        base_url: Where the server listens, such as ``http://localhost:8000/v1``. A missing
            ``http://`` or ``/v1`` is added.
        model: The served name. When None the server is asked, which blocks for up to
            5 seconds, and must serve exactly one.
        api_key: The key of the server, where it wants one (``vllm serve --api-key``).
        temperature: Sampling temperature. vLLM's logprobs are those before temperature, so
            only at 1 are they the probabilities that an answer was drawn with.
        max_tokens: Longest answer; None leaves it to the server. vLLM refuses more than its context
            length, but cuts down what merely does not fit behind the prompt.
        timeout: Seconds without a sign of life from the server before a call fails.
        max_retries: Retries inside the OpenAI client. Zero, because an `Agent` retries failed
            calls itself and the two would multiply; raise it where no agent is in between.
        **kwargs: Anything else that `ChatOpenAI` takes; it wins over the defaults here.

    Raises:
        ConfigurationError: An option is wrong, or the server serves several models and
            `model` does not say which.
        EndpointError: The server was asked for its model and gave no usable answer.

    Example:
        ```python
        from mpdf_langgraph import vllm_chat_model

        llm = vllm_chat_model("http://localhost:8000/v1", temperature=0.7)
        print(llm.invoke("What is 6*7?").content)
        ```
    """
    # Half a second that other users need not wait.
    from mpdf_langgraph.models.reasoning import ReasoningChatOpenAI

    url, key = _base_url(base_url), _api_key(api_key)
    _check_number("timeout", timeout, above=0)
    _check_number("temperature", temperature, at_least=0)
    _check_number("max_retries", max_retries, at_least=0)
    if max_tokens is not None:
        _check_number("max_tokens", max_tokens, at_least=1)
    if model is None:
        with _Probe(url, key, min(timeout, _DISCOVERY_SECONDS)) as probe:
            model = _only_model(url, probe.models())
    patience = httpx2.Timeout(timeout, connect=min(timeout, _CONNECT_SECONDS))
    own_headers, own_headers_async = _header_hooks(key)
    options: dict[str, Any] = {
        "temperature": temperature,
        "max_tokens": max_tokens,
        "timeout": patience,
        "max_retries": max_retries,
        "logprobs": True,
        # Without it a streamed answer has no usage, and LangGraph's "messages" mode streams.
        "stream_usage": True,
        # Otherwise guessed from the model's name, which a server may choose freely.
        "use_responses_api": False,
        # Read from OPENAI_PROXY otherwise; HTTP_PROXY and its kin are honoured.
        "openai_proxy": None,
        "http_client": httpx2.Client(
            timeout=patience,
            limits=_LIMITS,
            follow_redirects=False,
            event_hooks={"request": [own_headers]},
        ),
        "http_async_client": httpx2.AsyncClient(
            timeout=patience,
            limits=_LIMITS,
            follow_redirects=False,
            event_hooks={"request": [own_headers_async]},
        ),
    }
    return ReasoningChatOpenAI(
        model=model, base_url=url, api_key=SecretStr(key), **(options | kwargs)
    )


def check_endpoint(
    base_url: str,
    model: str | None = None,
    *,
    api_key: str | SecretStr | None = None,
    timeout: float = 15.0,
) -> EndpointStatus:
    """Ask an endpoint for its models and one token, and say in one line how it stands.

    Blocks for at most about three times `timeout`. Whatever the server does, this does not
    raise; only options that are wrong in themselves do.

    Args:
        base_url: As for `vllm_chat_model`.
        model: The served name to try; when None the server must serve exactly one.
        api_key: As for `vllm_chat_model`.
        timeout: Seconds that each request may take in all. A fresh vLLM server can take more than
            five for its very first answer.

    Raises:
        ConfigurationError: `base_url`, `api_key` or `timeout` is wrong.

    Example:
        ```python
        from mpdf_langgraph import check_endpoint

        status = check_endpoint("http://localhost:8000/v1")
        if not status.ok:
            raise SystemExit(status.message)
        ```
    """
    url, key = _base_url(base_url), _api_key(api_key)
    _check_number("timeout", timeout, above=0)
    served: dict[str, int | None] = {}
    try:
        with _Probe(url, key, timeout) as probe:
            served = probe.models()
            name = _only_model(url, served) if model is None else model
            if name not in served:
                raise EndpointError(
                    f"{url} does not serve {_printable(name)!r}, but: {_names(served)}"
                )
            logprobs = probe.gives_logprobs(name)
    except (EndpointError, ConfigurationError) as error:
        return EndpointStatus(ok=False, message=str(error), models=tuple(served))
    length = served[name]
    context = f" ({length} tokens of context)" if length else ""
    extra = "with logprobs" if logprobs else "but without logprobs: confidence costs extra calls"
    return EndpointStatus(
        ok=True,
        message=f"{url} serves {_printable(name)!r}{context}, {extra}",
        models=tuple(served),
        logprobs=logprobs,
        max_model_len=length,
    )


class _Probe:
    """A few short requests to one endpoint; whatever goes wrong is an `EndpointError`."""

    def __init__(self, url: str, key: str, timeout: float) -> None:
        self.url, self.key, self.timeout = url, key, timeout
        self.client = httpx2.Client(
            timeout=timeout, limits=_LIMITS, event_hooks={"request": [_header_hooks(key)[0]]}
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def models(self) -> dict[str, int | None]:
        """Return every served name with its context length, where the server tells it."""
        status, answer = self._exchange("GET", "/models")
        if status != 200:
            raise self._refused(status, answer)
        cards = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(cards, list):
            raise self._foreign()
        served: dict[str, int | None] = {}
        for card in cards:
            name = card.get("id") if isinstance(card, dict) else None
            if not isinstance(name, str):
                raise self._foreign()
            length = card.get("max_model_len")
            served[name] = length if isinstance(length, int) else None
        if not served:
            raise EndpointError(f"{self.url} answers, but serves no model")
        return served

    def gives_logprobs(self, model: str) -> bool:
        """Ask for one token and tell whether its logprob came along."""
        body: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": "Hi"}],
            "max_tokens": 1,
        }
        status, answer = self._exchange("POST", "/chat/completions", body | {"logprobs": True})
        if status in (400, 422):  # perhaps it is the logprobs that this server will not have
            status, answer = self._exchange("POST", "/chat/completions", body)
        if status != 200:
            raise self._refused(status, answer)
        try:
            choice = answer["choices"][0]
            choice["message"]["role"]
        except (TypeError, LookupError):
            raise self._foreign() from None
        try:
            return math.isfinite(choice["logprobs"]["content"][0]["logprob"])
        except (TypeError, LookupError):
            return False

    def _exchange(
        self, method: str, path: str, body: dict[str, Any] | None = None
    ) -> tuple[int, Any]:
        """Return the status and the parsed answer, which is text where it is no JSON."""
        deadline = time.monotonic() + self.timeout
        answer = bytearray()
        try:
            with self.client.stream(method, self.url + path, json=body) as response:
                for chunk in response.iter_bytes():
                    answer += chunk
                    # httpx restarts its clock with every byte that drips in.
                    if time.monotonic() > deadline:
                        raise httpx2.ReadTimeout("too slow")
                    if len(answer) > _MAX_ANSWER_BYTES:
                        raise self._foreign()
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise EndpointError(
                f"cannot connect to {self.url} ({self._clean(str(error))}): is the server running? "
                "`vllm serve MODEL --port PORT` starts one"
            ) from error
        except httpx2.TimeoutException as error:
            raise EndpointError(
                f"{self.url} accepts connections, but did not answer within {self.timeout:g} s: "
                "it is busy, stuck or still loading"
            ) from error
        except (httpx2.HTTPError, OSError) as error:  # a few TLS failures come through as they are
            raise EndpointError(
                f"{self.url} broke off the exchange ({self._clean(str(error))}): "
                "check the port, and http against https"
            ) from error
        try:
            return response.status_code, json.loads(answer)
        except (ValueError, RecursionError):
            return response.status_code, answer.decode(errors="replace")

    def _refused(self, status: int, answer: Any) -> EndpointError:
        if status in (401, 403):
            how = "wants an API key: pass api_key=" if self.key == _NO_KEY else "refuses the key"
            return EndpointError(f"{self.url} {how} (status {status})")
        if 300 <= status < 400:
            return EndpointError(
                f"{self.url} redirects elsewhere (status {status}), which is not followed: "
                "use the final address"
            )
        if isinstance(answer, str) or status == 404:
            return self._foreign(status)
        error = answer.get("error", answer) if isinstance(answer, dict) else answer
        detail = error.get("message", error) if isinstance(error, dict) else error
        return EndpointError(f"{self.url} answers with status {status}: {self._clean(str(detail))}")

    def _foreign(self, status: int = 200) -> EndpointError:
        return EndpointError(
            f"{self.url} does not speak the OpenAI chat API (status {status}): "
            "check the port and the path, which mostly is /v1"
        )

    def _clean(self, text: str) -> str:
        return _printable(text if self.key == _NO_KEY else text.replace(self.key, "***"))


def _header_hooks(
    key: str,
) -> tuple[Callable[[httpx2.Request], None], Callable[[httpx2.Request], Awaitable[None]]]:
    """Return request hooks, sync and async, that leave no credential but the given one.

    The OpenAI client adds headers from OPENAI_ORG_ID, OPENAI_PROJECT_ID and
    OPENAI_CUSTOM_HEADERS, the last of which may replace the key.
    """

    def own(request: httpx2.Request) -> None:
        for name in ("OpenAI-Organization", "OpenAI-Project"):
            request.headers.pop(name, None)
        request.headers["Authorization"] = f"Bearer {key}"

    async def own_async(request: httpx2.Request) -> None:
        own(request)

    return own, own_async


def _only_model(url: str, served: dict[str, int | None]) -> str:
    if len(served) > 1:
        raise ConfigurationError(
            f"{url} serves several models: pass model=, one of {_names(served)}"
        )
    return next(iter(served))


def _base_url(base_url: str) -> str:
    """Return the URL in the form ``scheme://host[:port]/path``, without a trailing slash.

    The given text is never repeated in an error, as it may hold a password.
    """
    wrong = ConfigurationError("base_url must look like 'http://localhost:8000/v1'")
    if not isinstance(base_url, str) or not base_url.strip().isprintable():
        raise wrong
    text = base_url.strip()
    try:
        text = text if "://" in text else f"http://{text}"
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port  # reading the port checks it
        httpx2.URL(text).raw_host.decode().encode("idna")  # an impossible name fails only here
    except (ValueError, httpx2.InvalidURL):
        raise wrong from None
    if parts.scheme not in ("http", "https") or not host or port == 0 or " " in text:
        raise wrong
    if "@" in parts.netloc:
        raise ConfigurationError(
            "base_url must not hold a user name or password, which would end up in logs and "
            "traces: pass the key as api_key="
        )
    if parts.query or parts.fragment:
        raise ConfigurationError("base_url must end with its path: leave out '?' and '#'")
    path = parts.path.rstrip("/").removesuffix("/chat/completions")
    return f"{parts.scheme}://{parts.netloc}{path or '/v1'}"


def _api_key(api_key: str | SecretStr | None) -> str:
    key = api_key.get_secret_value() if isinstance(api_key, SecretStr) else api_key
    if key is None:
        return _NO_KEY
    # A key read from a file easily ends in a newline; the error for a malformed header shows
    # the key, so it must not get that far.
    if not isinstance(key, str) or not key or not key.isascii() or not key.isprintable():
        raise ConfigurationError("api_key must be printable ASCII text, without a line break")
    if " " in key:
        raise ConfigurationError("api_key must not contain spaces")
    return key


def _check_number(
    name: str, value: float, *, above: float = -math.inf, at_least: float = -math.inf
) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value <= above or value < at_least:
        bound = f"above {above:g}" if above > -math.inf else f"of at least {at_least:g}"
        raise ConfigurationError(f"{name} must be a finite number {bound}, not {value!r}")


def _names(served: dict[str, int | None]) -> str:
    names = [repr(_printable(name)) for name in served]
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(names[:_MAX_NAMES]) + more


def _printable(text: str, limit: int = 160) -> str:
    """Return text from elsewhere as one short line without control characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
