"""The whole evaluation, on riddles of which one knows what every method makes of them."""

import asyncio
import inspect
import json
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
import tyro

from mpdf_langgraph import ConfigurationError, create_deliberation, load_router
from mpdf_langgraph.errors import RouterError
from mpdf_langgraph.state import Response
from tests.support import riddles
from tests.support.paths import ROOT
from training.collect import collecting
from training.collect.questions import SEEN, Question, TableError, hash_told
from training.evaluate import compare, evaluation
from training.evaluate.bench import VOTES
from training.evaluate.compare import MethodResult, summarise
from training.evaluate.evaluation import (
    check_apart,
    count_known,
    evaluate,
    main,
    untuned_because,
)
from training.evaluate.options import EvaluateOptions
from training.evaluate.routers import group_routers
from training.evaluate.votes import Result
from training.learn.policy import Policy, export

VOTED = {f"{name} of {k}" for name in ("vote", "weighted vote", "best") for k in VOTES}
PLAIN = {
    *VOTED, "single sample", "adaptive resampling", "greedy, one agent", "greedy, team vote",
    "debate, 1 round", "debate, 2 rounds", "PHP", "DyLAN", "random router",
    "random router: control", "threshold router", "threshold router: control", "oracle, 1 round",
    "oracle, 2 rounds",
}  # fmt: skip
ALONE = {f"strongest alone{way}" for way in ("", ", vote of 3", ", vote of 5")}
ALONE |= {f"strongest alone, weighted vote of {k}" for k in (3, 5)}
MIXED = [
    "--model-factory",
    "tests.support.riddles:make",
    "--model-factory",
    "tests.support.riddles:agreeable",
]


def options(
    folder: Path, *arguments: str, kinds: str = "AABBAABB", **about: Any
) -> EvaluateOptions:
    """The options of a command line, on riddles."""
    folder.mkdir(parents=True, exist_ok=True)
    words = ["--questions", str(riddles.questions(folder / "test.jsonl", kinds, **about))]
    if "--model-factory" not in arguments:
        words += ["--model-factory", "tests.support.riddles:make"]
    words += ["--out", str(folder / "out"), "--debate-rounds", "2"]
    words += ["--rounds", "2", "--critic", "logprob"]
    return tyro.cli(EvaluateOptions, args=[*words, *arguments])


def tuned(folder: Path) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    path = riddles.questions(folder / "validation.jsonl", "AB")
    return ["--validation", str(path), "--bars", "0.5", "0.9", "--gaps", "0.01"]


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out/rows.jsonl").read_text().splitlines()]


def run_of(row: dict[str, Any], method: str) -> dict[str, Any]:
    [run] = row["methods"][method]
    return dict(run)


# --- the whole of it --------------------------------------------------------------------------


@pytest.fixture(autouse=True, scope="module")
def _few_questions_will_do() -> Iterator[None]:
    """A riddle is right or wrong for certain: eight of them may set a gate."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "LEAST_QUESTIONS", 8)
        yield


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, MethodResult]]:
    """An evaluation of two seeds of a router that refines whoever hedges."""
    folder = tmp_path_factory.mktemp("evaluation")
    seeds = [riddles.router(folder / f"hedger-{k}", critic="logprob") for k in range(2)]
    given = [word for seed in seeds for word in ("--router", str(seed))]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        methods, _ = asyncio.run(evaluate(options(folder, *given, *tuned(folder))))
    return folder, methods


def test_every_method_does_what_it_must(done: tuple[Path, dict[str, MethodResult]]) -> None:
    _, methods = done
    assert set(methods) == PLAIN | {"hedger", "hedger: control"}
    # Proposals alone find the Bs, always refining the As. The third of four votes settles a B
    # for DyLAN, and the router tells one from the other.
    half = PLAIN - {"DyLAN", "random router", "random router: control"}
    half -= {"oracle, 1 round", "oracle, 2 rounds"}
    accuracy = {name: m.accuracy for name, m in methods.items()}
    assert {name: accuracy[name] for name in half} == dict.fromkeys(half, 0.5)
    for name in ("DyLAN", "hedger", "oracle, 1 round", "oracle, 2 rounds"):
        assert accuracy[name] == 1.0, name
    assert accuracy["hedger: control"] == 0.5
    calls = {name: m.calls.tolist()[:4] for name, m in methods.items()}  # of A, A, B, B
    assert calls["single sample"] == [1, 1, 1, 1]
    assert all(calls[f"vote of {k}"] == [k] * 4 for k in VOTES)
    # At the share of 0.5: of an A the fourth sample says what the first does.
    assert calls["adaptive resampling"] == [4, 4, 3, 3]
    assert calls["greedy, one agent"] == [1] * 4
    assert calls["greedy, team vote"] == [3] * 4
    assert calls["debate, 2 rounds"] == [9] * 4
    assert calls["PHP"] == [2] * 4
    assert calls["DyLAN"] == [8, 8, 4, 4]
    assert calls["hedger"] == calls["hedger: control"] == [6, 6, 3, 3]
    assert calls["oracle, 1 round"] == [6, 6, 3, 3]
    assert methods["hedger"].runs == 2
    assert methods["hedger"].spread == 0
    assert methods["hedger"].actions == {"PERSIST": 0.5, "REFINE": 0.5, "CONCEDE": 0.0}
    assert not any(m.failed for m in methods.values())
    kinds = {m.kind for name, m in methods.items() if name.endswith("control")}
    assert kinds == {"control"}
    assert methods["hedger"].kind == "learned"
    assert methods["oracle, 1 round"].kind == "oracle"


def test_tokens_are_those_that_the_model_served(done: tuple[Path, dict[str, MethodResult]]) -> None:
    _, methods = done
    [model] = [m for m in riddles.MODELS if any("of test?" in r.last for r in m.requests)]
    pool = [
        one.prompt_tokens + one.completion_tokens
        for one in model.served
        if one.request.last.startswith("Riddle A1 of test?\n")
        and one.request.kwargs == {"temperature": 1.0}
    ]
    assert len(pool) == 15
    assert methods["vote of 15"].tokens[0] == sum(pool)
    for k in (3, 5, 9):
        assert methods[f"vote of {k}"].tokens[0] * 15 == sum(pool) * k
    refined = [
        one.prompt_tokens + one.completion_tokens
        for one in model.served
        if one.request.kind == "refine" and "Riddle A1 of test?" in one.request.text
        and "I guess" in str(one.request.messages[-2].text)
    ]  # fmt: skip
    assert methods["debate, 1 round"].tokens[0] == sum(pool[:3]) + sum(refined[:3])
    assert methods["hedger"].tokens[0] == methods["debate, 1 round"].tokens[0]
    assert methods["hedger"].tokens[2] == methods["vote of 3"].tokens[2]


def test_the_files_say_the_same(done: tuple[Path, dict[str, MethodResult]]) -> None:
    folder, methods = done
    table = (folder / "out/results.md").read_text()
    assert all(f"| {name} |" in table or f"| **{name}** |" in table for name in methods)
    assert "tuned on validation questions: bar 0.9" in table or "bar 0.5" in table
    assert "token counts" not in table
    summary = json.loads((folder / "out/results.json").read_text())
    assert set(summary["methods"]) == set(methods)
    mine = summary["methods"]["hedger"]
    assert (mine["accuracy"], mine["kind"], mine["runs"], mine["failed"]) == (1.0, "learned", 2, 0)
    assert mine["tokens"] == methods["hedger"].tokens.mean()
    assert summary["methods"]["PHP"]["spread"] is None
    assert set(mine["minus"]) == set(methods) - {"hedger"}
    for name, (mean, low, high) in mine["minus"].items():
        assert mean == pytest.approx(1.0 - methods[name].accuracy)
        assert low <= mean <= high
    assert mine["minus"]["single sample"][1] > 0
    lines = rows(folder)
    assert len(lines) == 8
    assert all(len(line["methods"]) == len(methods) for line in lines)
    assert len(lines[0]["methods"]["hedger: control"]) == 2
    [row] = [line for line in lines if line["id"] == "B3"]
    run = run_of(row, "debate, 1 round")
    assert (run["answer"], run["right"], "error" in run) == ("991", False, False)
    assert (folder / "out/tokens.png").read_bytes().startswith(b"\x89PNG")


def test_a_router_that_passed_is_loaded_without_a_warning(
    done: tuple[Path, dict[str, MethodResult]],
) -> None:
    folder, methods = done
    for seed in range(2):
        manifest = json.loads((folder / f"hedger-{seed}/router.json").read_text())
        assert manifest["gate"] == "pass"
        evidence = manifest["evidence"]["evaluation"]
        assert evidence["control"] == {"name": "hedger: control", "difference": [0.5, 0.125, 0.875]}
        rival = methods[evidence["baseline"]["name"]]
        assert rival.kind == "baseline"
        assert rival.tokens.mean() <= methods["hedger"].tokens.mean()
        assert manifest["evidence"]["why"] == "hand-made"
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert load_router(folder / f"hedger-{seed}").name == f"hedger-{seed}"


# --- stops, failures, other teams -------------------------------------------------------------


async def test_a_stopped_evaluation_goes_on_and_ends_as_if_never_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--router", str(riddles.router(tmp_path / "hedger")), "--sampled"]
    settings: dict[str, Any] = {"kinds": "AABB"}

    def drawn() -> int:
        return int(capsys.readouterr().out.rpartition(" samples drawn")[0].split()[-1])

    await evaluate(options(tmp_path / "whole", *given, **settings))
    whole = drawn()
    stopped = options(tmp_path / "stopped", *given, **settings)
    file = tmp_path / "stopped/out/samples-0.jsonl"
    task = asyncio.create_task(evaluate(stopped))
    while not file.exists() or file.read_bytes().count(b"\n") < whole // 2:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert task.cancelled()
    kept = file.read_bytes().count(b"\n")
    assert whole // 2 <= kept < whole
    file.write_bytes(file.read_bytes()[:-5])  # and torn by the stop
    await evaluate(stopped)
    assert drawn() == whole - kept + 1
    assert rows(tmp_path / "stopped") == rows(tmp_path / "whole")
    before = file.read_bytes()
    await evaluate(stopped)
    assert drawn() == 0
    assert file.read_bytes() == before
    assert rows(tmp_path / "stopped") == rows(tmp_path / "whole")


async def test_failed_questions_are_wrong_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = riddles.router(tmp_path / "hedger")
    methods, _ = await evaluate(
        options(tmp_path, "--router", str(folder), *tuned(tmp_path), kinds="BXUB")
    )
    for name, m in methods.items():
        assert m.failed == 1, name
        assert m.right[1] == m.right[2] == 0
    assert methods["vote of 3"].right.tolist() == [1, 0, 0, 1]
    assert methods["vote of 3"].calls.tolist() == [3, 3, 3, 3]
    failed = ["error" in run_of(row, "PHP") for row in rows(tmp_path)]
    assert failed == [False, True, False, False]
    assert "failed: " in capsys.readouterr().err
    # As good as a vote, and no better than its control: which is not enough.
    assert json.loads((folder / "router.json").read_text())["gate"] == "unknown"


async def test_a_mixed_team_without_contexts(tmp_path: Path) -> None:
    methods, _ = await evaluate(options(tmp_path, *MIXED, kinds="AB", contexts=False))
    assert set(methods) == PLAIN | ALONE
    # The agreeable second agent is always right and surer than the first and the third.
    assert methods["single sample"].right.tolist() == [0, 1]
    assert methods["weighted vote of 3"].right.tolist() == [0, 1]
    assert methods["best of 3"].right.tolist() == [1, 1]
    assert methods["oracle, 1 round"].right.tolist() == [1, 1]
    assert methods["debate, 1 round"].right.tolist() == [1, 0]


async def test_the_strongest_of_a_mixed_team_is_found_on_validation_questions(
    tmp_path: Path,
) -> None:
    methods, _ = await evaluate(options(tmp_path, *MIXED, *tuned(tmp_path), kinds="AB"))
    assert all(methods[name].right.tolist() == [1, 1] for name in ALONE)
    assert methods["strongest alone"].calls.tolist() == [1, 1]
    assert methods["strongest alone, vote of 5"].calls.tolist() == [5, 5]
    table = (tmp_path / "out/results.md").read_text()
    assert "Strongest agent, tuned on validation questions: agent-2." in table


async def test_other_critics_cost_what_they_cost(tmp_path: Path) -> None:
    methods, _ = await evaluate(options(tmp_path, "--critic", "self", kinds="B"))
    # The riddler knows no yes or no: it is asked in three ways, and later no more.
    assert methods["weighted vote of 15"].calls[0] > 15
    assert methods["vote of 15"].calls[0] == 15  # it reads no confidence
    assert methods["PHP"].calls[0] == 2
    assert methods["vote of 3"].right.tolist() == [1]


def make_critic() -> Any:
    """Return a critic of one's own, which trusts whoever gives an answer."""

    def trusts(question: str, response: Response) -> float:
        return 0.9 if response["answer"] else 0.1

    return trusts


async def test_a_critic_of_ones_own(tmp_path: Path) -> None:
    words = ["--critic", f"{__name__}:make_critic"]
    given = options(tmp_path, *words, kinds="B")
    assert given.critic_name == "trusts"
    methods, _ = await evaluate(given)
    assert methods["weighted vote of 3"].right.tolist() == [1]
    assert methods["weighted vote of 3"].calls.tolist() == [3]
    with pytest.raises(ConfigurationError, match="no-such"):
        await evaluate(options(tmp_path / "other", "--critic", "no-such", kinds="B"))


# --- routers ----------------------------------------------------------------------------------


def test_routers_that_differ_in_their_last_number_are_one_method(tmp_path: Path) -> None:
    def paths(*names: str) -> list[Path]:
        return [tmp_path / name for name in names]

    def named(*names: str) -> dict[str, list[str]]:
        found = group_routers(paths(*names))
        return {
            name.replace(str(tmp_path), ""): [str(f.relative_to(tmp_path)) for f in folders]
            for name, folders in found.items()
        }

    assert named("sft-0", "sft-1", "grpo", "sft-12") == {
        "sft": ["sft-0", "sft-1", "sft-12"],
        "grpo": ["grpo"],
    }
    assert named("mine/seed-0", "mine/seed-1") == {"mine": ["mine/seed-0", "mine/seed-1"]}
    assert named("a/r-seed0", "a/r_seed-1", "a/r2") == {"r": ["a/r-seed0", "a/r_seed-1", "a/r2"]}
    assert named("a/r-0", "b/r-0") == {"/a/r-0": ["a/r-0"], "/b/r-0": ["b/r-0"]}
    assert named("r1") == {"r1": ["r1"]}  # the number is dropped of several alone
    assert named("a-0", "a-0", "x/../a-0") == {"a-0": ["a-0"]}
    for name, tau, seed in (("tau-0", 0.4, 0), ("tau-1", 0.4, 1), ("tau-2", 0.8, 1)):
        (tmp_path / name).mkdir()
        training = {"tau": tau, "seed": seed, "out": name, "advantage_std": seed / 7}
        (tmp_path / name / "router.json").write_text(json.dumps({"training": training}))
    assert named("tau-0", "tau-1") == {"tau": ["tau-0", "tau-1"]}
    assert named("tau-0", "tau-2") == {"tau-0": ["tau-0"], "tau-2": ["tau-2"]}


async def test_every_seed_has_a_gate_of_its_own(tmp_path: Path) -> None:
    """The second of two seeds never refines: it fails, whatever their mean does."""
    good, bad = (riddles.router(tmp_path / f"hedger-{k}") for k in range(2))
    policy = Policy()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.zero_()
        policy.head[2].bias[:] = torch.tensor([9.0, 0.0, 0.0])
    export(policy, bad / "policy.onnx")
    manifest = json.loads((bad / "router.json").read_text())
    manifest["sha256"]["policy.onnx"] = sha256((bad / "policy.onnx").read_bytes()).hexdigest()
    (bad / "router.json").write_text(json.dumps(manifest))
    before = "# Router `x`. Run: this.\n\n**Gate: unknown** (hand-made).\n\n- 400 episodes\n"
    (good / "report.md").write_text(before)
    given = ["--router", str(good), "--router", str(bad), *tuned(tmp_path)]
    methods, _ = await evaluate(options(tmp_path, *given))
    assert methods["hedger"].accuracy == 0.75
    [gate] = [line for line in (good / "report.md").read_text().splitlines() if "Gate" in line]
    assert gate.startswith("**Gate: pass** (it beats its control and ")
    assert gate.endswith(". Real runs on 8 questions).")
    assert (good / "report.md").read_text() == before.replace(
        "**Gate: unknown** (hand-made).", gate
    )
    assert not (bad / "report.md").exists()
    gates, evidence = {}, {}
    for folder in (good, bad):
        manifest = json.loads((folder / "router.json").read_text())
        gates[folder.name] = manifest["gate"]
        evidence[folder.name] = manifest["evidence"]["evaluation"]["accuracy"]
    assert evidence == {"hedger-0": 1.0, "hedger-1": 0.5}
    assert gates["hedger-0"] == "pass"
    assert gates["hedger-1"] != "pass"


async def test_too_few_questions_take_no_verdict_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = riddles.router(tmp_path / "hedger")
    monkeypatch.setattr(compare, "LEAST_QUESTIONS", 50)
    for gate, after in (("unknown", "unknown"), ("pass", "pass"), ("fail", "fail")):
        before = {**json.loads((folder / "router.json").read_text()), "gate": gate}
        (folder / "router.json").write_text(json.dumps(before))
        await evaluate(options(tmp_path, "--router", str(folder), *tuned(tmp_path)))
        manifest = json.loads((folder / "router.json").read_text())
        assert manifest["gate"] == after
        assert (manifest == before) is (gate != "unknown")
        said = f"gate stays {gate}, as there are" if gate != "unknown" else "gate unknown, as"
        assert f"{said} fewer than 50 questions" in capsys.readouterr().out


async def test_repeated_questions_count_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = options(tmp_path, kinds="AB")
    lines = made.questions.read_text().splitlines()
    unnamed = [{k: v for k, v in json.loads(line).items() if k != "id"} for line in lines]
    made.questions.write_text("".join(json.dumps(row) + "\n" for row in unnamed * 30))
    methods, _ = await evaluate(made)
    assert len(methods["single sample"].right) == 2
    assert "58 repeated questions are left out" in capsys.readouterr().out


async def test_without_validation_questions_nothing_passes(tmp_path: Path) -> None:
    folder = riddles.router(tmp_path / "hedger")
    await evaluate(options(tmp_path, "--router", str(folder)))
    manifest = json.loads((folder / "router.json").read_text())
    assert manifest["gate"] == "unknown"
    assert "--validation" in manifest["evidence"]["evaluation"]["why"]
    assert "as it comes" in (tmp_path / "out/results.md").read_text()
    with pytest.warns(UserWarning, match="gate: unknown"):
        load_router(folder)


async def test_a_router_does_not_pass_on_questions_that_it_was_fitted_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = riddles.router(tmp_path / "hedger")
    told = [Question(str(n), f"Riddle {n}?", "1", {}) for n in range(4)]
    (folder / SEEN).write_text("".join(f"{hash_told(q)}\n" for q in told[:3]))
    assert count_known([folder], told) == {folder.resolve(): 3}
    private = [replace(q, contexts={"agent-1": "a note"}) for q in told]
    assert count_known([folder], private) == {}
    (folder / SEEN).write_text(f"{hash_told(private[0])}\n")
    assert count_known([folder], private) == {folder.resolve(): 1}
    monkeypatch.setattr(evaluation, "count_known", lambda folders, asked: {folder.resolve(): 3})
    await evaluate(options(tmp_path, "--router", str(folder), *tuned(tmp_path)))
    assert "was fitted on 3 of these questions" in capsys.readouterr().err
    manifest = json.loads((folder / "router.json").read_text())
    assert manifest["gate"] == "unknown"
    assert "fitted on 3 of these" in manifest["evidence"]["evaluation"]["why"]


async def test_a_model_of_another_factory_needs_another_folder(tmp_path: Path) -> None:
    await evaluate(options(tmp_path, kinds="A"))
    other = ("--model-factory", "tests.support.riddles:agreeable")  # of the same name
    with pytest.raises(ConfigurationError, match="model_factory"):
        await evaluate(options(tmp_path, *other, kinds="A"))


async def test_a_router_of_another_critic_is_evaluated_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = []
    for name, critic in (("a", "self"), ("b", "logprob"), ("c", None)):
        given += ["--router", str(riddles.router(tmp_path / name, critic=critic))]
    methods, _ = await evaluate(options(tmp_path, *given, kinds="A"))
    err = capsys.readouterr().err
    assert f"warning: {tmp_path / 'a'} was fitted with the critic self" in err
    assert err.count("was fitted with") == 1
    assert [methods[name].right.tolist() for name in "abc"] == [[1]] * 3


async def test_a_router_must_not_bear_a_baselines_name(tmp_path: Path) -> None:
    folder = riddles.router(tmp_path / "PHP")
    with pytest.raises(ConfigurationError, match="'PHP' is another method's name"):
        await evaluate(options(tmp_path, "--router", str(folder), kinds="B"))


# --- what is refused, and by itself -----------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "0"], "--rounds"),
        (["--limit", "0"], "--limit"),
        (["--concurrency", "0"], "--concurrency"),
        (["--bars"], "--bars"),
        (["--debate-rounds", "0"], "--debate-rounds must be 1 or more"),
        (["--methods", "early-stopping-16"], "votes are of 15 agents at most"),
        (["--methods", "alone-1", "weighted-alone-1", "--agents", "1"], "leave one out"),
        ([*MIXED, "--strongest", "4"], "--strongest"),
        (["--agents", "2"], "contexts names agent-3"),
    ],
)
async def test_wrong_options_are_refused_before_anything_is_asked(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    made = len(riddles.MODELS)
    with pytest.raises((ConfigurationError, TableError), match=message):
        await evaluate(options(tmp_path, *arguments))
    assert not any(model.requests for model in riddles.MODELS[made:])


async def test_a_broken_router_and_a_missing_reference_are_found_at_once(tmp_path: Path) -> None:
    with pytest.raises(RouterError, match=r"router\.json"):
        await evaluate(options(tmp_path, "--router", str(tmp_path / "none")))
    test = options(tmp_path)
    row = {"id": "lost", "question": "Riddle A1?", "reference": None}
    (tmp_path / "validation.jsonl").write_text(json.dumps(row))
    for name in ("questions", "validation"):
        given = {"questions": test.questions, name: tmp_path / "validation.jsonl"}
        wrong = EvaluateOptions(team=test.team, out=test.out, **given)
        with pytest.raises(ConfigurationError, match="'lost' has none"):
            await evaluate(wrong)


def test_what_left_nothing_behind_counts_as_wrong_at_the_usual_price() -> None:
    runs: list[list[Result | None]] = [
        [Result("1", 10, 1, {"REFINE": 3}, right=True), Result("2", 20, 3, {"PERSIST": 1})],
        [Result("1", 60, 5, {}, right=True), Result("1.0", 30, 3, {}, right=True)],
    ]
    runs[0] += [None, None]
    runs[1] += [None, Result(None, 30, 3, {}, True)]
    method = summarise("m", "learned", runs)
    assert method.right.tolist() == [1, 0.5, 0, 0]
    assert method.tokens.tolist() == [35, 25, 30, 30]
    assert method.calls.tolist() == [3, 3, 3, 3]
    assert method.failed == 4
    assert method.actions == {"PERSIST": 0.25, "REFINE": 0.75, "CONCEDE": 0.0}
    assert method.spread == pytest.approx(0.25 / 2**0.5)
    nothing = summarise("m", "baseline", [[None] * 4])
    assert nothing.accuracy == nothing.tokens.sum() == 0
    assert nothing.failed == 4


async def test_no_key_is_written(tmp_path: Path) -> None:
    await evaluate(options(tmp_path, "--api-key", "sk-secret", kinds="B"))
    assert (tmp_path / "out/results.json").exists()
    for path in (tmp_path / "out").iterdir():
        assert b"sk-secret" not in path.read_bytes()


def test_the_command(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "training/evaluate.py",
        "--model-factory",
        "tests.support.riddles:make",
    ]
    command += ["--questions", str(riddles.questions(tmp_path / "test.jsonl", "AB"))]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "out")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "| vote of 3 |" in done.stdout
    assert "Traceback" not in done.stderr


def test_errors_are_told_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model-factory", "tests.support.riddles:make", "--out", str(tmp_path)]
    assert main([*words, "--questions", "none.jsonl"]) == 2
    assert capsys.readouterr().err.startswith("error: none.jsonl: no such")


def test_collecting_evaluating_and_the_graph_have_the_same_defaults() -> None:
    graph = inspect.signature(create_deliberation).parameters
    for options_of in (EvaluateOptions, collecting.CollectOptions):
        default = {one.name: one.default for one in fields(options_of)}
        assert default["critic"] == graph["critic"].default
        assert default["rounds"] == graph["max_rounds"].default


def test_nothing_is_tuned_on_the_questions_that_it_is_judged_on(tmp_path: Path) -> None:
    given = options(tmp_path, kinds="AB")
    assert given.questions is not None
    with pytest.raises(ConfigurationError, match="2 of these questions are test questions too"):
        asyncio.run(evaluate(replace(given, validation=given.questions)))


@pytest.mark.parametrize(
    "change",
    [{"reference": "4.0"}, {"category": "sums"}, {"question": " What is\n2 + 2? "}, {"id": "9"}],
)
def test_questions_that_models_cannot_tell_apart_are_one(change: dict[str, Any]) -> None:
    told = Question("1", "What is 2 + 2?", "4", {"ann": "a note"})
    with pytest.raises(ConfigurationError, match="1 of these questions are test questions too"):
        check_apart(Path("validation.jsonl"), [replace(told, **change)], [told])
    check_apart(Path("validation.jsonl"), [replace(told, contexts={})], [told])


def test_a_router_does_not_pass_beside_baselines_that_may_be_tuned_badly(tmp_path: Path) -> None:
    given = options(tmp_path)
    assert "give --validation" in untuned_because(given, Counter())
    validated = replace(given, validation=Path(tuned(tmp_path)[1]))
    assert untuned_because(validated, Counter()) == ""
    assert "2 runs on validation questions failed" in untuned_because(validated, Counter("aa"))
