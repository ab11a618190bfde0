"""The ablations: fits that are not run twice, scores by hand, raw text, and the whole command."""

import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import tyro
from hypothesis import given
from hypothesis import strategies as st

from mpdf_langgraph import Episode, load_router
from mpdf_langgraph.errors import ConfigurationError, MPDFError
from mpdf_langgraph.observation import INDEX
from mpdf_langgraph.state import Observation
from tests.support.counterfactuals import decisions
from tests.support.records import failure, usage
from tests.support.synthetic import synthetic_episodes
from tests.support.toy_groups import Toy, toy_groups
from tests.support.written import write_traces
from training.learn import fitting
from training.learn.dataset import Groups, load
from training.learn.fit_config import Algorithm, Config
from training.studies import ablations, raw_text
from training.studies.ablations import AblationOptions, find_folders, fits_of
from training.studies.accuracy_by_round import measure_rounds
from training.studies.fits import Changes, FinishedFit, Fit, run_fits
from training.studies.score import Scores, compare_policies, row, score
from training.studies.variants import ABLATIONS, Ablation, Name, Variant


def exactly(answer: str, reference: str) -> bool:
    return answer == reference


def write(folder: Path, *episodes: Episode) -> Path:
    return write_traces(folder, episodes)


def read(*paths: Path) -> Groups:
    return load(paths, grader=exactly, progress=False)[0]


# --- raw text ---------------------------------------------------------------------------------


@given(st.text(max_size=200))
def test_a_hashed_text_is_of_length_one(text: str) -> None:
    vector = raw_text.hash_text(text)
    assert vector.shape == (raw_text.BUCKETS,)
    # 0 where there is no word, or where all of them cancel.
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5) or not vector.any()
    assert np.array_equal(vector, raw_text.hash_text(text))


def test_a_hashed_text_tells_words_and_their_order() -> None:
    assert not raw_text.hash_text(" \n").any()
    texts = ["a b", "b a", "a c", "a b b"]
    assert len({raw_text.hash_text(text).tobytes() for text in texts}) == len(texts)
    assert np.array_equal(raw_text.hash_text("A  b"), raw_text.hash_text("a b"))


def test_the_texts_held_are_the_features(tmp_path: Path) -> None:
    small = list(synthetic_episodes(4, 1))
    large = list(synthetic_episodes(3, 2, agents=5, rounds=2))
    write(tmp_path / "a", *small, small[0])
    write(tmp_path / "b", *large)
    with next((tmp_path / "b").glob("*.jsonl")).open("a") as file:
        file.write('\n{"torn": ')
    paths = (tmp_path / "a", tmp_path / "b")
    every = read(*paths)
    some = every.select(np.random.default_rng(0).permutation(len(every))[:40])
    for chosen in (every, some):
        seen = raw_text.featurise(chosen, paths)
        assert seen.own.shape == (len(chosen), raw_text.BUCKETS)
        assert seen.peers.shape == (len(chosen), 4, raw_text.BUCKETS)
        by_id = {episode.id: episode for episode in small + large}
        for i in range(len(chosen)):
            episode = by_id[chosen.episodes[chosen.episode[i]]]
            texts = {
                turn["agent"]: episode.responses[turn["before"]]["text"]
                for turn in episode.turns
                if turn["round"] == chosen.round[i] and turn["before"]
            }
            me = chosen.agents[chosen.agent[i]]
            others = [agent["name"] for agent in episode.agents if agent["name"] != me]
            assert np.array_equal(seen.own[i], raw_text.hash_text(texts[me]))
            for k, other in enumerate(others):
                assert np.array_equal(seen.peers[i, k], raw_text.hash_text(texts[other]))
            assert not seen.peers[i, len(others) :].any()


# --- fits -------------------------------------------------------------------------------------


def test_a_fit_is_known_by_what_it_depends_on(tmp_path: Path) -> None:
    traces = write(tmp_path / "t", *synthetic_episodes(2))
    fit = Fit(Config(traces=(traces,), out=tmp_path / "fits"))
    same = [
        replace(fit.config, threads=1, device="cpu", resume=True),
        replace(fit.config, out=tmp_path / "elsewhere"),
    ]
    assert {Fit(config).key for config in same} == {fit.key}
    labels = tmp_path / "labels.jsonl"
    labels.write_text('{"episode": "e", "reference": "1"}')
    others = [
        replace(fit.config, tau=0.0),
        replace(fit.config, seed=1),
        replace(fit.config, labels=labels),
    ]
    keys = [
        fit.key,
        *(
            Fit(fit.config, changed).key
            for changed in (Changes(raw_text=True), Changes(hidden=("steps",)))
        ),
        *(Fit(one).key for one in others),
    ]
    labels.write_text('{"episode": "e", "reference": "2"}')
    keys.append(Fit(others[-1]).key)
    write(traces, *synthetic_episodes(1, 5))
    keys.append(fit.key)
    segment = next(traces.glob("*.jsonl"))
    segment.write_bytes(bytes(reversed(segment.read_bytes())))  # of the same size
    keys.append(fit.key)
    assert len(set(keys)) == len(keys)
    assert Fit(others[0]).folder.parent == tmp_path / "fits"
    assert Fit(others[0]).folder.name.startswith("tau-0.0_")


def test_only_what_is_missing_is_fitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    traces = write(tmp_path / "t", *synthetic_episodes(2))
    ran: list[tuple[float, bool, float]] = []

    def fake(config: Config, *, reward_scale: float, **options: Any) -> None:
        sys.stdout.write("told\n")
        ran.append((config.tau, config.resume, reward_scale))
        if config.tau == 5.0:
            raise MPDFError("no good")
        (config.out / "router.json").write_text("{}")

    monkeypatch.setattr(fitting, "fit", fake)
    config = Config(traces=(traces,), out=tmp_path / "fits")
    one, bad = Fit(config), Fit(replace(config, tau=5.0))
    text = Fit(config, Changes(reward_scale=0.1))
    assert run_fits([one, bad, one, text], jobs=1) == {bad.key: "no good"}
    assert ran == [
        (0.8, True, 1.0),
        (5.0, True, 1.0),
        (0.8, True, 0.1),
    ]
    assert (one.done, text.done, bad.done) == (True, True, False)
    assert (one.folder / "fit.log").read_text() == "told\n"
    assert "no good" in (bad.folder / "fit.log").read_text()
    assert run_fits([one, bad, text], jobs=1) == {bad.key: "no good"}
    assert len(ran) == 4


def test_fits_side_by_side_tell_why_they_fail(tmp_path: Path) -> None:
    traces = write(tmp_path / "t", *synthetic_episodes(1))  # one question: none is left over
    config = Config(traces=(traces,), out=tmp_path / "fits")
    both = [Fit(config), Fit(replace(config, seed=1))]
    failed = run_fits(both, jobs=2)
    assert set(failed) == {fit.key for fit in both}
    assert all("collect more traces" in problem for problem in failed.values())


# --- scores -----------------------------------------------------------------------------------

PERSIST, REFINE, CONCEDE = range(3)
TWO = toy_groups(
    [
        # Refining gets it right half of the time, conceding always.
        [
            Toy(PERSIST),
            Toy(REFINE, 1, 1, 100, True, True),
            Toy(REFINE, 0, 0, 300, False, False),
            Toy(CONCEDE, 1, 1, 0, True, True),
        ],
        # It is right as it is, and conceding makes it wrong.
        [Toy(PERSIST, 0, 1, 0, True, True), Toy(CONCEDE, -1, -1, 0, False, False)],
    ]
)


def test_scores_by_hand() -> None:
    policy = np.array([[0.2, 0.4, 0.4], [0.5, 0.0, 0.5]])
    found = score([(3, TWO, policy)])
    assert found.reward == pytest.approx([0.4 * 1 + 0.4 * 2, 0.5 * 1 + 0.5 * -2])
    assert found.group == pytest.approx([0.4 * 0.5 + 0.4, -0.5])
    assert found.own == pytest.approx([0.4 * 0.5 + 0.4, -0.5])
    assert found.tokens == pytest.approx([0.4 * 200, 0])
    assert found.seed.tolist() == [3, 3]


def test_policies_are_compared_on_the_seeds_that_both_have() -> None:
    stay, go = np.tile([1.0, 0, 0], (2, 1)), np.tile([0, 0, 1.0], (2, 1))
    half = (stay + go) / 2
    mine = score([(0, TWO, half), (1, TWO, go)])
    base = score([(1, TWO, stay), (2, TWO, half)])
    difference, moved = compare_policies(mine, base)
    assert difference.mean == pytest.approx(((2 - 0) + (-2 - 1)) / 2)
    assert (moved, difference.questions) == (1.0, 2)
    assert compare_policies(mine, score([(5, TWO, stay)]))[0].questions == 0


def test_a_line_of_the_table() -> None:
    stay, go = np.tile([1.0, 0, 0], (2, 1)), np.tile([0, 0, 1.0], (2, 1))
    base = score([(0, TWO, stay), (1, TWO, go)])  # 0.5 and 0 in the mean
    line = row("name", base, base)
    assert line[:5] == ["name", "0.2500", "=", "–", f"{np.std([0.5, 0.0], ddof=1):.4f}"]
    assert line[-4:] == ["50.0%", "0.0%", "50.0%", "–"]
    base.problems, base.spread = ["x"], 0.25
    assert row("name", base, "failed")[0::2][:2] == ["name (1 seeds failed)", "–"]
    assert row("name", base, None)[-1] == "0.250"
    assert row("name", "why", base)[:3] == ["name", "failed: why", "–"]
    assert len(row("name", "why", base)) == len(line)


def test_what_every_round_gave(tmp_path: Path) -> None:
    full = list(synthetic_episodes(6, 1, rounds=3))
    short = list(synthetic_episodes(4, 2, rounds=1, agents=2))
    missing = full[0].model_copy(update={"id": "f" * 32, "reference": None})
    late = full[1].model_copy(update={"id": "e" * 32, "reference": None})
    folder = write(tmp_path, *full, *short, missing, late)
    assert full[1].reference is not None
    found = measure_rounds(folder, exactly, {late.id: full[1].reference})
    kept = [*full, *short, full[1]]
    assert found.agents == {2, 3}
    assert found.right.shape == found.tokens.shape == (len(kept), 4)
    assert len(set(found.question)) == len(full) + len(short)
    for i, episode in enumerate(kept):
        answers = [tally["answer"] for tally in episode.tallies]
        right = [answer == episode.reference for answer in answers]
        assert found.right[i].tolist() == (right + [right[-1]] * 3)[:4]
        for round_ in range(4):
            spent = sum(
                r["usage"]["prompt_tokens"] + r["usage"]["completion_tokens"]
                for id_, r in episode.responses.items()
                if "+" not in id_ and r["round"] <= round_
            )
            assert found.tokens[i, round_] == spent
    with pytest.raises(MPDFError, match="no episode"):
        measure_rounds(write(tmp_path / "none", missing), exactly, {})


def test_a_first_attempt_does_not_count_and_failed_calls_are_paid_for(tmp_path: Path) -> None:
    sound, alone = (one for one in synthetic_episodes(2, 1, rounds=2))
    paid = failure("agent-1", "refine", usage(2, 30, 4), round_=1)
    sound = sound.model_copy(update={"failures": [paid]})
    broken = [failure("agent-1", "propose", usage(1, 9, 0))]
    first = sound.model_copy(update={"id": "f" * 32, "failures": broken})
    twice = [alone.model_copy(update={"id": c * 32, "failures": broken}) for c in "de"]
    found = measure_rounds(write(tmp_path / "all", first, sound, *twice), exactly, {})
    plain = measure_rounds(write(tmp_path / "two", sound, twice[1]), exactly, {})
    assert found.tokens.tolist() == plain.tokens.tolist()
    free = sound.model_copy(update={"failures": []})
    before = measure_rounds(write(tmp_path / "free", free), exactly, {}).tokens[0]
    assert (plain.tokens[0] - before).tolist() == [0, 34, 34]


# --- the command ------------------------------------------------------------------------------


def test_every_ablation_is_sound(tmp_path: Path) -> None:
    options = AblationOptions(traces=(tmp_path,), out=tmp_path)
    assert [one.name for one in ABLATIONS] == [
        name for name in get_args(Name) if name not in ("transfer", "rounds")
    ]
    for ablation in ABLATIONS:
        labels = [variant.label for variant in ablation.variants]
        assert len(set(labels)) == len(labels)
        # No two variants are the same fit, and what they are compared with is there.
        assert len({fits_of(options, v)[0].key for v in ablation.variants}) == len(labels)
        for variant in ablation.variants:
            options.fit(0, variant.options).check()
            assert variant.against in (None, *labels)
    tried = {v.options["algorithm"] for v in ABLATIONS[1].variants}
    assert tried == set(get_args(Algorithm))


def test_the_command_line_is_read(tmp_path: Path) -> None:
    given = ["--traces", "a", "b", "--only", "tau", "--runs", "x=a", "5 agents=b"]
    options = tyro.cli(AblationOptions, args=given)
    assert (options.traces, options.only) == ((Path("a"), Path("b")), ("tau",))
    assert options.runs == ("x=a", "5 agents=b")
    assert find_folders("runs", [f"a b={tmp_path}"]) == {"a b": tmp_path}
    for wrong in ([str(tmp_path)], ["x="], [f"={tmp_path}"], [f"x={tmp_path}/none"]):
        with pytest.raises(ConfigurationError, match="--runs"):
            find_folders("runs", wrong)
    with pytest.raises(ConfigurationError, match="each name once"):
        find_folders("runs", [f"x={tmp_path}"] * 2)
    for changed in ({"seeds": 0}, {"only": ("transfer",)}, {"only": ("rounds",)}):
        with pytest.raises(ConfigurationError):
            replace(options, runs=(), **changed).check()


def test_the_whole_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    traces = write(tmp_path / "three", *synthetic_episodes(40))
    other = write(tmp_path / "five", *synthetic_episodes(30, 7, agents=5, rounds=1))
    variants = (
        Variant("everything"),
        Variant("raw text", changes=Changes(raw_text=True)),
        Variant("impossible", {"beta": 0.0}),
    )
    monkeypatch.setattr(ablations, "ABLATIONS", (Ablation("observation", "What?", variants),))
    options = AblationOptions(
        traces=(traces,),
        out=tmp_path / "out",
        test=(traces, other),
        transfer=(f"5 agents={other}",),
        runs=(f"3={traces}", f"5={other}"),
        seeds=1,
        epochs=1,
        jobs=1,
    )
    assert ablations.ablate(options) == 1
    assert "3 ablations" in capsys.readouterr().out
    page = (options.out / "ablations.md").read_text()
    for name in ("observation", "transfer", "rounds"):
        assert (options.out / f"{name}.md").read_text() in page
        assert (options.out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    lines = {line.split(" | ")[0][2:]: line for line in page.splitlines() if line[:2] == "| "}
    assert " = " in lines["everything"]
    assert "failed: --beta must be above 0" in lines["impossible"]
    assert {"raw text", "5 agents: fitted there", "5 agents: fitted on --traces"} < set(lines)

    # Questions of --test that were fitted on do not count.
    scorer = ablations.Scorer(options, {})
    fit = fits_of(options, variants[0])[0]
    scores = scorer.scores([fit])
    assert isinstance(scores, Scores)
    assert len(scores.reward) == len(read(other)) < len(scorer.load_groups(options.test))

    # No policy is better than the oracle in any of the same groups.
    fixed = scorer.score_references([fit])
    assert np.all(fixed["(oracle)"].reward >= scores.reward - 1e-6)
    assert np.all(fixed["(oracle)"].reward >= fixed["(always PERSIST)"].reward - 1e-6)

    # The router decides as it does when deployed.
    fitted = FinishedFit(fit)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # its gate is not passed
        router = load_router(fit.folder, greedy=False)
    [episode] = synthetic_episodes(1, 9)
    for agent in episode.agents:
        agent["competence"] = None
    stored = read(write(tmp_path / "one", episode))
    expected = fitted.probabilities(stored, (tmp_path / "one",))
    for i, group in enumerate(decisions(episode)):
        o = group.observation
        seen = Observation(own=list(o["own"]), peers=[list(peer) for peer in o["peers"]])
        names = [agent["name"] for agent in episode.agents]
        place = names.index(group.agent)
        for vector, name in zip(
            [seen["own"], *seen["peers"]],
            [group.agent, *(n for k, n in enumerate(names) if k != place)],
            strict=True,
        ):
            vector[INDEX["competence"]] = router.competence[name]
        assert router.decide([seen], [group.mask])[0] == pytest.approx(expected[i], abs=1e-5)

    # Again: nothing is fitted, and the pages are the same.
    fitted_at = {path: path.stat().st_mtime_ns for path in options.out.rglob("router.json")}
    assert len(fitted_at) == 3
    assert ablations.ablate(replace(options, only=("observation",))) == 1
    assert {path: path.stat().st_mtime_ns for path in options.out.rglob("router.json")} == fitted_at
    assert (options.out / "ablations.md").read_text() == page
