"""Chat models for vLLM's endpoints, and a check that says what is wrong with an endpoint."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import httpx2
from pydantic import SecretStr

from mpdf_langgraph.errors import ConfigurationError, EndpointError
from mpdf_langgraph.models.failover import failover_clients
from mpdf_langgraph.models.http_client import EndpointClient
from mpdf_langgraph.models.prefix_cache import PrefixCache
from mpdf_langgraph.options import check_number
from mpdf_langgraph.secrets import NO_KEY, header_values, hide_secrets, mask_secrets

if TYPE_CHECKING:
    from langchain_openai import ChatOpenAI

_CONNECT_SECONDS = 5.0
_DISCOVERY_SECONDS = 5.0
_MAX_ANSWER_BYTES = 2_000_000
_MAX_NAMES = 8


@dataclass(frozen=True)
class EndpointStatus:
    """What `check_endpoint` found.

    Attributes:
        ok: Whether the endpoint can be deliberated with. An endpoint without logprobs can.
        message: The finding in one line, free of keys.
        models: The names that the server serves, LoRA adapters included.
        logprobs: Whether answers come with token logprobs. None: the check did not get that far.
        max_model_len: Longest prompt plus answer in tokens. None: the server does not say it.
        prefix_cache: What vLLM's prefix cache has served since the server started. None: the server
            does not say it.
    """

    ok: bool
    message: str
    models: tuple[str, ...] = ()
    logprobs: bool | None = None
    max_model_len: int | None = None
    prefix_cache: PrefixCache | None = None


def vllm_chat_model(
    base_url: str | Sequence[str],
    model: str | None = None,
    *,
    api_key: str | SecretStr | None = None,
    temperature: float = 1.0,
    max_tokens: int | None = 1024,
    timeout: float = 60.0,
    deadline: float | None = None,
    max_retries: int = 0,
    **kwargs: Any,
) -> "ChatOpenAI":
    """Return a `ChatOpenAI` whose defaults suit a vLLM server.

    The server gets nothing from the environment that is meant for OpenAI: no `OPENAI_API_KEY`,
    organisation, project, proxy or `OPENAI_CUSTOM_HEADERS`. The key goes to the host of `base_url`
    alone. Redirects are not followed. Every call ends. Answers carry token logprobs and usage,
    also if they are streamed. A server with a reasoning parser takes the thought out of a reply.
    The message keeps it, for the trace.

    Args:
        base_url: Where the server listens, such as ``http://localhost:8000/v1``. A missing
            ``http://`` or ``/v1`` is added. Of several servers of the same model, a request goes to
            the one with the fewest open requests of this process. A streamed request is open until
            its stream ends. The calls of an agent for one question stay at one of them, for its
            prefix cache. A server that cannot be reached, or turns requests down (429, 502, 503),
            rests, and the request goes to the next one at once. Then one request at a time tries
            it.
        model: The served name. None: the server is asked. This takes up to 5 seconds, and the
            server must serve exactly one model. Of several servers the first that answers counts.
        api_key: The key of the server, if it wants one (``vllm serve --api-key``). The key and
            the values of `default_headers` are masked in failures, traces, events and warnings.
        temperature: Sampling temperature. vLLM's logprobs are those before temperature. So they
            are the probabilities that an answer was drawn with at temperature 1 alone.
        max_tokens: Longest answer. None: the server decides. vLLM refuses a value above its
            context length. It cuts a value that does not fit behind the prompt.
        timeout: Seconds without a byte from the server before a call fails. Waiting for a free
            connection does not count.
        deadline: Seconds that one request may take in all, also if bytes keep coming. None: ten
            times `timeout`.
        max_retries: Retries inside the OpenAI client. An `Agent` retries failed calls itself, and
            within the question's deadline. Raise it where a model is used without an agent. An
            agent would then leave failed requests to the client.
        **kwargs: Anything else that `ChatOpenAI` takes. It wins over the defaults here.

    Raises:
        ConfigurationError: An option is wrong. Or the server serves several models, and `model`
            does not say which.
        EndpointError: The server was asked for its model and gave no usable answer.

    Example:
        ```python
        from mpdf_langgraph import vllm_chat_model

        llm = vllm_chat_model("http://localhost:8000/v1", temperature=0.7)
        print(llm.invoke("What is 6*7?").content)
        ```
    """
    # This import takes half a second. Who needs no endpoint need not wait.
    from mpdf_langgraph.models.reasoning import ReasoningChatOpenAI
    from mpdf_langgraph.models.short_way import reuse_heads

    urls, key = _base_urls(base_url), _api_key(api_key)
    check_number("timeout", timeout, 0, above=True)
    check_number("temperature", temperature, 0)
    check_number("max_retries", max_retries, 0, whole=True)
    check_number("max_tokens", max_tokens, 1, whole=True, optional=True)
    if model is None:
        model = _served_model(urls, key, min(timeout, _DISCOVERY_SECONDS))
    patience = httpx2.Timeout(timeout, connect=min(timeout, _CONNECT_SECONDS))
    if deadline is None:
        deadline = 10 * timeout
    check_number("deadline", deadline, 0, above=True)
    hide_secrets(*_secrets(key), *header_values(kwargs))
    endpoints = [EndpointClient(url, key, patience, deadline) for url in urls]
    if len(endpoints) == 1:
        clients = endpoints[0].client(), endpoints[0].async_client()
    else:
        clients = failover_clients(endpoints)
    options: dict[str, Any] = {
        "temperature": temperature,
        "max_tokens": max_tokens,
        "timeout": patience,
        "max_retries": max_retries,
        "logprobs": True,
        # Without it a streamed answer has no usage, and LangGraph's "messages" mode streams.
        "stream_usage": True,
        # The client would guess it from the model's name, which a server may choose freely.
        "use_responses_api": False,
        # The client would read OPENAI_PROXY. HTTP_PROXY and the like still count.
        "openai_proxy": None,
        "http_client": clients[0],
        "http_async_client": clients[1],
    }
    chat_model = ReasoningChatOpenAI(
        model=model, base_url=urls[0], api_key=SecretStr(key), **(options | kwargs)
    )
    if not kwargs.keys() & {"http_client", "http_async_client"}:
        reuse_heads(chat_model.root_client)
        reuse_heads(chat_model.root_async_client)
    return chat_model


def check_endpoint(
    base_url: str,
    model: str | None = None,
    *,
    api_key: str | SecretStr | None = None,
    timeout: float = 60.0,
) -> EndpointStatus:
    """Ask an endpoint for its models and for one token. Say in one line what was found.

    It takes at most about four times `timeout`. It raises nothing, whatever the server does. Only
    a wrong option raises.

    Args:
        base_url: As for `vllm_chat_model`.
        model: The served name to try. None: the server must serve exactly one.
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
    check_number("timeout", timeout, 0, above=True)
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
            cache = probe.prefix_cache()
    except (EndpointError, ConfigurationError) as error:
        return EndpointStatus(ok=False, message=str(error), models=tuple(served))
    length = served[name]
    context = f" ({length} tokens of context)" if length else ""
    extra = "with logprobs" if logprobs else "but without logprobs: confidence costs extra calls"
    if cache is not None and cache.rate is not None:
        extra += f", prefix cache hit rate {cache.rate:.0%} so far"
    return EndpointStatus(
        ok=True,
        message=f"{url} serves {_printable(name)!r}{context}, {extra}",
        models=tuple(served),
        logprobs=logprobs,
        max_model_len=length,
        prefix_cache=cache,
    )


def read_prefix_cache(base_url: str) -> PrefixCache | None:
    """Return the counters of a vLLM server's prefix cache. None: the server does not say them.

    Read them before and after some calls. The difference is what the cache has served of them.

    Raises:
        ConfigurationError: `base_url` is wrong.
    """
    with _Probe(_base_url(base_url), _api_key(None), timeout=5.0) as probe:
        return probe.prefix_cache()


class _Probe:
    """A few short requests to one endpoint. Whatever goes wrong is an `EndpointError`."""

    def __init__(self, url: str, key: str, timeout: float) -> None:
        self.url, self.key, self.timeout = url, key, timeout
        hide_secrets(*_secrets(key))
        self.client = EndpointClient(url, key, httpx2.Timeout(timeout), timeout).client()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def models(self) -> dict[str, int | None]:
        """Return every served name with its context length. None: the server does not say it."""
        status, answer = self._exchange("GET", "/models")
        if status != 200:
            raise self._explain_status(status, answer)
        cards = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(cards, list):
            raise self._foreign()
        served: dict[str, int | None] = {}
        for card in cards:
            name = card.get("id") if isinstance(card, dict) else None
            if not isinstance(name, str) or not name.isprintable():
                raise self._foreign()
            meta = card.get("meta")  # llama.cpp's server puts it there
            length = card.get(
                "max_model_len", meta.get("n_ctx") if isinstance(meta, dict) else None
            )
            served[name] = length if isinstance(length, int) else None
        if not served:
            raise EndpointError(f"{self.url} answers, but serves no model")
        return served

    def gives_logprobs(self, model: str) -> bool:
        """Ask for one token. Tell whether its logprob came with it."""
        body: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": "Hi"}],
            "max_tokens": 1,
        }
        status, answer = self._exchange("POST", "/chat/completions", body | {"logprobs": True})
        if status in (400, 422):  # perhaps this server refuses the logprobs alone
            status, answer = self._exchange("POST", "/chat/completions", body)
        if status != 200:
            raise self._explain_status(status, answer)
        try:
            choice = answer["choices"][0]
            choice["message"]["role"]
        except (TypeError, LookupError):
            raise self._foreign() from None
        try:
            return math.isfinite(choice["logprobs"]["content"][0]["logprob"])
        except (TypeError, LookupError, OverflowError):
            return False

    def prefix_cache(self) -> PrefixCache | None:
        """Return the counters of the prefix cache. They stand beside the API, not below it."""
        try:
            status, answer = self._exchange("GET", "/metrics", url=self.url.removesuffix("/v1"))
        except EndpointError:
            return None
        return PrefixCache.of(answer) if status == 200 and isinstance(answer, str) else None

    def _exchange(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, url: str | None = None
    ) -> tuple[int, Any]:
        """Return the status and the parsed answer. An answer that is no JSON is text."""
        answer = bytearray()
        try:
            with self.client.stream(method, (url or self.url) + path, json=body) as response:
                for chunk in response.iter_bytes():
                    answer += chunk
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
        except (httpx2.HTTPError, OSError) as error:  # some TLS failures are plain OSErrors
            raise EndpointError(
                f"{self.url} broke off the exchange ({self._clean(str(error))}): "
                "check the port, and http against https"
            ) from error
        try:
            return response.status_code, json.loads(answer)
        except (ValueError, RecursionError):
            return response.status_code, answer.decode(errors="replace")

    def _explain_status(self, status: int, answer: Any) -> EndpointError:
        if status in (401, 403):
            how = "wants an API key: pass api_key=" if self.key == NO_KEY else "refuses the key"
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
        return _printable(mask_secrets(text))


def _served_model(urls: Sequence[str], key: str, timeout: float) -> str:
    """Return the only model of the first server that answers."""
    for url in urls:
        try:
            with _Probe(url, key, timeout) as probe:
                return _only_model(url, probe.models())
        except EndpointError:
            if url == urls[-1]:
                raise
    raise AssertionError("there is at least one URL")


def _only_model(url: str, served: dict[str, int | None]) -> str:
    if len(served) > 1:
        raise ConfigurationError(
            f"{url} serves several models: pass model=, one of {_names(served)}"
        )
    return next(iter(served))


def _base_urls(base_url: str | Sequence[str]) -> list[str]:
    if isinstance(base_url, str) or not isinstance(base_url, Sequence):
        return [_base_url(base_url)]
    urls = [_base_url(one) for one in base_url]
    if not urls or len(set(urls)) < len(urls):
        raise ConfigurationError("base_url must name one server or several different ones")
    return urls


def _base_url(base_url: str) -> str:
    """Return the URL in the form ``scheme://host[:port]/path``, without a trailing slash.

    No error repeats the given text, as it may hold a password.
    """
    wrong = ConfigurationError("base_url must look like 'http://localhost:8000/v1'")
    if not isinstance(base_url, str) or not base_url.strip().isprintable():
        raise wrong
    text = base_url.strip()
    try:
        text = text if "://" in text else f"http://{text}"
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port  # reading the port checks it
        httpx2.URL(text).raw_host.decode().encode("idna")  # an impossible name fails here alone
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
        return NO_KEY
    # A key that was read from a file may end in a newline. The error for a malformed header would
    # show the key.
    if not isinstance(key, str) or not key or not key.isascii() or not key.isprintable():
        raise ConfigurationError("api_key must be printable ASCII text, without a line break")
    if " " in key:
        raise ConfigurationError("api_key must not contain spaces")
    return key


def _secrets(key: str) -> list[str]:
    return [] if key == NO_KEY else [key]


def _names(served: dict[str, int | None]) -> str:
    names = [repr(_printable(name)) for name in served]
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(names[:_MAX_NAMES]) + more


def _printable(text: str) -> str:
    """Return text from elsewhere as one short line without control characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= 160 else line[:159] + "…"
