"""The report: the gate and the warnings follow from the estimates, and the folder says so."""

import hashlib
import json
import warnings
from dataclasses import replace

import numpy as np
import pytest

from mpdf_langgraph.calibration import Calibration, Curve
from mpdf_langgraph.observation import FEATURES, INDEX
from training.learn.calibrate import apply_curve
from training.learn.display import percent, table
from training.learn.doubly_robust import WholeEpisodes
from training.learn.measures import Interval
from training.learn.off_policy import OneTurn
from training.learn.origins import Origins
from training.learn.report import (
    calibration_rows,
    confidences,
    gate_of,
    plot_calibration,
    plot_front,
    plot_rewards,
    plot_training,
    signs_of_trouble,
    write_manifest,
    write_report,
)

BETTER, WORSE, OPEN = (
    Interval(0.1, 0.05, 0.15, 50),
    Interval(-0.1, -0.15, -0.05, 50),
    Interval(0.0, -0.05, 0.05, 50),
)
FEW = Interval(1.0, 1.0, 1.0, 3)
TURN = OneTurn(
    reward=BETTER,
    against_vote=BETTER,
    against_behaviour=BETTER,
    own=BETTER,
    tokens=120.0,
    actions=[0.6, 0.3, 0.1],
    actions_disagreeing=[0.4, 0.4, 0.2],
)
UNKNOWN = WholeEpisodes(7.0, unknown="effective sample 7, 100 needed")


def whole(vote, behaviour):
    return WholeEpisodes(500.0, vote, behaviour)


# --- the gate -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("turn", "episodes", "gate", "why"),
    [
        ({}, whole(BETTER, BETTER), "pass", "lower bounds above zero"),
        ({}, whole(BETTER, OPEN), "unknown", "hold zero. Run training/evaluate.py"),
        ({}, whole(OPEN, BETTER), "unknown", "hold zero"),
        ({}, whole(BETTER, WORSE), "fail", "get worse"),
        ({}, whole(WORSE, BETTER), "fail", "get worse"),
        ({}, UNKNOWN, "unknown", "effective sample 7, 100 needed"),
        ({"against_vote": WORSE}, UNKNOWN, "fail", "one turn"),
        # A move that only prepares another one loses at once and gains in the end.
        ({"against_vote": WORSE}, whole(BETTER, BETTER), "pass", "lower bounds above zero"),
        ({"against_behaviour": WORSE}, UNKNOWN, "fail", "one turn"),
        ({"against_vote": OPEN, "against_behaviour": OPEN}, UNKNOWN, "unknown", "cannot be"),
        ({"against_vote": FEW}, whole(BETTER, BETTER), "unknown", "fewer than 50 held-out"),
    ],
)
def test_gate(turn, episodes, gate, why):
    found, reason = gate_of(replace(TURN, **turn), episodes)
    assert found == gate
    assert why in reason


@pytest.mark.parametrize(
    ("against", "gate"),
    [((0.01, 0.03), "pass"), ((-0.01, 0.03), "unknown"), ((-0.03, -0.01), "fail")],
)
def test_a_router_has_to_beat_the_advised_rule_too(against, gate):
    gains = Interval(0.05, 0.02, 0.08, 200)
    choice = Interval(sum(against) / 2, *against, 200)
    whole = WholeEpisodes(100.0, gains, gains, gains, choice)
    assert gate_of(TURN, whole)[0] == gate


# --- signs of trouble -----------------------------------------------------------------------


def signs(turn=TURN, labels=(0.5, 0.3, 0.2), rollouts=6.0, spread=0.5, gain=0.2, mixtures=()):
    return signs_of_trouble(turn, labels, rollouts, spread, gain, mixtures)


def test_no_trouble():
    assert signs() == []
    # REFINE nearly always is no trouble where it helps, nor PERSIST where the oracle persists.
    assert signs(replace(TURN, actions=[0.1, 0.85, 0.05])) == []
    assert signs(replace(TURN, actions_disagreeing=[1.0, 0.0, 0.0]), labels=(0.8, 0.1, 0.1)) == []
    # Where no team disagrees nothing is known of disagreement.
    assert signs(replace(TURN, actions_disagreeing=[float("nan")] * 3)) == []
    assert signs(spread=0.0) == []


@pytest.mark.parametrize(
    ("arguments", "text", "advice"),
    [
        (
            {"turn": replace(TURN, actions=[0.1, 0.85, 0.05], own=OPEN)},
            "REFINE takes 85%",
            "--cost 0.1",
        ),
        (
            {"turn": replace(TURN, actions_disagreeing=[0.95, 0.05, 0.0])},
            "PERSIST takes 95% of the turns in disagreement, where the oracle persists in 50%",
            "--beta",
        ),
        ({"turn": replace(TURN, actions=[0.01, 0.5, 0.49])}, "hardly ever", "--tied-weight"),
        ({"rollouts": 4.2}, "4.2 rollouts", "--alternatives 4"),
        ({"spread": 0.03}, "0.030", "Lower --tau"),
        ({"gain": 0.004}, "gains only 0.004", "different information"),
    ],
)
def test_every_sign_of_trouble(arguments, text, advice):
    [warning] = signs(**arguments)
    assert text in warning
    assert advice in warning


def test_few_questions_are_the_first_sign_and_mixtures_the_next():
    mixed = Origins(
        critics=("logprob", "self"), rules=("confidence", "majority"), schemas=("a", "b")
    ).mixtures()
    few, *others, last = signs(replace(TURN, reward=FEW), spread=0.03, mixtures=mixed)
    assert few.startswith("3 held-out questions have a decision, fewer than 50")
    assert others == mixed
    assert [what.partition(",")[0] for what in mixed] == [
        "the traces have several critics (logprob",
        "the traces have several consensus rules (confidence",
        "the traces have several answer schemas (a",
    ]
    assert "Lower --tau" in last
    assert Origins(("x", "y"), ("self",), ("majority",), ("math",)).mixtures() == []


# --- the folder -----------------------------------------------------------------------------


CURVES = {
    "logprob": {
        "proposed": {"slope": 0.5, "shift": -0.1},
        "refined": {"slope": 1.0, "shift": 0.0},
    }
}


def test_router_json(tmp_path):
    (tmp_path / "policy.onnx").write_bytes(b"a network")
    digest = hashlib.sha256(b"a network").hexdigest()
    content = write_manifest(
        tmp_path,
        name="mine",
        temperature=0.5,
        competence={"a": 0.7},
        calibration=Calibration.model_validate(CURVES),
        gate="unknown",
        mode="drawn",
        evidence={"why": "not run"},
        training={"out": tmp_path, "tau": 0.8},
    )
    assert json.loads((tmp_path / "router.json").read_text()) == {
        "format": 2,
        "feature_version": 1,
        "name": "mine",
        "version": digest[:12],
        "temperature": 0.5,
        "floor": 0.0,
        "competence": {"a": 0.7},
        "calibration": CURVES,
        "gate": "unknown",
        "mode": "drawn",
        "consensus": None,
        "advice": "",
        "evidence": {"why": "not run"},
        "training": {"out": str(tmp_path), "tau": 0.8},
        "sha256": {"policy.onnx": digest},
    }
    assert content["version"] == digest[:12]
    assert {file.name for file in tmp_path.iterdir()} == {"policy.onnx", "router.json"}


def report(folder, **changes):
    given = {
        "title": "mine",
        "summary": ["400 episodes read", "tau 0.8"],
        "estimates": {"SFT": replace(TURN, against_vote=OPEN), "best": TURN},
        "chosen": "best",
        "whole": whole(BETTER, OPEN),
        "gate": ("unknown", "the reason"),
        "labels": {"all": [0.9, 0.05, 0.05], "in disagreement": [float("nan")] * 3},
        "calibration": [["raw", "0.200", "0.500", "0.100", "0.800", 7]],
        "warnings": ["beware of this"],
        "plots": ["training.png"],
        "choices": ["## The rules", ""],
        "advice": "Run: this.",
        **changes,
    }
    write_report(folder, **given)
    return (folder / "report.md").read_text()


def test_report_says_everything(tmp_path):
    text = report(tmp_path)
    for part in (
        "# Router `mine`. Run: this.",
        "**Gate: unknown** (the reason).",
        "- 400 episodes read\n- tau 0.8\n",
        "- beware of this\n\n## The rules\n\n## One turn",
        "| SFT | +0.0000 [-0.0500, +0.0500] (n = 50) |",
        "| **best** | +0.1000 [+0.0500, +0.1500] (n = 50) |",
        "| 0.1000 | 120 | 60.0% | 30.0% | 10.0% | 40.0% |",
        "Effective sample size 500: accuracy +0.1000 [+0.0500, +0.1500] (n = 50) against the vote",
        "| all | 90.0% | 5.0% | 5.0% |",
        "| in disagreement | – | – | – |",
        "| raw | 0.200 | 0.500 | 0.100 | 0.800 | 7 |",
        "![training.png](training.png)",
    ):
        assert part in text
    assert "nan" not in text


def test_report_says_what_is_not_known(tmp_path):
    text = report(tmp_path, whole=UNKNOWN, warnings=[])
    assert "Effective sample size 7: accuracy unknown (effective sample 7, 100 needed)." in text
    assert "None was seen." in text


def test_tables_have_a_cell_for_every_heading(tmp_path):
    assert table(["a", "b"], [[1, "x"], [2.5, ""]]) == (
        "| a | b |\n| --- | --- |\n| 1 | x |\n| 2.5 |  |"
    )
    for block in report(tmp_path).split("\n\n"):
        rows = [line.count("|") for line in block.splitlines() if line.startswith("|")]
        assert len(set(rows)) <= 1


def test_percent():
    assert percent([0.123456, 1.0, float("nan")]) == ["12.3%", "100.0%", "–"]


def test_confidences_are_those_that_the_critic_gave_of_valid_answers():
    own = np.zeros((4, len(FEATURES)), np.float32)
    own[:, INDEX["confidence"]] = [0.1, 0.2, 0.3, 0.4]
    own[:, INDEX["confidence_known"]] = [1, 0, 1, 1]
    own[:, INDEX["answer_valid"]] = [1, 1, 0, 1]
    confidence, right = confidences(own, np.array([True, True, True, False]))
    assert confidence == pytest.approx([0.1, 0.4])
    assert right.tolist() == [1.0, 0.0]


def test_calibration_rows():
    confidence, right = np.array([0.9, 0.9, 0.9, 0.1]), np.array([1.0, 0.0, 1.0, 0.0])
    raw, mended = calibration_rows(
        confidence, right, apply_curve(Curve(slope=0.5, shift=0.0), confidence)
    )
    # Brier: three of 0.1, 0.9, 0.1 off, one of 0.1. ECE: 0.9 against 2/3 for three, 0.1 for one.
    assert raw == ["raw", f"{0.84 / 4:.3f}", "0.655", f"{(0.7 + 0.1) / 4:.3f}", "0.750", 4]
    assert mended[0] == "calibrated"
    assert mended[1] == f"{(3 * 0.25**2 + 0.75**2) / 4:.3f}"  # expit(logit(0.9) / 2) = 0.75
    assert calibration_rows(confidence, right, right, "refined")[1][0] == "refined: calibrated"
    empty = np.array([])
    assert calibration_rows(empty, empty, empty)[0] == ["raw", *["–"] * 4, 0]


def test_plots_are_drawn_with_and_without_anything_to_draw(tmp_path):
    row = {"stage": "sft", "epoch": 1, "loss": 1.0, "validation": 0.5}
    row |= {"persist": 0.5, "refine": 0.3, "concede": 0.2}
    empty = np.array([])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for some, folder in ((True, tmp_path / "some"), (False, tmp_path / "none")):
            folder.mkdir()
            values = np.array([0.1, 0.9]) if some else empty
            stages = ["sft", "awr"] if some else []
            rows = [row, {**row, "stage": "awr"}] if some else []
            plot_training(folder / "training.png", rows, stages)
            plot_rewards(folder / "rewards.png", values, values)
            plot_calibration(folder / "calibration.png", values, np.round(values), values)
            plot_front(folder / "front.png", {"x": (10.0, 0.1)} if some else {}, "x")
    for name in ("training", "rewards", "calibration", "front"):
        some, none = ((tmp_path / f / f"{name}.png").read_bytes() for f in ("some", "none"))
        assert some.startswith(b"\x89PNG")
        assert none.startswith(b"\x89PNG")
        assert some != none
