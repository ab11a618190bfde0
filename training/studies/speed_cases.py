"""The deliberations that `speed` measures, and the requests that they make."""

import warnings
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage

from mpdf_langgraph import Agent, MathAnswer, Prompts, create_deliberation

QUESTION = (
    "A farmer has 17 sheep and buys 5 lambs every spring for 5 years. Then she sells 2 of every 11 "
    "animals, and gives one to each of her 3 neighbours. How many animals does she have in the end?"
)


@dataclass(frozen=True)
class Case:
    """A kind of deliberation: so many agents, and so many rounds in which all of them refine."""

    name: str
    agents: int
    rounds: int
    critic: Any = None
    prompts: Prompts = Prompts()

    def build(self, model: BaseChatModel, **options: Any) -> Any:
        """Return the builder of its graph."""
        team = [Agent(f"agent-{n}", model, prompts=self.prompts) for n in range(1, self.agents + 1)]
        return create_deliberation(
            team,
            router="always-refine",
            critic=self.critic,
            answer=MathAnswer(),
            max_rounds=self.rounds,
            stop_when_settled=False,
            **options,
        )


CASES = (
    Case("vote of 3", 3, 0),
    Case("debate 3 × 3", 3, 3),
    Case("vote of 3, logprob", 3, 0, "logprob"),
    Case("debate 3 × 3, logprob", 3, 3, "logprob"),
    Case("16 agents × 1", 16, 1),
)


Requests = list[list[tuple[list[BaseMessage], float]]]
"""Messages and temperature of the calls of each round."""


class _Recorder(BaseCallbackHandler):
    """Keeps the requests of a deliberation by round."""

    run_inline = True

    def __init__(self) -> None:
        self.rounds: dict[int, list[tuple[list[BaseMessage], float]]] = defaultdict(list)

    def on_chat_model_start(
        self, serialized: Any, messages: list[list[BaseMessage]], **kwargs: Any
    ) -> None:
        heat = kwargs["invocation_params"]["temperature"]
        self.rounds[kwargs["metadata"]["mpdf_round"]].append((messages[0], heat))


async def deliberate(graph: Any, question: str = QUESTION, **config: Any) -> dict[str, Any]:
    """Run one deliberation, and return the final state."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # identical proposals
        return dict(await graph.ainvoke({"question": question}, config))


async def record(graph: Any, question: str = QUESTION) -> Requests:
    """Return the requests that one deliberation makes."""
    recorder = _Recorder()
    await deliberate(graph, question, callbacks=[recorder])
    return [recorder.rounds[n] for n in sorted(recorder.rounds)]
