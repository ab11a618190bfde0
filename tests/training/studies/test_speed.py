"""The measurement of deliberations beside their bare calls: its requests, its table, its files."""

import asyncio
import json
from pathlib import Path

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from mpdf_langgraph import vllm_chat_model
from mpdf_langgraph.errors import ConfigurationError
from training.studies import speed
from training.studies.speed import SpeedOptions
from training.studies.speed_cases import CASES, Case, record
from training.studies.speed_endpoint import bodies, measure_throughput
from training.studies.speed_report import Row, format_table
from training.studies.speed_server import TOKENS, completion, speed_server

TINY = {"repeats": 1, "questions": 1, "at_once": 2, "delay": 0.001, "observations": 7, "records": 2}


@pytest.mark.integration
def test_a_small_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(speed, "CASES", [*CASES[:4], Case("2 agents × 1", 2, 1)])
    options = SpeedOptions(**TINY, out=tmp_path)
    for _ in range(2):
        speed.main(options)
    table = (tmp_path / "speed.md").read_text()
    assert table in capsys.readouterr().out
    for name in (
        "processor time / bare calls: debate 3 × 3, logprob",
        "wall / critical path: vote of 3",
        "2 at once, wall / bare: 2 agents × 1",
        "router decision: 7 observations",
        "traces: durable appends",
        "debate 3 × 1: calls | 6.00 a question",
        "LLM-Debate: calls | 6.00 a question",
        "langgraph-supervisor: calls | 7.00 a question",
    ):
        assert f"| {name} " in table
    runs = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [len(run["rows"]) for run in runs] == [len(table.splitlines()) - 4] * 2
    assert all(row["low"] <= row["value"] <= row["high"] for run in runs for row in run["rows"])
    assert (tmp_path / "speed.png").stat().st_size > 10_000
    assert sorted(p.name for p in tmp_path.iterdir()) == ["history.jsonl", "speed.md", "speed.png"]


@pytest.mark.integration
def test_the_bare_calls_are_those_of_the_deliberation() -> None:
    with speed_server(0.0) as url:
        model = vllm_chat_model(url, "speed", temperature=1.0)
        requests = asyncio.run(record(CASES[1].build(model).compile()))
        asyncio.run(speed.call_bare(model, requests))
    assert [len(calls) for calls in requests] == [3, 3, 3, 3]
    assert [{heat for _, heat in calls} for calls in requests] == [{1.0}, {0.6}, {0.6}, {0.6}]
    assert len(requests[0][0][0]) == 1
    assert len(requests[1][0][0]) == 3


def test_replies_have_a_log_probability_for_each_token() -> None:
    choice = completion("42")["choices"][0]
    tokens = [entry["token"] for entry in choice["logprobs"]["content"]]
    assert len(tokens) == TOKENS
    assert "".join(tokens) == choice["message"]["content"]
    assert choice["message"]["content"].endswith("The answer is 42")


def test_the_table_tells_which_aims_are_met() -> None:
    rows = [
        Row.of("a", [1.3, 1.1, 1.2], aim=1.2),
        Row.of("b", [3000.0], unit="/s", aim=2000, at_least=True),
        Row.of("c", [1.21], aim=1.2),
    ]
    lines = format_table(rows).splitlines()
    assert lines[2] == "| a | 1.20 | 1.10–1.30 | ≤ 1.20 | met |"
    assert lines[3] == "| b | 3,000 /s | 3,000–3,000 | ≥ 2,000 | met |"
    assert lines[4].endswith("| ≤ 1.20 | missed |")


def test_wrong_counts_are_refused(tmp_path: Path) -> None:
    for wrong in ({"repeats": 0}, {"delay": 0.0}):
        with pytest.raises(ConfigurationError, match=r"must be (1 or more|above 0)"):
            speed.main(SpeedOptions(**{**TINY, **wrong}, out=tmp_path))


@pytest.mark.integration
def test_throughput_is_that_of_the_same_requests() -> None:
    with speed_server(0.0) as url:
        rows = asyncio.run(measure_throughput(url, "speed", repeats=2, questions=3, at_once=2))
    ours, raw, ratio = rows
    assert ratio.aim == 0.95
    assert ratio.low <= ours.high / raw.low
    assert ratio.high >= ours.low / raw.high


def test_a_repeated_request_has_another_number() -> None:
    calls = [[([HumanMessage("000001: why?"), AIMessage("for 000001")], 0.5)]]
    ((body,),) = bodies(calls, {"model": "m"}, "000001", "000002")
    assert body == {
        "model": "m",
        "temperature": 0.5,
        "messages": [
            {"role": "user", "content": "000002: why?"},
            {"role": "assistant", "content": "for 000002"},
        ],
    }
