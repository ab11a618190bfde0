"""Made-up episodes: as the graph would record them, without a model, and always the same.

Every agent knows a question with a probability of its own. A wrong answer is one of a few usual
mistakes. Confidence tells right from wrong imperfectly, and refining draws an agent towards what
its peers say. So there is something to learn, though nothing real.
"""

import random
from collections.abc import Iterator
from typing import Any

from mpdf_langgraph.consensus import count_votes, make_rule
from mpdf_langgraph.observation import Situation, observe
from mpdf_langgraph.rounds import complete_turn
from mpdf_langgraph.router import competences
from mpdf_langgraph.state import (
    Consensus,
    Critique,
    LogprobSummary,
    Profile,
    Response,
    Turn,
    Usage,
    no_usage,
)
from mpdf_langgraph.traces.records import Episode
from training.studies.environment_episodes import episode_of, even_turn

_SENTENCE = "Take the number from the notes and add what was sold before that day. "


def synthetic_episodes(
    count: int,
    seed: int = 0,
    *,
    agents: int = 3,
    rounds: int = 3,
    alternatives: int = 4,
    consensus: str = "confidence",
) -> Iterator[Episode]:
    """Yield `count` episodes. The same arguments give the same ones.

    Args:
        count: How many.
        seed: Another one gives other episodes.
        agents: Size of the team.
        rounds: Rounds of decisions; every episode runs all of them.
        alternatives: Extra REFINE samples a turn.
        consensus: ``"confidence"`` or ``"majority"``.
    """
    for number in range(count):
        rng = random.Random(f"{seed}/{number}")
        yield Deliberation(f"{seed:04x}{number:028x}", rng, agents, consensus).run(
            rounds, alternatives
        )


class Deliberation:
    """One made-up deliberation under way."""

    def __init__(self, id_: str, rng: random.Random, agents: int, consensus: str) -> None:
        self.id, self.rng, self.consensus = id_, rng, consensus
        self.rule = make_rule(consensus)[1]
        self.team: list[dict[str, Any]] = [
            {"name": f"agent-{i}", "model": "synthetic", "competence": round(rng.random(), 2)}
            for i in range(1, agents + 1)
        ]
        self.truth = rng.randrange(1, 1000)
        self.mistakes = [self.truth + rng.choice((-10, -1, 1, 2, 10, 100)) for _ in range(3)]
        self.knows = {a["name"]: rng.betavariate(1.5, 1.5) for a in self.team}
        self.responses: dict[str, Response] = {}
        self.representatives: list[str] = []

    def run(self, rounds: int, alternatives: int) -> Episode:
        held: dict[str, Response | None] = {}
        for agent in self.team:
            name = agent["name"]
            held[name] = self.respond(f"{name}@0", name, 0, self.knows[name])
        tallies = [count_votes(held, self.rule, self.representatives)]
        turns: list[Turn] = []
        for round_ in range(1, rounds + 1):
            made, held = self._round(held, tallies, round_, rounds, alternatives)
            turns += made
            tallies.append(count_votes(held, self.rule, self.representatives))
        return episode_of(
            self.id,
            "synthetic",
            f"Question {self.id}: {self.truth} in other words? {_SENTENCE * 2}",
            str(self.truth),
            self.team,
            {"consensus": self.consensus, "max_rounds": rounds, "alternatives": alternatives},
            contexts={agent["name"]: _SENTENCE for agent in self.team},
            responses=self.responses,
            turns=turns,
            representatives=self.representatives,
            tallies=tallies,
        )

    def _round(
        self,
        held: dict[str, Response | None],
        tallies: list[Consensus],
        round_: int,
        rounds: int,
        alternatives: int,
    ) -> tuple[list[Turn], dict[str, Response | None]]:
        observations = observe(
            Situation(
                held=held,
                previous=tallies[-2]["votes"] if round_ > 1 else {},
                competence=competences(self.team),
                round=round_,
                max_rounds=rounds,
            )
        )
        after, turns = dict(held), []
        for name in held:
            turn = even_turn(self.id, round_, name, held, observations[name], alternatives)
            peers = [r["answer"] for n, r in held.items() if n != name and r and r["answer"]]
            backing = sum(a == str(self.truth) for a in peers) / max(1, len(peers))
            chance = 0.4 * self.knows[name] + 0.5 * backing
            drawn = [f"{name}@{round_}"] * (turn["action"] == "REFINE")
            for response_id in [*turn["alternatives"], *drawn]:
                self.respond(response_id, name, round_, chance)
            turns.append(complete_turn(turn, self.responses))
            now = turns[-1]["after"]
            after[name] = self.responses[now] if now else None
        return turns, after

    def respond(self, id_: str, name: str, round_: int, chance: float) -> Response:
        """Draw a response: right with probability `chance`, without an answer with 3 %."""
        rng = self.rng
        right = rng.random() < chance
        answer = None
        if rng.random() > 0.03:
            answer = str(self.truth if right else rng.choice(self.mistakes))
        if answer is not None and answer not in self.representatives:
            self.representatives.append(answer)
        confidence = round(rng.betavariate(4, 2) if right else rng.betavariate(2, 3), 6)
        steps = rng.randrange(1, 8)
        mean = -rng.random() * (0.2 if right else 0.6)
        drawn = rng.randrange(30, 200)
        self.responses[id_] = response = Response(
            id=id_,
            agent=name,
            round=round_,
            text=_SENTENCE * steps + (f"#### {answer}" if answer else "It cannot be known."),
            answer=answer,
            cluster=None if answer is None else self.representatives.index(answer),
            profile=Profile(
                steps=steps,
                operators=rng.randrange(9),
                length=steps * len(_SENTENCE),
                hedges=0 if right else rng.randrange(3),
                claimed_confidence=None,
                truncated=False,
            ),
            logprobs=LogprobSummary(
                mean=mean, total=mean * drawn, lowest_window=4 * mean, tokens=drawn
            ),
            critique=Critique(
                confidence=confidence,
                source="logprob",
                scores={"logprob": confidence},
                usage=no_usage(),
            ),
            finish_reason="stop",
            model="synthetic",
            usage=Usage(
                calls=1,
                prompt_tokens=70 + 120 * (round_ > 0),
                completion_tokens=drawn,
                unreported=0,
                estimated=0,
            ),
            seconds=0.1,
        )
        return response
