"""A recorded debate of one round, and what comes of other actions in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mpdf_langgraph import Episode, TraceReader
from mpdf_langgraph.consensus import ConsensusRule, concession, count_votes, make_rule
from mpdf_langgraph.errors import ConfigurationError
from mpdf_langgraph.rounds import Held, after_move, has_answer
from mpdf_langgraph.router import Router, for_team
from mpdf_langgraph.state import ACTIONS, Action, Critique, Failure, Response, Usage, tokens
from training.collect.questions import is_sound, key_of
from training.learn.recalibrate import with_responses
from training.learn.rewards import Grader, tokens_of

MAJORITY, CONFIDENCE = (make_rule(name)[1] for name in ("majority", "confidence"))


@dataclass(frozen=True)
class Answered:
    """What a method did on a question.

    Attributes:
        right: It was right. Of several fits: their mean.
        tokens: Tokens, the mean of the fits.
        fits: Whether each fit was right. Empty: there is nothing fitted.
        stated: P(right) as the consensus states it, and whether that was so, of each fit. None
            where it states none.
    """

    right: float
    tokens: float
    fits: tuple[float, ...] = ()
    stated: tuple[tuple[float, float] | None, ...] = ()


class Debate:
    """A recorded debate of one round, and what came of other actions in it.

    Args:
        episode: With calibrated confidences.
        is_right: Grades an answer.
        fresh: Other episodes of the same question, whose proposals are fresh ones here.
        equivalent: Tells whether two answers are the same. Default: `is_right` does, as it can
            wherever references are answers themselves.
    """

    def __init__(
        self,
        episode: Episode,
        is_right: Grader,
        fresh: Sequence[Episode] = (),
        equivalent: Grader | None = None,
    ) -> None:
        self.episode = episode
        self.names = [agent["name"] for agent in episode.agents]
        self.proposed: Held = {name: episode.responses.get(f"{name}@0") for name in self.names}
        self.refined: Held = {name: episode.responses.get(f"{name}@1") for name in self.names}
        self.turns = {turn["agent"]: turn for turn in episode.turns}
        self.representatives = [*episode.representatives]
        self._lost = {
            failure["agent"]: tokens(failure["usage"])
            for failure in episode.failures
            if failure["stage"] == "refine"
        }
        self._is_right = is_right
        self._equivalent = equivalent or is_right
        self.fresh: list[Held] = [
            {name: self._join_cluster(one.responses.get(f"{name}@0")) for name in self.names}
            for one in fresh
        ]

    def _join_cluster(self, response: Response | None) -> Response | None:
        """Return a response of another episode with its cluster here."""
        if response is None or (answer := response["answer"]) is None:
            return response
        known = [self._equivalent(answer, one) for one in self.representatives]
        if True not in known:
            self.representatives.append(answer)
        place = known.index(True) if True in known else len(known)
        return Response({**response, "cluster": place})

    def right(self, answer: str | None) -> float:
        """Grade an answer. No answer is wrong."""
        reference = str(self.episode.reference)
        return float(answer is not None and self._is_right(answer, reference))

    def play(
        self, actions: Mapping[str, Action], rule: ConsensusRule, *, control: bool = False
    ) -> Answered:
        """Return what comes of these actions. An agent that is not named persists.

        Args:
            actions: By agent.
            rule: How votes are counted.
            control: A fresh proposal takes the place of every refined response.
        """
        held = {}
        drawn_too = [response for response in self.proposed.values() if response is not None]
        lost = 0
        for name in self.names:
            drawn = (self.fresh[0] if control else self.refined).get(name)
            action = actions.get(name, "PERSIST")
            if action == "REFINE" and drawn is not None:
                drawn_too.append(drawn)
            elif action == "REFINE" and not control:
                lost += self._lost.get(name, 0)
            target = self.episode.responses.get(concession(self.proposed, name) or "")
            held[name] = after_move(action, self.proposed[name], drawn=drawn, target=target)
        return self._count(held, rule, drawn_too, lost)

    def pool(self) -> Episode:
        """Return an episode of all proposals, as `training.evaluate.votes` takes it.

        Its agents are those of the team in turn: first with their proposals, then with their fresh
        ones.
        """
        agents: list[dict[str, Any]] = []
        responses: dict[str, Response] = {}
        for number, held in enumerate([self.proposed, *self.fresh], 1):
            for agent in self.episode.agents:
                name = f"{agent['name']}, {number}"
                agents.append({**agent, "name": name})
                if (said := held[agent["name"]]) is not None:
                    responses[f"{name}@0"] = Response({**said, "agent": name})
        told = {"agents": agents, "responses": responses, "failures": []}
        return self.episode.model_copy(update={**told, "representatives": self.representatives})

    def _count(
        self, held: Held, rule: ConsensusRule, drawn: Sequence[Response], lost: int = 0
    ) -> Answered:
        """Count the votes. `lost` are the tokens of what failed."""
        tally = count_votes(held, rule, self.representatives)
        right, stated = self.right(tally["answer"]), tally.get("probability")
        said = None if stated is None else (stated, right)
        judged = rule is not MAJORITY
        spent = sum(tokens_of(response, judged=judged) for response in drawn)
        return Answered(right, spent + lost, stated=(said,))

    def rights(self) -> list[float]:
        """Return whether each agent's proposal is right. A missing one is wrong."""
        responses = [self.proposed[name] for name in self.names]
        return [self.right(r["answer"]) if has_answer(r) and r else 0.0 for r in responses]

    def single(self) -> Answered:
        """Return what the agents give alone, on average."""
        responses = [self.proposed[name] for name in self.names]
        spent = [tokens_of(r, judged=False) if r else 0 for r in responses]
        return Answered(float(np.mean(self.rights())), float(np.mean(spent)))

    def decide(self, router: Router) -> dict[str, Action]:
        """Return a router's likeliest actions. There are none where all agreed at once."""
        turns = list(self.turns.values())
        if not turns:
            return {}
        seen, masks = [t["observation"] for t in turns], [t["mask"] for t in turns]
        rows = np.asarray(for_team(router, list(self.turns)).decide(seen, masks))
        best = (rows * np.asarray(masks)).argmax(-1)
        return {t["agent"]: ACTIONS[k] for t, k in zip(turns, best, strict=True)}

    def refining(self, *, only_without_answer: bool) -> dict[str, Action]:
        """Return the actions of a debate, or those where only agents without an answer refine."""
        return {
            name: "REFINE"
            for name in self.turns
            if not only_without_answer or not has_answer(self.proposed[name])
        }

    def oracle(self) -> Answered:
        """Return what comes of the best action of each agent by itself, in hindsight.

        Of equally good ones it is that with the fewest tokens. This is no strict bound on the team.
        """
        actions: dict[str, Action] = {}
        for name, turn in self.turns.items():
            ways: list[Action] = ["PERSIST", "CONCEDE", "REFINE"]
            for action in ways:
                if turn["mask"][ACTIONS.index(action)] and self._would_be_right(name, action):
                    actions[name] = action
                    break
        return self.play(actions, CONFIDENCE)

    def _would_be_right(self, name: str, action: Action) -> bool:
        target = self.episode.responses.get(concession(self.proposed, name) or "")
        after = after_move(action, self.proposed[name], drawn=self.refined[name], target=target)
        return after is not None and has_answer(after) and self.right(after["answer"]) == 1


def read_debates(traces: Sequence[Path]) -> dict[str, Episode]:
    """Return the sound debates by their question and contexts, one for each.

    Raises:
        ConfigurationError: One is no debate of one round, or has no reference.
    """
    found = _read_sound(traces)
    for episode in found.values():
        if any(t["round"] != 1 or t["action"] != "REFINE" for t in episode.turns):
            raise ConfigurationError(
                f"episode {episode.id} is no debate of one round: collect with --rounds 1 "
                "--router always-refine --explore 0 --alternatives 0"
            )
    return found


def read_proposals(traces: Sequence[Path]) -> dict[str, Episode]:
    """Return the sound episodes in which everybody proposed, as `read_debates`."""
    return {
        key: episode
        for key, episode in _read_sound(traces).items()
        if all(f"{name}@0" in episode.responses for name in episode.team)
    }


def charge(episode: Episode, prices: Mapping[str, int]) -> Episode:
    """Return the episode with every token counted as often as the price of its agent says.

    Raises:
        ConfigurationError: There is no such agent.
    """
    if unknown := prices.keys() - set(episode.team):
        raise ConfigurationError(f"--prices {min(unknown)}: the team is {', '.join(episode.team)}")

    def charged(usage: Usage, agent: str) -> Usage:
        price = prices.get(agent, 1)
        prompt, said = usage["prompt_tokens"] * price, usage["completion_tokens"] * price
        return Usage({**usage, "prompt_tokens": prompt, "completion_tokens": said})

    def respond(one: Response) -> Response:
        critique, agent = one["critique"], one["agent"]
        if critique is not None:
            critique = Critique({**critique, "usage": charged(critique["usage"], agent)})
        return Response({**one, "usage": charged(one["usage"], agent), "critique": critique})

    failures = [Failure({**f, "usage": charged(f["usage"], f["agent"])}) for f in episode.failures]
    return with_responses(episode.model_copy(update={"failures": failures}), respond)


def _read_sound(traces: Sequence[Path]) -> dict[str, Episode]:
    found: dict[str, Episode] = {}
    failed = set()
    for folder in traces:
        for episode in TraceReader(folder):
            if episode.reference is None:
                raise ConfigurationError(f"episode {episode.id} has no reference")
            if is_sound(episode):
                found[key_of(episode)] = episode
            else:
                failed.add(key_of(episode))
    if missing := failed - found.keys():
        where = ", ".join(map(str, traces))
        print(
            f"{len(missing)} questions of {where} are left out, as a proposal failed. They count "
            "for no method. Ask them again: the command that collected them goes on"
        )
    return found
