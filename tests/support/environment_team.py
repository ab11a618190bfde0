"""The agents of a known environment as chat models, so that the real graph deliberates."""

import re
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import PrivateAttr

from mpdf_langgraph import Agent, Prompts
from training.studies.environments import (
    CHOICES,
    LETTERS,
    PROPOSE_TOKENS,
    REFINE_TOKENS,
    Environment,
    Held,
    Replies,
    Said,
    logprobs_of,
    text_of,
    truth_of,
)

_SEEN = re.compile(r"\[(\w+) (proposed|refined) (plain|partial|worked) ([A-D]) (\d\.\d+)\]")
_PROMPTS = Prompts(peer="--- {name} ---\n{response}")
_PEER = re.compile(r"--- (\w+) ---\n" + _SEEN.pattern)
_ASKED = re.compile(r"Question (\d+) of (\w+)\?")


class Player(BaseChatModel):
    """An agent of an environment as a chat model. Another seed gives other replies."""

    environment: Any
    agent: str
    seed: int = 0
    _replies: Any = PrivateAttr(default=None)

    @property
    def _llm_type(self) -> str:
        return "environment"

    def _generate(self, messages: list[BaseMessage], *_: Any, **kwargs: Any) -> ChatResult:
        environment: Environment = self.environment
        if self._replies is None:
            self._replies = Replies(environment, self.seed)
        found = _ASKED.search(str(messages[0].text))
        assert found is not None
        number, seen = int(found[1]), None
        if len(messages) > 1:
            seen = {
                self.agent: _parse_held(_SEEN.search(str(messages[-2].text)), truth_of(number), 1)
            }
            for peer in _PEER.finditer(str(messages[-1].text)):
                seen[peer[1]] = _parse_held(peer, truth_of(number), 2)
        said = self._replies.draw(number, self.agent, seen)
        text = text_of(environment, Held(self.agent, seen is not None, said), truth_of(number))
        entries = [{"token": "x", "logprob": p, "top_logprobs": []} for p in logprobs_of(said)]
        spent, made = PROPOSE_TOKENS if seen is None else REFINE_TOKENS
        message = AIMessage(
            text,
            response_metadata={
                "finish_reason": "stop",
                "model_name": self.agent,
                "logprobs": {"content": entries},
            },
            usage_metadata={
                "input_tokens": spent,
                "output_tokens": made,
                "total_tokens": spent + made,
            },
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    async def _agenerate(self, messages: list[BaseMessage], *_: Any, **kwargs: Any) -> ChatResult:
        return self._generate(messages)


def _parse_held(found: re.Match[str] | None, truth: int, first: int) -> Held:
    assert found is not None
    author, stage, kind, letter, confidence = found.groups()[first - 1 :]
    said = Said((LETTERS.index(letter) - truth) % CHOICES, float(confidence), kind)  # type: ignore[arg-type]
    return Held(author, stage == "refined", said)


def team(environment: Environment, seed: int = 0) -> list[Agent]:
    """Return the environment's agents."""
    return [
        Agent(name, Player(environment=environment, agent=name, seed=seed), prompts=_PROMPTS)
        for name in environment.agents
    ]
