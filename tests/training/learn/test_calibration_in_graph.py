"""Calibrated confidences in the graph: records hold the raw ones too, and all else follows them."""

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mpdf_langgraph import (
    Agent,
    Calibration,
    ConfigurationError,
    Episode,
    MathAnswer,
    Response,
    ThresholdRouter,
    TraceReader,
    Unsure,
    create_deliberation,
)
from mpdf_langgraph.calibration import EDGE, Curve, raw_confidence
from mpdf_langgraph.observation import INDEX
from mpdf_langgraph.router import FixedRouter
from tests.support.records import critique, response
from tests.support.scripted import says
from training.learn.recalibrate import observations

shares = st.floats(0, 1)
curves = st.builds(
    lambda slope, shift: Curve(slope=slope, shift=shift), st.floats(0, 50), st.floats(-900, 900)
)


def of(source: str, proposed: tuple[float, float], refined: tuple[float, float]) -> Calibration:
    stages = {"proposed": proposed, "refined": refined}
    curve = {stage: {"slope": a, "shift": b} for stage, (a, b) in stages.items()}
    return Calibration.model_validate({source: curve})


LOGPROB = of("logprob", (2.0, -1.0), (1.0, 0.5))

# --- curves ---------------------------------------------------------------------------------


@given(curves, shares, shares)
def test_a_curve_keeps_the_order_and_the_bounds(curve: Curve, a: float, b: float) -> None:
    low, high = sorted((a, b))
    assert 0.0 <= curve(low) <= curve(high) <= 1.0


@given(shares)
def test_without_slope_and_shift_nothing_changes(confidence: float) -> None:
    clipped = min(max(confidence, EDGE), 1 - EDGE)
    assert Curve(slope=1.0, shift=0.0)(confidence) == pytest.approx(clipped)
    assert Curve(slope=0.0, shift=0.0)(confidence) == 0.5


def test_a_curve_by_hand() -> None:
    # logit(0.8) = log 4: twice that less log 4 is log 4 again
    assert Curve(slope=2.0, shift=-math.log(4))(0.8) == pytest.approx(0.8)
    assert Curve(slope=1.0, shift=math.log(3))(0.5) == pytest.approx(0.75)


@pytest.mark.parametrize(
    "wrong",
    [{"slope": -0.1, "shift": 0.0}, {"slope": math.inf, "shift": 0.0}, {"slope": 1.0},
     {"slope": 1.0, "shift": "0"}, {"slope": 1.0, "shift": 0.0, "shape": 2.0}],
)  # fmt: skip
def test_a_wrong_curve_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Curve.model_validate(wrong)


# --- records --------------------------------------------------------------------------------


def judged(confidence: float | None, round_: int = 0, source: str = "logprob") -> Response:
    said = critique(confidence)
    said["source"] = source
    return response("a", 0, round_=round_, critique=said)


def confidence_of(one: Response) -> float | None:
    assert one["critique"] is not None
    return one["critique"]["confidence"]


@given(shares, shares, st.sampled_from([0, 1, 2]))
def test_what_the_critic_said_stays_and_is_calibrated_anew(
    confidence: float, other: float, round_: int
) -> None:
    raw = judged(confidence, round_)
    once = LOGPROB.apply(raw)
    curve = LOGPROB.root["logprob"].refined if round_ else LOGPROB.root["logprob"].proposed
    assert confidence_of(once) == curve(confidence)
    assert raw_confidence(once["critique"]) == confidence  # type: ignore[arg-type]
    assert LOGPROB.apply(once) == once
    second = of("logprob", (other, other), (other, -other))
    assert second.apply(once) == second.apply(raw)
    assert Calibration({}).apply(once) == raw


@pytest.mark.parametrize("kept", [judged(None), judged(0.7, source="self"), response("a", 0)])
def test_what_has_no_curve_or_no_confidence_stays(kept: Response) -> None:
    assert LOGPROB.apply(kept) == kept


# --- in the graph ---------------------------------------------------------------------------

#: Everyone proposes another answer. cy's is the least likely. Refined ones are likelier.
LOGPROBS = {"ann": -0.1, "bob": -0.2, "cy": -0.5}


def team() -> list[Agent]:
    models = {
        name: says(f"The answer is {k}", f"The answer is {k + 10}", logprob=logprob)
        for k, (name, logprob) in enumerate(LOGPROBS.items())
    }
    return [Agent(name, model) for name, model in models.items()]


def deliberate(folder: Path, router: Any, **options: Any) -> Episode:
    given = {"critic": "logprob", "answer": MathAnswer(), "max_rounds": 2, "traces": folder}
    build = create_deliberation(team(), router=router, **{**given, **options})
    build.compile().invoke({"question": "How many?"})
    [episode] = TraceReader(folder)
    return episode


def spread(calibration: Calibration) -> tuple[Any, list[Any]]:
    """A router that brings a calibration and does a bit of everything, and what it sees."""
    seen: list[Any] = []

    class Mixed(FixedRouter):
        def decide(self, observations: Any, masks: Any) -> Any:
            seen.append(observations)
            return [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]

    router = Mixed("mixed", (1.0, 0.0, 0.0))
    object.__setattr__(router, "calibration", calibration)
    return router, seen


@pytest.mark.parametrize("brought", [True, False])
def test_the_graph_uses_calibrated_confidences(tmp_path: Path, brought: bool) -> None:
    """Brought by the router or given. The trace holds both, and rebuilds what the router saw."""
    router, seen = spread(LOGPROB) if brought else spread(None)  # type: ignore[arg-type]
    episode = deliberate(tmp_path, router, calibration=None if brought else LOGPROB, alternatives=1)
    stages = {False: LOGPROB.root["logprob"].proposed, True: LOGPROB.root["logprob"].refined}
    assert any("+" in i for i in episode.responses)
    for one in episode.responses.values():
        raw = math.exp(LOGPROBS[one["agent"]])
        assert one["critique"]["raw"] == pytest.approx(raw)  # type: ignore[index]
        assert one["critique"]["scores"]["logprob"] == pytest.approx(raw)  # type: ignore[index]
        assert confidence_of(one) == stages[one["round"] > 0](one["critique"]["raw"])  # type: ignore[index]
    assert Calibration.model_validate(episode.options["calibration"]) == LOGPROB
    for tally in episode.tallies[:1]:
        expected = {name: confidence_of(episode.responses[f"{name}@0"]) for name in LOGPROBS}
        assert tally["weights"] == expected
    assert len(seen) == 2
    for round_, shown in enumerate(seen, 1):
        rebuilt = observations(episode, round_)
        assert [rebuilt[name] for name in LOGPROBS] == shown
    own = seen[0][0]["own"]
    assert own[INDEX["confidence"]] == confidence_of(episode.responses["ann@0"])
    assert own[INDEX["logprob"]] == pytest.approx(math.exp(-0.1))  # the raw number beside it
    stands = episode.responses[episode.tallies[-1]["response"]]  # type: ignore[index]
    assert episode.outcome["confidence"] == confidence_of(stands)


def test_what_the_router_was_fitted_with_goes_first(tmp_path: Path) -> None:
    router, _ = spread(LOGPROB)
    other = of("logprob", (0.0, 0.0), (0.0, 0.0))
    episode = deliberate(tmp_path, router, calibration=other)
    assert Calibration.model_validate(episode.options["calibration"]) == LOGPROB


def test_a_router_fitted_on_raw_confidences_gets_them(tmp_path: Path) -> None:
    router, _ = spread(Calibration({}))
    episode = deliberate(tmp_path, router, calibration=LOGPROB)
    assert all("raw" not in one["critique"] for one in episode.responses.values())  # type: ignore[operator]
    assert confidence_of(episode.responses["ann@0"]) == pytest.approx(math.exp(-0.1))


def test_a_calibration_can_turn_the_vote(tmp_path: Path) -> None:
    """Two guesses at .9 and .8 outvote one sure answer at .99, until they are known as guesses."""

    def critic(question: str, one: Response) -> float:
        return {"0": 0.99, "1": 0.9}.get(one["answer"] or "", 0.0)

    models = [says(f"The answer is {k}") for k in (0, 1, 1)]
    calibration = of("critic", (4.0, -12.0), (1.0, 0.0))
    given: dict[str, Any] = {"critic": critic, "answer": MathAnswer(), "router": "always-persist"}
    question = {"question": "How many?"}
    raw = create_deliberation(models, **given).compile().invoke(question)["deliberation"]
    known = create_deliberation(models, calibration=calibration, **given).compile()
    calibrated = known.invoke(question)["deliberation"]
    assert (raw["answer"], calibrated["answer"]) == ("1", "0")
    assert raw["confidence"] == 0.9
    assert calibrated["confidence"] == calibration.root["critic"].proposed(0.99)


def test_the_threshold_routers_bar_is_a_probability(tmp_path: Path) -> None:
    """Everyone is above the bar, and by the calibration nobody is."""
    raw = deliberate(tmp_path / "raw", ThresholdRouter(bar=0.5), max_rounds=1)
    unsure = of("logprob", (1.0, -9.0), (1.0, -9.0))
    given = deliberate(tmp_path / "cal", ThresholdRouter(bar=0.5), max_rounds=1, calibration=unsure)
    assert {t["action"] for t in raw.turns} <= {"PERSIST", "CONCEDE"}
    assert {t["action"] for t in given.turns} == {"REFINE"}


def test_agreement_is_calibrated_too(tmp_path: Path) -> None:
    silent = [Agent(name, says(f"{name}: The answer is 4")) for name in LOGPROBS]
    calibration = of("agreement", (1.0, -1.0), (1.0, 0.0))
    build = create_deliberation(
        silent, critic="logprob", calibration=calibration, answer=MathAnswer(), traces=tmp_path
    )
    outcome = build.compile().invoke({"question": "How many?"})["deliberation"]
    [episode] = TraceReader(tmp_path)
    said = episode.responses["ann@0"]["critique"]
    assert said is not None
    assert (said["raw"], said["scores"]) == (1.0, {"agreement": 1.0})
    assert outcome["confidence"] == calibration.root["agreement"].proposed(1.0)


def test_bars_of_the_graph_are_probabilities(tmp_path: Path) -> None:
    agreed = [Agent(name, says("The answer is 4", logprob=-0.1)) for name in LOGPROBS]
    given: dict[str, Any] = {"critic": "logprob", "answer": MathAnswer(), "max_rounds": 1}
    given |= {"router": "always-persist", "settle_confidence": 0.9}
    reasons = [
        create_deliberation(agreed, calibration=calibration, **given)
        .compile()
        .invoke({"question": "How many?"})["deliberation"]["stop_reason"]
        for calibration in (None, of("logprob", (1.0, -2.0), (1.0, -2.0)))
    ]
    assert reasons == ["agreement", "all_persisted"]
    assert Unsure(confidence_below=0.5)({"support": 1.0, "confidence": 0.4})


# --- options --------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["routers/mine", {"logprob": {}}, Calibration])
def test_a_wrong_calibration_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="calibration"):
        create_deliberation(team(), calibration=wrong)
    router, _ = spread(wrong)
    with pytest.raises(ConfigurationError, match="router 'mixed': calibration must be"):
        create_deliberation(team(), router=router)
