"""A chat model that serves recorded answers, so that a deliberation runs with no server.

What real models said to real questions is often there already: in a benchmark's files, in logs.
With it the whole graph runs over their words, the same way every time.
"""

from collections.abc import Mapping
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult

from mpdf_langgraph.errors import EndpointError


class RecordedChatModel(BaseChatModel):
    """Answers a question with what one agent is recorded to have answered.

    The question is recognised in the request by its text: of the recorded questions that stand
    in the last human message, the longest counts. So any prompts will do that quote the
    question. Every request for the same question gets the same answer.

    A recording knows proposals and nothing else. What an agent *would* have said in view of its
    peers nobody knows, so a request to refine, or to judge an answer, raises `EndpointError`;
    inside a deliberation the agent then keeps its response, and the failure is recorded. Give
    `create_deliberation` no critic that asks the agents (`critic=None`, ``"logprob"`` where the
    recording has log-probabilities, or a callable), and `max_calls` = number of agents: then
    every call goes into the proposals, and routers may choose PERSIST and CONCEDE alone.

    Attributes:
        agent: Whose answers to serve.
        recordings: Question -> agent -> its answer: text, or a message where token
            log-probabilities or usage were recorded too. One for the whole team.

    Raises:
        EndpointError: When asked what is not recorded; the message says what is.

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
        """The agent's name, which stands for the model in traces."""
        return self.agent

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
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
                f"no answer of agent {self.agent!r} is recorded for {question!r:.100}; recorded "
                f"are those of {', '.join(answers) or 'nobody'}"
            )
        return answers[self.agent]

    def _question_in(self, text: str) -> str | None:
        quoted = (q for q in self.recordings if q.strip() and q.strip() in text)
        return max(quoted, key=len, default=None)
