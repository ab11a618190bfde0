"""Known environments: played by the real graph, by the quick episodes, and exactly."""

import itertools
from typing import Any
from unittest import mock

import pytest

from mpdf_langgraph import ChoiceAnswer, Episode, create_deliberation
from mpdf_langgraph.nodes import router as router_node
from mpdf_langgraph.router import make_router
from tests.support.environment_team import team
from training.studies.environment_episodes import episodes
from training.studies.environments import ENVIRONMENTS, Environment, question
from training.studies.known_values import Known

#: Accuracy and utility, as published with the environments (docs/training.md).
VOTE = {"relay": (0.288, 0.266), "hetero": (0.548, 0.503), "nothing": (0.712, 0.690)}
DEBATE = {"relay": (0.745, 0.621), "hetero": (0.854, 0.605), "nothing": (0.712, 0.587)}


class _Kept(list[Episode]):
    def write_state(self, state: Any) -> None:
        self.append(Episode.from_state(state))


def played(environment: Environment, count: int) -> list[Episode]:
    """The same questions by the real graph, with ids of the quick episodes."""
    kept = _Kept()
    graph = create_deliberation(
        team(environment),
        router="random",
        critic="logprob",
        answer=ChoiceAnswer(4),
        max_rounds=environment.rounds,
        alternatives=2,
        traces=kept,
    ).compile()
    for number in range(count):
        named = mock.Mock(hex=f"{environment.name}-{number}")
        with mock.patch.object(router_node.uuid, "uuid4", return_value=named):
            graph.invoke(question(environment, number))
    return kept


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_the_quick_episodes_are_those_of_the_real_graph(name: str) -> None:
    environment = ENVIRONMENTS[name]
    quick = list(episodes(environment, 5, alternatives=2))
    assert {len(one.tallies) for one in quick} - {1}  # some have decisions
    for real, fast in zip(played(environment, 5), quick, strict=True):
        assert fast.turns == real.turns
        assert fast.tallies == real.tallies
        assert fast.outcome["answer"] == real.outcome["answer"]
        assert fast.representatives == real.representatives
        assert fast.responses.keys() == real.responses.keys()
        for id_, response in fast.responses.items():
            other = real.responses[id_]
            assert response | {"seconds": 0} == other | {"seconds": 0}
        assert Episode.from_json(fast.to_json()).turns == fast.turns


@pytest.mark.parametrize("name", VOTE)
def test_votes_and_debates_are_worth_what_is_published(name: str) -> None:
    known = Known(ENVIRONMENTS[name])
    vote = known.value(make_router("always-persist"))
    debate = known.value(make_router("always-refine"), stop_when_settled=False)
    assert (vote.accuracy, vote.utility) == pytest.approx(VOTE[name], abs=6e-4)
    assert (debate.accuracy, debate.utility) == pytest.approx(DEBATE[name], abs=6e-4)


def test_the_optimum_is_no_worse_than_any_fixed_plan() -> None:
    known = Known(ENVIRONMENTS["concede"])
    best = known.optimum()
    assert best.utility == pytest.approx(0.782, abs=6e-4)

    class Plan:
        name, version = "plan", "1"

        def __init__(self, actions: tuple[int, ...]) -> None:
            self.actions = itertools.cycle(actions)

        def decide(self, observations: Any, masks: Any) -> Any:
            return [
                [float(a == chosen) for a in range(3)]
                for chosen, _ in zip(self.actions, observations, strict=False)
            ]

    values = [known.value(Plan(plan)).utility for plan in itertools.product(range(3), repeat=2)]
    assert max(values) < best.utility
