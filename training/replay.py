"""A chat model that remembers: methods that ask the same thing get the same sample.

The n-th time that one method asks one thing of one question it gets the n-th sample of it, which
is drawn only if no method has drawn it before. So all methods share their first proposals, pairs
are exact, calls are few, and a stopped evaluation goes on from the file of samples.
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import orjson
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import PrivateAttr

from mpdf_langgraph.errors import ConfigurationError

_asked: ContextVar[tuple[int, Counter[str]] | None] = ContextVar("asked", default=None)


@contextmanager
def one_question(seed: int) -> Iterator[None]:
    """Count what is asked within as one method's handling of one question.

    Args:
        seed: Another seed has samples of its own.
    """
    token = _asked.set((seed, Counter()))
    try:
        yield
    finally:
        _asked.reset(token)


class Samples:
    """The samples drawn so far, in memory and in a file.

    Args:
        path: JSON Lines; made if it does not exist. A torn last line is passed over.

    Attributes:
        drawn: Samples drawn anew since this was made.
        reused: Samples given again.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._known: dict[str, AIMessage] = {}
        self._pending: dict[str, asyncio.Future[AIMessage]] = {}
        self.drawn = self.reused = 0
        if path.exists():
            for line in path.read_bytes().splitlines():
                try:
                    record = orjson.loads(line)
                except orjson.JSONDecodeError:
                    continue  # torn by a stop: it is drawn again
                self._known[record["key"]] = AIMessage(**record["message"])
        self._file = path.open("ab", buffering=0)

    async def get(self, key: str, draw: Any) -> AIMessage:
        """Return the sample of that key; of several at a time one draws, the others wait."""
        while key not in self._known:
            if key in self._pending:
                await asyncio.wait([self._pending[key]])
                continue
            self._pending[key] = asyncio.get_running_loop().create_future()
            try:
                message = await draw()
                self._store(key, message)
            finally:
                self._pending.pop(key).set_result(message if key in self._known else None)
            return message
        self.reused += 1
        return self._known[key].model_copy(deep=True)

    def _store(self, key: str, message: AIMessage) -> None:
        self.drawn += 1
        self._known[key] = message
        kept = {
            "content": message.content,
            "response_metadata": message.response_metadata,
            "usage_metadata": message.usage_metadata,
        }
        # The newline first, so that a torn line swallows no other.
        self._file.write(b"\n" + orjson.dumps({"key": key, "message": kept}))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class RememberingChatModel(BaseChatModel):
    """Wraps a chat model; see the module.

    Attributes:
        inner: Whom to ask for samples that are not known.
        name: Tells models of one evaluation apart.
    """

    inner: BaseChatModel
    name: str = "model"
    _samples: Samples = PrivateAttr()

    def __init__(self, samples: Samples, **fields: Any) -> None:
        super().__init__(**fields)
        self._samples = samples

    @property
    def _llm_type(self) -> str:
        return f"remembering-{self.inner._llm_type}"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return dict(self.inner._identifying_params)

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
        content = orjson.dumps(request, option=orjson.OPT_SORT_KEYS, default=str)
        key = hashlib.sha256(content).hexdigest()[:24]
        number = asked[key]
        asked[key] += 1

        async def draw() -> AIMessage:
            result = await self.inner._agenerate(messages, stop=stop, **kwargs)
            [generation] = result.generations
            assert isinstance(generation.message, AIMessage)
            return generation.message

        message = await self._samples.get(f"{key}/{number}", draw)
        return ChatResult(generations=[ChatGeneration(message=message)])
