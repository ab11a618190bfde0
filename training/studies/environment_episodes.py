"""Episodes of a known environment as the graph would record them, a hundred times as fast.

The router is drawn evenly among the allowed actions, as for traces to learn from. A test holds
these episodes equal to what the real graph records of the same questions.
"""

from collections.abc import Iterator
from typing import Any

from mpdf_langgraph.consensus import concession, confidence_weighted, count_votes
from mpdf_langgraph.observation import FEATURE_VERSION, Situation, observe
from mpdf_langgraph.rounds import Held as HeldResponses
from mpdf_langgraph.rounds import complete_turn, find_stop_reason
from mpdf_langgraph.router import behaviour, draw
from mpdf_langgraph.state import ACTIONS, Observation, Response, Turn
from mpdf_langgraph.traces.records import SCHEMA_VERSION, Episode
from training.studies.environments import (
    LETTERS,
    Environment,
    Held,
    Replies,
    Said,
    letter_of,
    question,
    truth_of,
)
from training.studies.known_values import response_of


def episodes(
    environment: Environment, count: int, *, seed: int = 0, alternatives: int = 4
) -> Iterator[Episode]:
    """Yield episodes of the first `count` questions. Another seed gives other responses."""
    replies = Replies(environment, seed)
    for number in range(count):
        yield _Deliberation(environment, replies, number, f"{environment.name}-{number}").run(
            alternatives
        )


class _Deliberation:
    def __init__(self, environment: Environment, replies: Replies, number: int, id_: str) -> None:
        self.environment, self.replies, self.number, self.id = environment, replies, number, id_
        self.truth = truth_of(number)
        self.representatives: list[str] = []
        self.responses: dict[str, Response] = {}
        self.said: dict[str, Held] = {}

    def respond(self, id_: str, agent: str, seen: dict[str, Held] | None) -> None:
        """Draw a response, and keep it."""
        said: Said = self.replies.draw(self.number, agent, seen)
        held = Held(agent, seen is not None, said)
        letter = letter_of(self.truth, said)
        if letter not in self.representatives:
            self.representatives.append(letter)
        cluster = self.representatives.index(letter)
        round_ = 0 if seen is None else int(id_.partition("@")[2].partition("+")[0])
        response = response_of(self.environment, held, id_, cluster, self.truth)
        self.responses[id_] = Response({**response, "round": round_})
        self.said[id_] = held

    def run(self, alternatives: int) -> Episode:
        """Deliberate."""
        names = self.environment.agents
        for name in names:
            self.respond(f"{name}@0", name, None)
        held: HeldResponses = {name: self.responses[f"{name}@0"] for name in names}
        tallies = [count_votes(held, confidence_weighted, self.representatives)]
        turns: list[Turn] = []
        made: list[Turn] = []
        rounds = self.environment.rounds
        for round_ in range(1, rounds + 1):
            if find_stop_reason(held, made, tallies[-1]["cluster"], last_round=False):
                break
            made = [
                complete_turn(turn, self.responses)
                for turn in self.decide(held, tallies, round_, alternatives)
            ]
            held = {t["agent"]: self.responses[t["after"]] if t["after"] else None for t in made}
            turns += made
            tallies.append(count_votes(held, confidence_weighted, self.representatives))
        asked = question(self.environment, self.number)
        return episode_of(
            self.id,
            "environment",
            asked["question"],
            asked["reference"],
            [{"name": name, "model": name, "competence": 0.5} for name in names],
            {
                "critic": "logprob",
                "answer": f"choice({len(LETTERS)})",
                "consensus": "confidence",
                "max_rounds": rounds,
                "alternatives": alternatives,
                "stop_when_settled": True,
            },
            responses=self.responses,
            turns=turns,
            representatives=self.representatives,
            tallies=tallies,
        )

    def decide(
        self, held: HeldResponses, tallies: list[Any], round_: int, alternatives: int
    ) -> list[Turn]:
        """Draw everybody's action, and all that is to be drawn for it."""
        situation = Situation(
            held=held,
            previous=tallies[-2]["votes"] if round_ > 1 else {},
            competence={},
            round=round_,
            max_rounds=self.environment.rounds,
        )
        seen = {name: self.said[one["id"]] for name, one in held.items() if one}
        turns = []
        for name, observation in observe(situation).items():
            turn = even_turn(self.id, round_, name, held, observation, alternatives)
            drawn = [f"{name}@{round_}"] * (turn["action"] == ACTIONS[1])
            for id_ in [*drawn, *turn["alternatives"]]:
                self.respond(id_, name, seen)
            turns.append(turn)
        return turns


def even_turn(
    episode: str,
    round_: int,
    name: str,
    held: HeldResponses,
    observation: Observation,
    alternatives: int,
) -> Turn:
    """Return a turn whose action is drawn evenly among those allowed, yet to be carried out.

    The id of the episode decides the draw, with the round and the name.
    """
    target = concession(held, name)
    mask = [True, True, target is not None]
    probabilities = behaviour([1 / 3] * 3, mask, 0.0)
    own = held[name]
    return Turn(
        agent=name,
        round=round_,
        observation=observation,
        mask=mask,
        probabilities=probabilities,
        action=draw(probabilities, f"{episode}/{round_}/{name}"),
        before=own["id"] if own else None,
        after=None,
        target=target,
        alternatives=[f"{name}@{round_}+{k}" for k in range(1, alternatives + 1)],
        blocked=None,
    )


def episode_of(
    id_: str,
    graph: str,
    question: str,
    reference: str,
    agents: list[dict[str, Any]],
    options: dict[str, Any],
    *,
    contexts: dict[str, str] | None = None,
    **parts: Any,
) -> Episode:
    """Return the record of a deliberation that no graph ran. `parts` are its other fields."""
    return Episode.model_construct(
        schema_version=SCHEMA_VERSION,
        id=id_,
        started=1.7e9,
        graph=graph,
        question=question,
        reference=reference,
        contexts=contexts or {},
        history=[],
        agents=agents,
        options={
            "router": {"name": "random", "version": "1"},
            "feature_version": FEATURE_VERSION,
            **options,
        },
        failures=[],
        outcome={"episode": id_, "answer": parts["tallies"][-1]["answer"]},
        **parts,
    )
