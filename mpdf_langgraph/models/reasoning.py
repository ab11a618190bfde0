"""A chat model for OpenAI-compatible endpoints that keeps what a reasoning parser set apart.

Where a server parses the thoughts out of a reply, it sends them in a field of their own, of which
OpenAI's API and so `ChatOpenAI` know nothing.
"""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Self

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_openai import ChatOpenAI
from pydantic import model_validator

from mpdf_langgraph.models.short_way import UsualReply, shorten, shorten_async

#: What servers call the field: vLLM, SGLang and DeepSeek, and newer releases of vLLM.
_FIELDS = ("reasoning_content", "reasoning")


class ReasoningChatOpenAI(ChatOpenAI):
    """`ChatOpenAI` whose messages bear a reply's thought, where the server sends it apart.

    It stands in ``additional_kwargs["reasoning_content"]``, as other providers' classes have it.
    """

    #: The server can be held to a JSON schema (vLLM's ``structured_outputs``).
    structured_outputs: ClassVar[bool] = True

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """Return False: what it was made with, headers included, goes to no tracing service."""
        return False

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Yield what may be shown: no headers, and nothing that may hold one."""
        for name in ("model_name", "openai_api_base", "temperature", "max_tokens"):
            yield name, getattr(self, name)

    @model_validator(mode="after")
    def _take_short_way(self) -> Self:
        """Have the clients that were made take the shorter way (see `short_way`)."""
        if self.client is not None:
            raw = self.client.with_raw_response
            raw.create = shorten(raw.create)
        if not self.include_response_headers:  # they come with the longer way alone
            raw = self.async_client.with_raw_response
            raw.create = shorten_async(raw.create)
        return self

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        try:
            return await super()._agenerate(messages, stop, run_manager, **kwargs)
        except UsualReply as usual:
            return self._create_chat_result(usual.reply)

    def _create_chat_result(
        self, response: Any, generation_info: dict[str, Any] | None = None
    ) -> ChatResult:
        result = super()._create_chat_result(response, generation_info)
        given = response if isinstance(response, dict) else response.model_dump(warnings=False)
        for generation, choice in zip(result.generations, given["choices"], strict=False):
            _keep_thought(generation.message, choice["message"])
        return result

    def _convert_chunk_to_generation_chunk(
        self, chunk: dict[str, Any], *args: Any, **kwargs: Any
    ) -> ChatGenerationChunk | None:
        converted = super()._convert_chunk_to_generation_chunk(chunk, *args, **kwargs)
        choices = chunk.get("choices")
        if converted is not None and choices:
            _keep_thought(converted.message, choices[0]["delta"])
        return converted


def _keep_thought(message: BaseMessage, given: Mapping[str, Any]) -> None:
    thoughts = [given.get(field) for field in _FIELDS]
    if thought := next((t for t in thoughts if isinstance(t, str) and t), None):
        message.additional_kwargs["reasoning_content"] = thought
