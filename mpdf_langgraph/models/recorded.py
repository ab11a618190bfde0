"""A chat model that serves recorded answers, so that a deliberation runs without a server.

Benchmarks and logs often hold the answers of real models. With this model, the whole graph runs
over these answers, the same way every time.
"""

from collections.abc import Mapping
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult

from mpdf_langgraph.errors import EndpointError


class RecordedChatModel(BaseChatModel):
    """Answers a question with the recorded answer of one agent.

    It finds the question in the request by its text. If several recorded questions stand in the
    last human message, the longest counts. So any prompt that quotes the question works. Every
    request for the same question gets the same answer.

    A recording has proposals only. Nobody knows what an agent would have said about its peers'
    answers, so a request to refine or to judge an answer raises `EndpointError`. Inside a
    deliberation, the agent then keeps its response, and the failure is recorded. Use a critic that
    does not ask the agents: `critic=None`, a callable, or ``"logprob"`` if the recording has
    log-probabilities. Set `max_calls` to the number of agents. Then every call is a proposal, and
    routers choose between PERSIST and CONCEDE.

    Attributes:
        agent: The agent whose answers it serves.
        recordings: Question -> agent -> its answer. An answer is text, or a message if token
            log-probabilities or usage were recorded too. The whole team shares one.

    Raises:
        EndpointError: A request asks for something that is not recorded. The message says what is.

    Example:
        >>> told = {"Capital of Italy?": {"ann": "Rome", "bo": "Milan"}}
        >>> model = RecordedChatModel(agent="bo", recordings=told)
        >>> model.invoke("Capital of Italy? Answer in one word.").text
        'Milan'
    """

    agent: str
    recordings: Mapping[str, Mapping[str, str | AIMessage]]

    @property
    def _llm_type(self) -> str:
        return "recorded"

    @property
    def model_name(self) -> str:
        """The agent's name. In traces it stands as the model's name."""
        return self.agent

    def _generate(self, messages: list[BaseMessage], *_: Any, **kwargs: Any) -> ChatResult:
        said = self._find_answer(messages)
        message = AIMessage(said) if isinstance(said, str) else said.model_copy(deep=True)
        message.response_metadata = {"model_name": self.agent, **message.response_metadata}
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _find_answer(self, messages: list[BaseMessage]) -> str | AIMessage:
        *before, asked = [str(m.text) for m in messages if isinstance(m, HumanMessage)] or [""]
        question = self._question_in(asked)
        # A request to refine or to judge comes after the question, or repeats it.
        earlier = {self._question_in(text) for text in before} - {None}
        if question in earlier or (question is None and earlier):
            raise EndpointError(
                f"agent {self.agent!r} is recorded: it cannot refine an answer or judge one. Set "
                "max_calls to the number of agents, and no critic that asks them"
            )
        if question is None:
            raise EndpointError(
                f"none of the {len(self.recordings)} recorded questions stands in the request "
                f"{asked!r:.200}"
            )
        answers = self.recordings[question]
        if self.agent not in answers:
            raise EndpointError(
                f"no answer of agent {self.agent!r} is recorded for {question!r:.100}. These "
                f"agents have one: {', '.join(answers) or 'none'}"
            )
        return answers[self.agent]

    def _question_in(self, text: str) -> str | None:
        quoted = (q for q in self.recordings if q.strip() and q.strip() in text)
        return max(quoted, key=len, default=None)
