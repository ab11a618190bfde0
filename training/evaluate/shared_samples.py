"""A chat model that remembers its samples, so that methods that ask the same get the same.

If a method asks an agent the same thing about a question for the n-th time, it gets the n-th
sample. The sample is drawn only if no method has drawn it before. So all methods share their first
proposals, differences are exactly paired, calls are few, and a stopped evaluation goes on from the
file of samples.
"""

import asyncio
import hashlib
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import PrivateAttr

from mpdf_langgraph.errors import ConfigurationError
from training.collect.files import lock

_asked: ContextVar[tuple[int, dict[str, set[int]]] | None] = ContextVar("asked", default=None)


@contextmanager
def one_question(seed: int) -> Iterator[None]:
    """Count the requests within as those of one method on one question.

    Args:
        seed: Another seed has samples of its own.
    """
    token = _asked.set((seed, defaultdict(set)))
    try:
        yield
    finally:
        _asked.reset(token)


class Samples:
    """The samples drawn so far, in a file. Memory holds only their places.

    A sample is always read from the file, also the first time. So an evaluation that was stopped
    sees exactly what one without a stop sees.

    Args:
        path: JSON Lines. It is made if it does not exist. Torn lines are passed over.
        shared: The evaluation's folder. The samples there and those of all its workers on Ray are
            read too. Default: the folder of `path`.

    Raises:
        ConfigurationError: Another evaluation writes the file.

    Attributes:
        counts: Samples since this was made: those ``drawn`` and those ``reused``.
    """

    def __init__(self, path: Path, shared: Path | None = None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._places: dict[str, tuple[Path, int, int]] = {}  # file, start and length of the line
        self._pending: dict[str, asyncio.Future[None]] = {}
        self.counts: Counter[str] = Counter()
        self._file = path.open("a+b", buffering=0)
        lock(self._file, "Wait for that evaluation, or give another --out.")
        shared = shared or path.parent
        self.read([shared, *sorted(shared.glob("worker-*/"))])

    def read(self, folders: Iterable[Path]) -> None:
        """Read where the samples of further folders stand."""
        for path in (folder / self._path.name for folder in folders):
            if not path.exists():
                continue
            with path.open("rb") as lines:
                start = 0
                for line in lines:
                    # A line may be blank, or torn by a stop: it is drawn again.
                    with suppress(ValueError, KeyError, TypeError):
                        self._places[json.loads(line)["key"]] = (path, start, len(line))
                    start += len(line)

    async def get(self, key: str, draw: Callable[[], Awaitable[AIMessage]]) -> AIMessage:
        """Return the sample of that key. If several ask at a time one draws and the others wait."""
        while key not in self._places:
            if key in self._pending:
                await asyncio.wait([self._pending[key]])
                continue  # if drawing failed, one of those who waited draws
            done = self._pending[key] = asyncio.get_running_loop().create_future()
            try:
                self._store(key, await draw())
            finally:
                del self._pending[key]
                done.set_result(None)
            return self._read_sample(key)
        self.counts["reused"] += 1
        return self._read_sample(key)

    def _store(self, key: str, message: AIMessage) -> None:
        kept = {
            "content": str(message.text),
            "additional_kwargs": message.additional_kwargs,
            "response_metadata": message.response_metadata,
            "usage_metadata": message.usage_metadata,
        }
        # The newline comes first, so that a torn line swallows no other.
        line = b"\n" + json.dumps({"key": key, "message": kept}, default=str).encode()
        if self._file.write(line) != len(line):
            raise OSError(f"a sample was not written whole to {self._file.name}: is the disk full?")
        start = self._file.tell() - len(line) + 1
        self._places[key] = (self._path, start, len(line) - 1)
        self.counts["drawn"] += 1

    def _read_sample(self, key: str) -> AIMessage:
        path, start, length = self._places[key]
        with path.open("rb") as file:
            file.seek(start)
            return AIMessage(**json.loads(file.read(length))["message"])

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class RememberingChatModel(BaseChatModel):
    """A chat model with a file of samples (see the module).

    Attributes:
        inner: The chat model that draws new samples.
        name: Name of the agent and its model. Another name has other samples.
    """

    inner: BaseChatModel
    name: str = "model"
    _samples: Samples = PrivateAttr()

    def __init__(self, samples: Samples, **fields: Any) -> None:
        super().__init__(**fields)
        self._samples = samples

    # Agents and critics look up these attributes in their models.

    @property
    def model_name(self) -> str:
        """As the inner model has it, else the name of its class."""
        named = getattr(self.inner, "model_name", None) or getattr(self.inner, "model", None)
        return named or type(self.inner).__name__

    @property
    def temperature(self) -> float | None:
        """As the inner model has it, if it has one: refinements are then sampled cooler."""
        return self.inner.temperature  # type: ignore[attr-defined,no-any-return]

    @property
    def extra_body(self) -> Any:
        """As the inner model has it: critics add to it."""
        return getattr(self.inner, "extra_body", None)

    @property
    def _llm_type(self) -> str:
        return f"remembering-{self.inner._llm_type}"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        raise ConfigurationError("a remembering model is for asynchronous runs")

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        scope = _asked.get()
        if scope is None:
            raise ConfigurationError("ask within `one_question`")
        seed, asked = scope
        request = [self.name, seed, [[m.type, m.content] for m in messages], stop, kwargs]
        content = json.dumps(request, sort_keys=True, default=str)
        key = hashlib.sha256(content.encode()).hexdigest()[:24]
        number = next(n for n in itertools.count() if n not in asked[key])
        asked[key].add(number)

        async def draw() -> AIMessage:
            # `_agenerate` leaves out log-probabilities and the finish reason, and `ainvoke` would
            # report the call a second time.
            [[generation]] = (
                await self.inner.agenerate([messages], stop=stop, **kwargs)
            ).generations
            assert isinstance(generation, ChatGeneration)
            assert isinstance(generation.message, AIMessage)
            return generation.message

        try:
            message = await self._samples.get(f"{key}/{number}", draw)
        except BaseException:
            asked[key].discard(number)  # a retry asks for the same sample
            raise
        return ChatResult(generations=[ChatGeneration(message=message)])
