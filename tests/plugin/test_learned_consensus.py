"""The learned consensus: its probabilities, parts of a team, unknown agents, files, the graph."""

import json
import math
import warnings
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.language_models import FakeListChatModel

from mpdf_langgraph import Agent, Calibration, LearnedConsensus, Unsure, create_deliberation
from mpdf_langgraph.consensus import LogOdds, Vote, count_votes, voices, votes_of
from mpdf_langgraph.errors import ConfigurationError, RouterError
from mpdf_langgraph.learned_consensus import Shared, describe_rule, recorded_rule
from mpdf_langgraph.risk import RiskCurve, Step
from mpdf_langgraph.router import FixedRouter
from tests.support.records import response

NAMES = ("a", "b", "c", "d")
weights = st.floats(-20, 20)


@st.composite
def fits(draw: Any) -> LearnedConsensus:
    row = st.tuples(*[weights] * 4)
    upper = draw(st.lists(weights, min_size=6, max_size=6))
    pairs = [[0.0] * 4 for _ in NAMES]
    for (i, j), value in zip(((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)), upper, strict=True):
        pairs[i][j] = pairs[j][i] = value
    return LearnedConsensus(
        shared=Shared(**{name: draw(weights) for name in Shared.model_fields}),
        agents=NAMES,
        votes=draw(row),
        pairs=tuple(map(tuple, pairs)),
        categories={"algebra": draw(row)},
    )


ballots = st.lists(
    st.builds(
        Vote,
        st.sampled_from([*NAMES, "stranger"]),
        st.none() | st.integers(0, 3),
        st.none() | st.floats(0, 1),
        st.none() | st.sampled_from(NAMES),
        st.booleans(),
    ),
    max_size=5,
    unique_by=lambda vote: vote.agent,
)


def plain(**changes: Any) -> LearnedConsensus:
    """Return a consensus in which every agent counts alike."""
    shared = dict.fromkeys(Shared.model_fields, 0.0) | {"vote": 1.0}
    given = {"agents": ("a", "b"), "votes": (0.0, 0.0), "pairs": ((0.0, 0.0), (0.0, 0.0))}
    return LearnedConsensus(shared=Shared(**shared), **(given | changes))


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the learned consensus does not know")
        yield


@given(fit=fits(), votes=ballots, category=st.none() | st.sampled_from(["algebra", "else"]))
def test_it_gives_probabilities(fit: LearnedConsensus, votes: list[Vote], category: Any) -> None:
    for rule in (fit.of(category), LogOdds()):
        found = rule.probabilities(votes)
        valid = {vote.cluster for vote in votes} - {None}
        assert found.keys() <= valid
        assert all(0 <= p <= 1 for p in found.values())
        assert math.fsum(found.values()) <= 1 + 1e-9
        assert (rule(votes) is None) == (not valid)
        if found:
            assert found[rule(votes)] == max(found.values())  # type: ignore[index]


@given(fit=fits(), votes=ballots, data=st.data())
def test_the_order_of_the_team_does_not_matter(
    fit: LearnedConsensus, votes: list[Vote], data: Any
) -> None:
    for rule in (fit.of(), LogOdds()):
        shuffled = data.draw(st.permutations(votes))
        assert rule.probabilities(shuffled) == pytest.approx(rule.probabilities(votes), abs=1e-12)


@given(fit=fits(), votes=ballots)
def test_who_is_silent_is_as_if_not_there(fit: LearnedConsensus, votes: list[Vote]) -> None:
    rule = fit.of()
    for gone in votes:
        silent = [v._replace(cluster=None) if v is gone else v for v in votes]
        absent = [v for v in votes if v is not gone]
        assert rule.probabilities(silent) == rule.probabilities(absent)
        assert LogOdds().probabilities(silent) == LogOdds().probabilities(absent)


def test_the_score_is_the_documented_one() -> None:
    shared = Shared(
        vote=0.5, pair=0.25, known=0.125, confidence=2.0, refined=-0.3, refined_pair=-0.7,
        none=0.9, none_per_voice=0.1,
    )  # fmt: skip
    fit = LearnedConsensus(
        shared=shared, agents=("a", "b"), votes=(1.0, -1.0), pairs=((0.0, 0.4), (0.4, 0.0)),
        categories={"x": (0.2, 0.3)},
    )  # fmt: skip
    votes = [Vote("a", 0, 0.8), Vote("b", 0, None, refined=True), Vote("e", 1, 0.5)]
    first = 0.5 * 2 + 0.125 + 2 * math.log(4) - 0.3 + 1 - 1 + 0.2 + 0.3 + 0.25 + 0.4 - 0.7
    scores = [first, 0.5 + 0.125, 0.9 + 0.3]
    total = sum(map(math.exp, scores))
    found = fit.of("x").probabilities(votes)
    assert found == pytest.approx({0: math.exp(scores[0]) / total, 1: math.exp(scores[1]) / total})


def test_one_sure_vote_outweighs_two_guesses() -> None:
    votes = [Vote("a", 0, 0.99), Vote("b", 1, 0.6), Vote("c", 1, 0.6)]
    assert LogOdds()(votes) == 0
    assert LogOdds().probabilities([Vote("a", 3, 0.7)]) == pytest.approx({3: 0.7})
    for p in (0.0, 1.0):
        assert 0 <= LogOdds().probabilities([Vote("a", 3, p)])[3] <= 1


def test_an_unknown_confidence_counts_as_the_mean() -> None:
    known = [Vote("a", 0, 0.9), Vote("b", 1, 0.6), Vote("c", 1, 0.75)]
    filled = LogOdds().probabilities([*known[:2], Vote("c", 1)])
    assert filled == pytest.approx(LogOdds().probabilities(known))
    nothing = [Vote("a", 0), Vote("b", 1), Vote("c", 1)]
    assert LogOdds().probabilities(nothing) == {}
    assert LogOdds()(nothing) == 1
    with pytest.raises(ConfigurationError, match="agreement"):
        LogOdds(0.0)


def test_an_adopted_response_speaks_once() -> None:
    own = Vote("a", 0, 0.8)
    adopted = Vote("b", 0, 0.8, author="a")
    assert voices([own, adopted]) == [own]
    assert voices([adopted]) == [own]  # although a has moved on
    assert plain().of().probabilities([own, adopted]) == plain().of().probabilities([own])


def test_an_unknown_agent_is_told_once() -> None:
    rule = plain().of()
    with pytest.warns(UserWarning, match="does not know the agent 'nobody knows me'"):
        found = rule.probabilities([Vote("nobody knows me", 0)])
    assert found == rule.probabilities([Vote("a", 0)])  # the weight that all share
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rule.probabilities([Vote("nobody knows me", 0)])


def test_several_unknown_agents_are_told_in_one_warning() -> None:
    with pytest.warns(UserWarning, match=r"agents 'new 1', 'new 2', 'new 3': a vote") as told:
        plain().of().probabilities([Vote(f"new {n}", n % 2) for n in (1, 2, 3)])
    assert len(told) == 1


@given(fit=fits())
def test_a_file_gives_it_back(fit: LearnedConsensus) -> None:
    assert LearnedConsensus.from_json(fit.model_dump_json(), "here") == fit
    options = json.loads(json.dumps(describe_rule("learned", fit)))
    again = recorded_rule(options, "algebra")
    assert again.fitted == fit  # type: ignore[union-attr]
    assert again.category == "algebra"  # type: ignore[union-attr]


def test_a_record_tells_its_rule() -> None:
    assert recorded_rule(describe_rule("log-odds", LogOdds(0.2)), None) == LogOdds(0.2)
    assert recorded_rule({"consensus": "log-odds"}, None) == LogOdds()
    with pytest.raises(ConfigurationError, match="consensus_weights"):
        recorded_rule({"consensus": "learned"}, None)


@pytest.mark.parametrize(
    "change",
    [
        {"agents": ("a",)},
        {"agents": ("a", "a")},
        {"votes": (0.0,)},
        {"votes": (0.0, 1e9)},
        {"pairs": ((0.0, 1.0), (0.0, 0.0))},
        {"pairs": ((1.0, 0.0), (0.0, 0.0))},
        {"pairs": ((0.0,), (0.0,))},
        {"categories": {"x": (0.0,)}},
        {"agreement": 0.0},
        {"format": 2},
        {"more": 1},
        {"risk": ({"bar": 0.5, "accepted": 3, "wrong": 4, "doubt": 1.0},)},
    ],
)
def test_an_unsound_file_is_refused(change: dict[str, Any]) -> None:
    content = json.dumps({**plain().model_dump(), **change})
    with pytest.raises(RouterError, match=r"^here: "):
        LearnedConsensus.from_json(content, "here")


@pytest.mark.parametrize("text", [b"", b"[]", b"\xff", b'{"shared": NaN}', b"[" * 100_000])
def test_what_is_no_file_is_refused(text: bytes) -> None:
    with pytest.raises(RouterError):
        LearnedConsensus.from_json(text, "here")
    dumped = plain().model_dump_json().replace("1.0", "NaN")
    with pytest.raises(RouterError):
        LearnedConsensus.from_json(dumped, "here")


def test_it_decides_without_an_agent_and_a_tally_has_its_probability() -> None:
    held = {name: response(name, k) for name, k in (("a", 0), ("b", 1), ("c", 1))}
    rule = plain(votes=(3.0, 0.0)).of()
    assert rule(votes_of({**held, "c": None})) == 0
    assert rule(votes_of({**held, "a": None})) == 1
    tally = count_votes(held, rule, ["x", "y"])
    assert tally["cluster"] == 0
    assert tally["probability"] == pytest.approx(sum(tally["weights"][n] for n in "a"))
    assert tally["weights"]["b"] == tally["weights"]["c"]


# --- in a graph --------------------------------------------------------------------------------


class Fitted(FixedRouter):
    """A router that brings a consensus."""

    consensus: Any = None
    rule: Any = None
    calibration: Any = None


def fitted(**given: Any) -> Fitted:
    router = Fitted("fitted", (1.0, 0.0, 0.0))
    for name, value in given.items():
        object.__setattr__(router, name, value)
    return router


def ask(
    replies: Sequence[str], input_: dict[str, Any] | None = None, **options: Any
) -> dict[str, Any]:
    team = [
        Agent(name, FakeListChatModel(responses=[text]))
        for name, text in zip("abc", replies, strict=False)
    ]
    graph = create_deliberation(team, **{"critic": None, **options}).compile()
    outcome: dict[str, Any] = graph.invoke({"question": "?", **(input_ or {})})["deliberation"]
    return outcome


ROMES = ["Rome", "Rome.", "rome"]
STRONG = plain(
    agents=("a", "b", "c"), votes=(3.0, 0.0, 0.0), pairs=((0.0,) * 3,) * 3,
    categories={"b knows": (0.0, 9.0, 0.0)},
)  # fmt: skip


def test_the_graph_decides_by_it() -> None:
    out = ask(["Rome", "Oslo", "Oslo"], router=fitted(consensus=STRONG, rule="learned"))
    assert out["answer"] == "Rome"
    expected = STRONG.of().probabilities([Vote("a", 0), Vote("b", 1), Vote("c", 1)])
    assert out["confidence"] == pytest.approx(expected[0])
    assert out["accepted"] is None
    majority = ask(["Rome", "Oslo", "Oslo"], router=fitted(consensus=STRONG))
    assert majority["answer"] == "Oslo"
    assert ask(["Rome", "Oslo", "Oslo"], consensus=STRONG)["answer"] == "Rome"


def test_the_category_of_the_question_counts() -> None:
    given = {"category": "b knows"}
    assert ask(["Rome", "Oslo", "Bonn"], given, consensus=STRONG)["answer"] == "Oslo"
    assert (
        ask(["Rome", "Oslo", "Bonn"], {"category": "other"}, consensus=STRONG)["answer"] == "Rome"
    )
    with pytest.raises(ConfigurationError, match="category must be text"):
        ask(["Rome"], {"category": 3}, consensus=STRONG)


def test_agreement_settles_by_the_probability_of_the_group() -> None:
    sure = plain(agents=("a", "b", "c"), votes=(9.0,) * 3, pairs=((0.0,) * 3,) * 3)
    given = {"settle_confidence": 0.9, "router": "always-persist"}
    assert ask(ROMES, consensus=sure, **given)["stop_reason"] == "agreement"
    unsure = plain(agents=("a", "b", "c"), votes=(-9.0,) * 3, pairs=((0.0,) * 3,) * 3)
    assert ask(ROMES, consensus=unsure, **given)["stop_reason"] == "all_persisted"


def curve(*steps: tuple[float, int, int, float]) -> RiskCurve:
    return RiskCurve(tuple(Step(bar=b, accepted=n, wrong=k, doubt=d) for b, n, k, d in steps))


def test_below_the_bar_nothing_is_accepted() -> None:
    risky = STRONG.model_copy(update={"risk": curve((0.9, 200, 1, 1.0), (0.2, 400, 90, 90.0))})
    agreed = ask(ROMES, consensus=risky, risk=0.05)
    assert agreed["confidence"] > 0.9
    assert agreed["accepted"] is True
    split = ask(["Rome", "Oslo", "Bonn"], consensus=risky, risk=0.05)
    assert split["answer"] == "Rome"
    assert split["confidence"] < 0.9
    assert split["accepted"] is False
    assert ask(["Rome", "Oslo", "Bonn"], consensus=risky, risk=0.5)["accepted"] is True


def test_the_bar_is_found_once_for_all_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    risky = STRONG.model_copy(update={"risk": curve((0.9, 200, 1, 1.0))})
    found, bar = list[float](), RiskCurve.bar

    def counted(self: RiskCurve, risk: float) -> float | None:
        found.append(risk)
        return bar(self, risk)

    monkeypatch.setattr(RiskCurve, "bar", counted)
    agents = [
        Agent(name, FakeListChatModel(responses=[text]))
        for name, text in zip("abc", ROMES, strict=True)
    ]
    graph = create_deliberation(agents, critic=None, consensus=risky, risk=0.05).compile()
    for _ in range(3):
        assert graph.invoke({"question": "Capital?"})["deliberation"]["accepted"] is True
    assert found == [0.05]


def test_a_person_is_asked_below_the_bar() -> None:
    when = Unsure(unaccepted=True)
    assert when({"support": 1.0, "confidence": 0.9, "accepted": False})
    assert not when({"support": 0.1, "confidence": 0.1, "accepted": True})
    with pytest.raises(ConfigurationError, match="needs a risk"):
        ask(["Rome"], interrupt_when=when)


def test_risk_needs_what_keeps_it() -> None:
    with pytest.raises(ConfigurationError, match='consensus="learned"'):
        ask(["Rome"], risk=0.05)
    for wrong in (0, 1, -0.1, True, "x"):
        with pytest.raises(ConfigurationError, match="risk"):
            ask(["Rome"], risk=wrong, consensus=STRONG)
    with pytest.warns(UserWarning, match="no answer will be accepted"):
        assert ask(ROMES, consensus=STRONG, risk=0.05)["accepted"] is False


def test_a_rule_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="brings none"):
        ask(["Rome"], consensus="learned")
    with pytest.raises(ConfigurationError, match="must be a LearnedConsensus"):
        ask(["Rome"], router=fitted(consensus="x"))


def test_log_odds_in_a_graph() -> None:
    curves = {"logged": {s: {"slope": 1.0, "shift": 0.0} for s in ("proposed", "refined")}}
    calibration = Calibration.model_validate_json(json.dumps(curves))
    sure = {"Rome": 0.99, "Oslo": 0.6}

    def critic(question: str, said: Any) -> float:
        return sure[said["answer"]]

    given: dict[str, Any] = {
        "critic": critic,
        "calibration": calibration,
        "router": "always-persist",
    }
    assert ask(["Rome", "Oslo", "Oslo"], **given)["answer"] == "Oslo"
    out = ask(["Rome", "Oslo", "Oslo"], consensus="log-odds", **given)
    assert out["answer"] == "Rome"
    assert 0.6 < out["confidence"] < 0.99
