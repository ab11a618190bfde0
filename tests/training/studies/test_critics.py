"""The comparison of critics on stored responses, with and without a judge."""

import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpdf_langgraph import Agent, MathAnswer, TraceReader, create_deliberation
from mpdf_langgraph.errors import ConfigurationError
from tests.support.scripted import Request, Scripted, StatusError, yes
from tests.support.written import write_traces
from training.studies import critics
from training.studies.critics import CriticsOptions, compare

NAMES = ("ann", "bo", "cy")


def say(name: str) -> Scripted:
    """One agent of three is right, another one for each question. Nobody sounds sure."""

    def reply(request: Request) -> str:
        number = int(re.search(r"Number (\d+)", request.text)[1])  # type: ignore[index]
        right = NAMES[number % 3] == name
        said = number if right or request.kind == "refine" else 1000 + NAMES.index(name)
        return f"{name} says so. The answer is {said}"

    return Scripted(reply=reply, logprob=-0.3)


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("traces")
    graph = create_deliberation(
        [Agent(name, say(name)) for name in NAMES],
        answer=MathAnswer(),
        critic="logprob",
        router="always-refine",
        max_rounds=1,
        traces=folder,
    ).compile()
    for number in range(30):
        graph.invoke({"question": f"Number {number}", "reference": str(number)})
    return folder


def make_judge(refused: str = "") -> Scripted:
    """Return a judge that says yes to right answers with .8, and to others with .3."""

    def reply(request: Request) -> Any:
        number, said = re.findall(r"(?:Number|is) (\d+)", request.text)[:2]
        if number == refused:
            return StatusError(400, "too long")
        return yes(0.8 if number == said else 0.3)

    return Scripted(reply=reply, model_name="judge")


def rows(text: str) -> dict[tuple[str, str], list[str]]:
    """Return the rows of all tables, by stage and critic."""
    found, stage = {}, ""
    for line in text.splitlines():
        if line.startswith("## "):
            stage = line.split()[-1]
        elif line.startswith("| ") and not line.startswith(("| critic", "| ---")):
            cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            found[stage, cells[0]] = cells[1:]
    return found


def test_without_a_judge_nobody_is_asked(traces: Path, tmp_path: Path) -> None:
    found = rows(compare(CriticsOptions((traces,), out=tmp_path / "out")))
    critics_ = {critic for stage, critic in found if stage == "proposed"}
    assert critics_ == {"recorded", "logprob_raw", "agreement", "profile"}
    auroc, within, _, voted, _, tokens, known = found["proposed", "recorded"]
    assert auroc == "0.500"  # all sound alike
    assert within.startswith("0.500")
    assert (tokens, known) == ("0", "100%")
    assert not (tmp_path / "out" / "traces").exists()
    assert "recorded" in (tmp_path / "out" / "results.md").read_text()
    assert 0.0 <= float(voted.split()[0]) <= 1.0
    assert "90 responses with an answer, 0.333 right." in (tmp_path / "out/results.md").read_text()


def test_what_is_left_out_is_told(traces: Path, tmp_path: Path) -> None:
    [segment] = traces.glob("*.jsonl")
    (tmp_path / "a.jsonl").write_bytes(segment.read_bytes()[:-50])
    episodes = [*TraceReader(traces)]
    unknown = [e.model_copy(update={"reference": None, "id": f"x{e.id}"}) for e in episodes[:3]]
    write_traces(tmp_path, unknown)
    text = compare(CriticsOptions((tmp_path,), out=tmp_path / "out"))
    assert text.startswith("29 questions, 5 folds. 29 episodes. Left out: 3 without a reference")
    assert "1 that cannot be read" in text


def test_a_team_without_an_answer_is_wrong(traces: Path, tmp_path: Path) -> None:
    def vote(folder: Path, out: str) -> float:
        text = compare(CriticsOptions((folder,), out=tmp_path / out))
        return float(rows(text)["proposed", "recorded"][3].split()[0])

    silent = create_deliberation(
        [Agent(name, Scripted(reply=lambda _: "I do not know.", logprob=-0.3)) for name in NAMES],
        answer=MathAnswer(), critic="logprob", router="always-persist", traces=tmp_path / "both",
    ).compile()  # fmt: skip
    with warnings.catch_warnings(action="ignore"):  # all say the same
        for number in range(30):
            silent.invoke({"question": f"Silent {number}", "reference": "1"})
    alone = vote(traces, "alone")
    write_traces(tmp_path / "both", TraceReader(traces))
    assert alone > 0
    assert vote(tmp_path / "both", "out") == pytest.approx(alone / 2, abs=0.001)


def test_alternatives_do_not_vote(traces: Path, tmp_path: Path) -> None:
    more = []
    for episode in TraceReader(traces):
        extra = {**episode.responses["ann@1"], "id": "ann@1+1"}
        more.append(
            episode.model_copy(update={"responses": {**episode.responses, "ann@1+1": extra}})
        )
    folder = write_traces(tmp_path / "traces", more)
    text = compare(CriticsOptions((folder,), out=tmp_path / "out"))
    refined = text[text.index("were refined") :]
    assert "120 responses with an answer" in refined
    assert "vote by it" not in refined
    plain = compare(CriticsOptions((traces,), out=tmp_path / "plain"))
    agreement = ("proposed", "agreement")
    assert rows(text)[agreement] == rows(plain)[agreement]


def test_a_judge_that_knows(
    traces: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    judge = make_judge(refused="7")
    monkeypatch.setattr(critics, "open_judge", lambda options: judge)
    options = CriticsOptions((traces,), base_url="http://judge/v1", out=tmp_path)
    text = compare(options)
    assert "1 episodes could not be judged" in capsys.readouterr().out
    assert text.startswith("29 questions")
    assert "1 that the judge gave no verdict on" in text
    found = rows(text)
    auroc, within, more, voted, gain, tokens, known = found["proposed", "judge"]
    assert (auroc, known) == ("1.000", "100%")
    assert within.startswith("1.000")
    assert more.startswith("+0.500")
    assert voted.startswith("1.000")
    assert float(gain.split()[0]) > 0.3
    spent = [one.prompt_tokens + one.completion_tokens for one in judge.served if not one.error]
    assert int(tokens) == round(float(np.mean(spent[:90])))

    # The copies are what a graph would have recorded with the judge, and the command goes on.
    judged = {episode.question: episode for episode in TraceReader(tmp_path / "traces")}
    assert len(judged) == 29
    episode = judged["Number 4"]
    assert episode.options["critic"] == "model"
    assert episode.tallies[0]["answer"] == "4"
    assert episode.responses["bo@0"]["critique"]["confidence"] == pytest.approx(0.8)  # type: ignore[index]
    asked = len(judge.served)
    mended = make_judge()
    monkeypatch.setattr(critics, "open_judge", lambda options: mended)
    assert compare(options).startswith("30 questions")
    assert "30 episodes, 29 of them judged already" in capsys.readouterr().out
    assert len(mended.served) == len(episode.responses)
    assert len(judge.served) == asked
    with pytest.raises(ConfigurationError, match="another --out"):
        compare(CriticsOptions((traces,), base_url="x", reasoning_tokens=99, out=tmp_path))
    assert json.loads((tmp_path / "critics.json").read_text())["judge"] == "judge"


def test_what_is_refused(traces: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="30 questions are too few for 9 folds"):
        compare(CriticsOptions((traces,), folds=9, out=tmp_path))
    with pytest.raises(ConfigurationError, match="--folds must be 2 or more"):
        compare(CriticsOptions((traces,), folds=1, out=tmp_path))
    inside = CriticsOptions((traces,), base_url="x", out=traces / "critics")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(critics, "open_judge", lambda options: make_judge())
        with pytest.raises(ConfigurationError, match="take the place of the episodes"):
            compare(inside)
    with pytest.raises(ConfigurationError, match="0 without a reference, 0 that cannot be read"):
        compare(CriticsOptions((traces,), folds=9, out=tmp_path))
    with pytest.raises(ConfigurationError, match="give --base-url"):
        compare(CriticsOptions((traces,), model="a judge", out=tmp_path))
    with pytest.raises(ConfigurationError, match="--answer math"):
        compare(CriticsOptions((traces,), answer="choice", out=tmp_path))
