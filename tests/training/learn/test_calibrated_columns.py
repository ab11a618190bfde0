"""Cached columns with another calibration: the same as records with it, to the last bit."""

import operator
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mpdf_langgraph import Agent, Calibration, Episode, MathAnswer, TraceReader, create_deliberation
from mpdf_langgraph.consensus import Vote, confidence_weighted, count_votes, majority, make_rule
from mpdf_langgraph.state import Intervention
from tests.support.scripted import Scripted, StatusError, says
from tests.training.learn.test_dataset import read, same, write
from training.learn import segments
from training.learn.calibrate import Judged, judge, read_judged
from training.learn.calibrated import winner
from training.learn.recalibrate import holdings, recalibrated
from training.learn.segments import cache_of
from training.studies.synthetic import synthetic_episodes


def of(**curves: tuple[float, float, float, float]) -> Calibration:
    """Curves by measurement: slope and shift of the proposals, then of the refined."""
    return Calibration.model_validate(
        {
            source: {
                "proposed": {"slope": a, "shift": b},
                "refined": {"slope": c, "shift": d},
            }
            for source, (a, b, c, d) in curves.items()
        }
    )


CALIBRATIONS = {
    "raw": of(),
    "one": of(logprob=(3.0, -2.0, 0.3, 1.0)),
    "both": of(logprob=(0.5, 1.0, 2.0, -1.0), critic=(2.5, 0.3, 0.7, -0.4)),
    "flat": of(logprob=(0.0, 0.2, 0.0, 0.2), critic=(0.0, 0.2, 0.0, 0.2)),  # ties everywhere
}


def varied(episode: Episode, seed: int, recorded: Calibration) -> Episode:
    """With two measurements, confidences that tie or are not known, and hints."""
    rng = random.Random(seed)
    responses = {}
    for id_, one in episode.responses.items():
        said: Any = one["critique"]
        said = said | {
            "confidence": rng.choice([0.0, 0.3, 0.6, 0.7, 1.0, rng.random(), None]),
            "source": rng.choice(["logprob", "critic"]),
        }
        responses[id_] = one | {"critique": rng.choice([said] * 7 + [None])}
    changed = episode.model_copy(update={"responses": responses})
    rule = make_rule(episode.options["consensus"])[1]
    tallies = [count_votes(h, rule, episode.representatives) for h in holdings(changed)]
    changed = recalibrated(changed.model_copy(update={"tallies": tallies}), recorded)
    if rng.random() < 0.3:
        hint = Intervention(action="hint", round=rng.choice([1, 2, 3]), text="no", seconds=1.0)
        changed = changed.model_copy(update={"interventions": [hint]})
    return changed


@pytest.fixture(scope="module")
def episodes() -> list[Episode]:
    made = [
        *synthetic_episodes(15, 1),
        *synthetic_episodes(8, 2, agents=5, consensus="majority"),
        *synthetic_episodes(8, 3, agents=6, alternatives=1),
        *synthetic_episodes(3, 4, agents=1),
        *synthetic_episodes(3, 5, rounds=0, consensus="majority"),
        *synthetic_episodes(8, 6, agents=4, alternatives=0),
    ]
    recorded = [CALIBRATIONS["raw"], CALIBRATIONS["one"]]
    return [varied(e, i, recorded[i % 2]) for i, e in enumerate(made)]


@pytest.mark.parametrize("name", CALIBRATIONS)
def test_the_columns_are_those_of_the_records(
    episodes: list[Episode], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "EPISODES_PER_BATCH", 20)
    calibration = CALIBRATIONS[name]
    write(tmp_path / "recorded", episodes)
    write(tmp_path / "changed", [recalibrated(e, calibration) for e in episodes])
    expected, told = read(tmp_path / "changed")
    assert told.dropped.total() == 0
    as_recorded = read(tmp_path / "recorded", cache=False)[0]
    for cached in (0, 1):  # what is cached does not depend on the calibration
        got, report = read(tmp_path / "recorded", calibration=calibration)
        assert report.cached == cached
        assert same(got, expected)
        assert same(read(tmp_path / "recorded", calibration=None)[0], as_recorded)
    assert not np.array_equal(got.own, as_recorded.own)
    assert not np.array_equal(got.global_, as_recorded.global_)
    if calibration.root:
        assert not np.array_equal(got.local, as_recorded.local)  # others would be adopted


def equal(a: Judged, b: Judged) -> bool:
    return all(
        np.array_equal(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True)
    )


def test_judged_responses_come_from_the_same_cache(
    episodes: list[Episode], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment = write(tmp_path, episodes)
    answers = [a for e in episodes for a in e.representatives]
    references: dict[str, str] = {e.id: answers[3 * i] for i, e in enumerate(episodes[:15])}
    assert equal(read_judged(tmp_path, operator.eq), judge(episodes, operator.eq))
    expected = judge(episodes, operator.eq, references)
    assert set(expected.source) == {"logprob", "critic"}
    with monkeypatch.context() as patch:
        patch.setattr(segments, "_read_traces", None)  # not callable
        assert equal(read_judged(tmp_path, operator.eq, references), expected)
        assert read(tmp_path)[1].cached == 1

    whole = cache_of(segment).read_bytes()
    cache_of(segment).write_bytes(whole[: len(whole) // 2])
    assert equal(read_judged(tmp_path, operator.eq, references), expected)
    assert cache_of(segment).read_bytes() == whole
    more = list(synthetic_episodes(1, 9))
    with segment.open("ab") as file:
        file.write(b"\n" + more[0].to_json())
    assert equal(read_judged(tmp_path, operator.eq), judge([*episodes, *more], operator.eq))


def test_an_agent_without_a_response(tmp_path: Path) -> None:
    """Its features stay those of nobody, and it votes for nothing."""
    team = [
        Agent("ann", Scripted(reply=lambda request: StatusError(400, "down"))),
        Agent("bob", says("The answer is 1")),
        Agent("cy", says("The answer is 2")),
    ]
    graph = create_deliberation(
        team,
        router="random",
        critic=lambda question, one: 0.5 if one["answer"] == "1" else 0.9,
        answer=MathAnswer(),
        max_rounds=2,
        alternatives=1,
        stop_when_settled=False,
        traces=tmp_path,
    ).compile()
    for number in range(5):
        graph.invoke({"question": f"How many in {number}?", "reference": "1"})
    recorded = list(TraceReader(tmp_path))
    assert any(turn["before"] is None for e in recorded for turn in e.turns)
    calibration = of(critic=(1.0, 9.0, 9.0, -9.0))
    write(tmp_path / "changed", [recalibrated(e, calibration) for e in recorded])
    expected = read(tmp_path / "changed")[0]
    assert same(read(tmp_path, calibration=calibration)[0], expected)


confidences = st.none() | st.sampled_from([0.0, 0.1, 0.2, 0.3]) | st.floats(0, 1)
votes = st.lists(st.tuples(st.none() | st.integers(0, 3), confidences), min_size=1, max_size=7)


@given(votes, st.integers(0, 2))
@example([(1, 0.3), (1, 0.2), (1, 0.1), (0, 0.1), (0, 0.2), (0, 0.3)], 0)  # 0.6 and 0.6...01
def test_the_winner_is_the_rules(cast: list[Any], absent: int) -> None:
    """Ties and sums that float addition would round included; absent agents change nothing."""
    given = [Vote(str(i), *vote) for i, vote in enumerate(cast)]
    padded = [*cast, *[(None, None)] * absent]
    cluster = np.array([[-1 if c is None else c for c, _ in padded]])
    confidence = np.array([[np.nan if p is None else p for _, p in padded]])
    for rule in (majority, confidence_weighted):
        [slot] = winner(cluster, confidence, np.array([rule is majority]))
        assert (None if slot < 0 else cast[slot][0]) == rule(given)
