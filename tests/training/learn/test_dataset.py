"""The dataset: the same as the groups one by one, cached, joined, reported and split."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpdf_langgraph import Calibration, Episode
from mpdf_langgraph.errors import ConfigurationError, TraceError
from mpdf_langgraph.observation import FEATURES
from mpdf_langgraph.traces.reader import find_segments
from tests.support.counterfactuals import Decision, decisions
from tests.support.synthetic import synthetic_episodes
from tests.support.written import write_traces
from training.learn import trace_rows
from training.learn.dataset import _ARRAYS, Groups, load, make_groups, split
from training.learn.recalibrate import recalibrate
from training.learn.rewards import Weights
from training.learn.trace_rows import is_drawn, read_rows, share_of


def exactly(answer: str, reference: str) -> bool:
    return answer == reference


def read(paths: Any, **options: Any) -> Any:
    return load(paths, **{"grader": exactly, "progress": False, **options})


def write(folder: Path, episodes: Iterable[Episode]) -> Path:
    """Write episodes as one segment and return it."""
    known = set(folder.glob("*.jsonl"))
    write_traces(folder, episodes)
    [segment] = set(folder.glob("*.jsonl")) - known
    return segment


def same(a: Groups, b: Groups) -> bool:
    return (
        (a.questions, a.episodes, a.agents) == (b.questions, b.episodes, b.agents)
        and all(np.array_equal(getattr(a, name), getattr(b, name)) for name in _ARRAYS)
        and all(getattr(a, name).dtype == getattr(b, name).dtype for name in _ARRAYS)
    )


@pytest.fixture
def mixed(tmp_path: Path) -> tuple[list[Episode], list[Path]]:
    """Segments of teams of 3, 1 and 5 agents with 4, 0 and 1 alternatives."""
    parts = [
        list(synthetic_episodes(5, 1)),
        list(synthetic_episodes(3, 2, agents=1, alternatives=0)),
        list(synthetic_episodes(4, 3, agents=5, alternatives=1, rounds=1, consensus="majority")),
        list(synthetic_episodes(2, 4, rounds=0)),
    ]
    files = [write(tmp_path / str(i), part) for i, part in enumerate(parts)]
    return [episode for part in parts for episode in part], files


# --- the arrays -----------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [3, 50_000, 10**9])
def test_the_arrays_are_the_groups(
    mixed: tuple[list[Episode], list[Path]], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if chunk == 3:  # so many are cut within episodes
        chunk = mixed[1][0].stat().st_size // 29
    monkeypatch.setattr(trace_rows, "CHUNK", chunk)
    episodes, files = mixed
    expected = [(e, d) for e in episodes for d in decisions(e)]
    for again in (False, True):
        got, report = read(files)
        assert report.cached == len(files) * again
        assert got.peers.shape == (len(expected), 4, len(FEATURES))
        assert got.actions.shape == (len(expected), 7)
        assert len(got) == len(expected) == report.groups
        assert got.episodes == [e.id for e in episodes]
        for i, (episode, decision) in enumerate(expected):
            agrees(got, i, episode, decision)
        assert (report.episodes, report.undecided) == (14, 2)
        assert report.rollouts == sum(len(d.moves) for _, d in expected)
        rewards = got.rewards(Weights())
        equal = [len(set(rewards[i, : len(d.moves)])) == 1 for i, (_, d) in enumerate(expected)]
        assert report.tied == sum(equal)
        assert 0 < report.tied < len(expected)
        untried = [d.mask[1] and all(m.action != 1 for m in d.moves) for _, d in expected]
        assert report.untried == sum(untried) > 0


def agrees(got: Groups, i: int, episode: Episode, decision: Decision) -> None:
    """Check row `i` of the arrays against its decision."""
    n, names = len(decision.moves), [agent["name"] for agent in episode.agents]
    others = [name for name in names if name != decision.agent]

    def right(answer: str | None) -> bool:
        return answer == episode.reference

    assert got.episodes[got.episode[i]] == episode.id
    assert got.questions[got.question[i]] == episode.question
    assert got.agents[got.agent[i]] == decision.agent
    assert [got.agents[a] for a in got.peer_agent[i, : len(others)]] == others
    assert got.round[i] == decision.round
    assert got.own[i].tolist() == np.float32(decision.observation["own"]).tolist()
    peers = decision.observation["peers"]
    assert got.peers[i, : len(peers)].tolist() == np.float32(peers).tolist()
    assert got.peer_mask[i].tolist() == [j < len(peers) for j in range(4)]
    assert got.action_mask[i].tolist() == decision.mask
    assert got.behaviour[i].tolist() == np.float32(decision.behaviour).tolist()
    assert got.taken[i] == decision.action
    assert got.disagreement[i] == decision.disagreement
    assert got.held_right[i] == right(decision.before) == got.correct[i, 0]
    assert got.rollout_mask[i].tolist() == [j < n for j in range(7)]
    moves, before, without = decision.moves, right(decision.before), right(decision.without)
    for name, values in {
        "actions": [move.action for move in moves],
        "local": [right(move.answer) - before for move in moves],
        "global_": [right(move.consensus) - without for move in moves],
        "tokens": [move.tokens for move in moves],
        "correct": [right(move.answer) for move in moves],
        "consensus": [right(move.consensus) for move in moves],
    }.items():
        assert getattr(got, name)[i].tolist() == values + [0] * (7 - n), name


def test_select(mixed: tuple[list[Episode], list[Path]]) -> None:
    got, _ = read(mixed[1])
    for index in (slice(3, 9), np.arange(3, 9), np.isin(np.arange(len(got)), range(3, 9))):
        some = got.select(index)
        assert len(some) == 6
        assert all(np.array_equal(getattr(some, n), getattr(got, n)[3:9]) for n in _ARRAYS)
        assert (some.questions, some.episodes) == (got.questions, got.episodes)


def test_nothing_to_read(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_bytes(b"")
    for episodes in ([], synthetic_episodes(2, rounds=0)):
        if episodes:
            write(tmp_path, episodes)
        for _ in range(2):
            got, report = read(tmp_path)
            assert len(got) == report.groups == 0
            assert got.own.shape == (0, len(FEATURES))
            assert got.peers.shape == (0, 0, len(FEATURES))
            assert got.rewards(Weights()).shape == (0, 0)
            assert got.held_right.shape == (0,)
            assert [len(part) for part in split(got)] == [0, 0]


def test_each_pair_is_graded_once_and_the_answer_stands_first(tmp_path: Path) -> None:
    [episode] = synthetic_episodes(1, 5)
    write(tmp_path, [episode, episode.model_copy(update={"id": "another"})])
    pairs: list[tuple[str, str]] = []
    read(tmp_path, grader=lambda *pair: bool(pairs.append(pair)))
    assert len(pairs) == len(set(pairs)) <= len(episode.representatives)
    assert {reference for _, reference in pairs} == {episode.reference}


# --- the cache ------------------------------------------------------------------------------


def forbidden(*_: Any) -> Any:
    raise AssertionError("the traces were read")


def caches(folder: Path) -> list[Path]:
    return sorted(folder.glob(".*.npz"))


@pytest.fixture
def kept(tmp_path: Path) -> tuple[Path, Groups]:
    """A cached segment and its groups."""
    segment = write(tmp_path, synthetic_episodes(6, 1))
    got, report = read(tmp_path)
    assert report.cached == 0
    return segment, got


def test_an_unchanged_segment_is_not_read_again(
    kept: tuple[Path, Groups], monkeypatch: pytest.MonkeyPatch
) -> None:
    segment, first = kept
    monkeypatch.setattr(trace_rows, "_read_chunk", forbidden)
    again, report = read(segment.parent)
    assert report.cached == 1
    assert same(again, first)
    os.utime(segment, ns=(1, 1))  # another time, the same content
    assert read(segment)[1].cached == 1
    with pytest.raises(AssertionError, match="were read"):
        read(segment, cached=False)


def test_only_what_is_new_is_read(kept: tuple[Path, Groups]) -> None:
    segment, first = kept
    write(segment.parent / "later", synthetic_episodes(2, 2))  # sub-folders count too
    got, report = read(segment.parent)
    assert (report.segments, report.cached, report.episodes) == (2, 1, 8)
    assert len(got) == len(first) + 18


@pytest.mark.parametrize("same_time", [True, False])
def test_a_changed_segment_is_read_again(kept: tuple[Path, Groups], same_time: bool) -> None:
    segment, first = kept
    stat = segment.stat()
    with segment.open("ab") as file:
        file.write(b"\n" + next(synthetic_episodes(1, 9)).to_json())
    if same_time:
        os.utime(segment, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    grown, report = read(segment)
    assert (report.cached, report.episodes) == (0, 7)
    assert np.array_equal(grown.own[: len(first)], first.own)
    assert read(segment)[1].cached == 1

    # Of the same length with other content.
    text = segment.read_bytes()
    segment.write_bytes(text.replace(b'"round":3', b'"round":4', 1))
    assert len(segment.read_bytes()) == len(text)
    os.utime(segment, ns=(5, 5))
    assert read(segment)[1].cached == 0


def test_what_is_written_while_it_is_read_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment = write(tmp_path, synthetic_episodes(2, 1))
    read_chunk = trace_rows._read_chunk

    def read_and_append(*given: Any) -> Any:
        found = read_chunk(*given)
        with segment.open("ab") as file:
            file.write(b"\n" + next(synthetic_episodes(1, 9)).to_json())
        return found

    with monkeypatch.context() as patch:
        patch.setattr(trace_rows, "_read_chunk", read_and_append)
        assert read(tmp_path)[1].episodes == 2
    report = read(tmp_path)[1]
    assert (report.cached, report.episodes) == (0, 3)


def test_a_torn_cache_is_made_anew(kept: tuple[Path, Groups]) -> None:
    segment, first = kept
    [cache] = caches(segment.parent)
    whole = cache.read_bytes()
    for cut in {0, 1, 4, 8, len(whole) - 1, *range(0, len(whole), len(whole) // 15)}:
        cache.write_bytes(whole[:cut])
        got, report = read(segment)
        assert report.cached == 0
        assert same(got, first)
        assert read(segment)[1].cached == 1


def test_flipped_bits_never_reach_the_groups(kept: tuple[Path, Groups]) -> None:
    segment, first = kept
    [cache] = caches(segment.parent)
    whole = cache.read_bytes()
    rebuilt = 0
    for place in range(0, len(whole), len(whole) // 60):
        cache.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        got, report = read(segment)
        rebuilt += not report.cached
        assert same(got, first), place
    assert rebuilt > 30


def test_another_version_is_made_anew(
    kept: tuple[Path, Groups], monkeypatch: pytest.MonkeyPatch
) -> None:
    segment, first = kept
    monkeypatch.setattr(trace_rows, "VERSIONS", [*trace_rows.VERSIONS, "new"])
    got, report = read(segment)
    assert report.cached == 0
    assert same(got, first)
    assert read(segment)[1].cached == 1


def test_a_folder_that_takes_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    segment = write(tmp_path, synthetic_episodes(2))

    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError("read-only")

    monkeypatch.setattr(trace_rows.np, "savez", refuse)
    with pytest.warns(UserWarning, match="is read anew each time: read-only"):
        got, _ = read(tmp_path)
    assert len(got) == 18
    assert list(tmp_path.iterdir()) == [segment]
    monkeypatch.undo()
    assert same(read(tmp_path, cached=False)[0], got)
    assert list(tmp_path.iterdir()) == [segment]


def curve(slope: float, shift: float) -> Calibration:
    one = {"slope": slope, "shift": shift}
    return Calibration.model_validate({"logprob": {"proposed": one, "refined": one}})


def test_one_cache_serves_every_calibration(
    kept: tuple[Path, Groups], monkeypatch: pytest.MonkeyPatch
) -> None:
    segment, as_recorded = kept
    episodes = list(synthetic_episodes(6, 1))
    monkeypatch.setattr(trace_rows, "_read_chunk", forbidden)
    for calibration in (curve(3.0, -2.0), curve(0.0, 0.2)):
        got, report = read(segment, calibration=calibration)
        assert report.cached == 1
        assert same(got, make_groups(episodes, exactly, calibration=calibration))
        assert same(got, make_groups([recalibrate(e, calibration) for e in episodes], exactly))
        assert not np.array_equal(got.own, as_recorded.own)
    assert len(caches(segment.parent)) == 1


def test_the_latest_few_caches_are_kept(
    kept: tuple[Path, Groups], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each share of the questions has one of its own."""
    segment, _ = kept
    old = segment.with_name(f".{segment.name}.of an earlier release.npz")
    old.write_bytes(b"")
    os.utime(old, ns=(1, 1))
    monkeypatch.setattr(trace_rows, "MOST_CACHES", 2)
    for share in (0.5, 0.25):
        read(segment, share=share)
        assert len(caches(segment.parent)) == 2
    assert not old.exists()
    assert read(segment)[1].cached == 0
    monkeypatch.setattr(trace_rows, "_read_chunk", forbidden)
    assert read(segment, share=0.25)[1].cached == 1


def test_several_processes_read_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [write(tmp_path, synthetic_episodes(2, seed)) for seed in range(3)]
    with files[1].open("ab") as file:
        file.write(b'\n{"torn": ')
    expected, told = read(files, cached=False)
    monkeypatch.setattr(trace_rows, "WORTH_PROCESSES", 1)
    got, report = read(files, processes=2)
    assert same(got, expected)
    assert report.problems == told.problems
    assert report.cached == 0
    monkeypatch.setattr(trace_rows, "make_pool", forbidden)
    assert read(files, processes=2)[1].cached == 3


def test_references_and_graders_may_change_after_caching(tmp_path: Path) -> None:
    episodes = list(synthetic_episodes(4))
    unknown = [e.model_copy(update={"reference": None}) for e in episodes[:3]]
    write(tmp_path, [*unknown, episodes[3]])
    known, report = read(tmp_path)
    assert report.dropped == {"no reference": 3}
    assert known.episodes == [episodes[3].id]
    labels = {e.id: str(e.reference) for e in episodes[:2]}
    joined, report = read(tmp_path, labels={**labels, "nobody": "5"})
    assert report.unused_labels == 1
    assert "1 labels are of no episode that was read" in str(report)
    assert report.cached == 1
    assert report.dropped == {"no reference": 1}
    assert joined.episodes == [episodes[i].id for i in (0, 1, 3)]
    assert same(joined, make_groups([episodes[i] for i in (0, 1, 3)], exactly))

    everything, report = read(tmp_path, labels=labels, grader=lambda a, b: True)
    assert report.cached == 1
    assert everything.correct.sum() > joined.correct.sum()
    other = read(tmp_path, labels={episodes[3].id: "nothing of the kind"})[0]
    assert not other.correct.any()  # a label goes before the episode's own reference


def test_a_rule_of_ones_own_is_refused(tmp_path: Path) -> None:
    [plain] = synthetic_episodes(1, consensus="majority")
    options = {**plain.options, "consensus": "of_my_own"}
    write(tmp_path / "own", [plain.model_copy(update={"options": options})])
    with pytest.raises(ConfigurationError, match="'of_my_own', which is not built in"):
        read(tmp_path / "own")


def test_records_of_version_1_are_read(tmp_path: Path) -> None:
    episodes = list(synthetic_episodes(3))
    records = [orjson.loads(episode.to_json()) for episode in episodes]
    old = [
        {k: v for k, v in {**r, "schema_version": 1}.items() if k != "interventions"}
        for r in records
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n" + b"\n".join(map(orjson.dumps, old)))
    assert same(read(tmp_path)[0], make_groups(episodes, exactly))


def test_rows_of_any_kind_are_read(tmp_path: Path) -> None:
    write(tmp_path, synthetic_episodes(2))
    rows = read_rows(tmp_path, "", lambda e: trace_rows.Row({"n": np.ones((1, 2))}, {"id": e.id}))
    assert rows.arrays["n"].shape == (2, 2)
    assert len(rows.texts["id"]) == 2
    assert not caches(tmp_path)


# --- the report -----------------------------------------------------------------------------


def test_what_is_dropped_is_reported(tmp_path: Path) -> None:
    first, second, third = synthetic_episodes(3)
    odd = orjson.loads(second.to_json())
    bad = {
        "unreadable": [
            second.to_json()[:-9],
            b"\x00\xff",
            b"[]",
            b'{"schema_version": 99}',
            b'{"schema_version": 1, "id": "x"}',
            orjson.dumps({**odd, "question": 5}),
            orjson.dumps({**odd, "agents": 7}),
        ],
        "contradictory": [
            orjson.dumps({**odd, "turns": [{**odd["turns"][0], "agent": "nobody"}]}),
            orjson.dumps({**odd, "turns": [*odd["turns"], odd["turns"][0]]}),
        ],
    }
    own = odd["turns"][0]["observation"]["own"]
    odd["turns"][0]["observation"]["own"] = [None, *own[1:]]
    bad["unreadable"].append(orjson.dumps(odd))
    lines = [line for group in bad.values() for line in group]
    segment = tmp_path / "a.jsonl"
    segment.write_bytes(b"\n" + b"\n".join([first.to_json(), *lines, third.to_json()]))
    write(tmp_path / "b", [third, first, second])
    paths = [tmp_path, tmp_path / "b", segment]
    for cached in (0, 2):
        got, report = read(paths)
        assert (report.segments, report.cached) == (2, cached)
        assert report.dropped == {reason: len(group) for reason, group in bad.items()}
        assert (report.episodes, report.duplicates, report.groups) == (3, 2, 27)
        assert got.episodes == [third.id, first.id, second.id]
        assert [int(re.findall(r"a\.jsonl:(\d+): ", p)[0]) for p in report.problems] == list(
            range(3, 13)
        )
        assert "torn record" in report.problems[0]
        assert "Field required" in report.problems[4]
        assert "valid string" in report.problems[5]
        assert "turns of nobody" in report.problems[8]
        assert "8 unreadable, 2 contradictory" in str(report)
        assert "2 duplicates" in str(report)


def test_what_only_bears_the_name_of_a_segment_is_reported(tmp_path: Path) -> None:
    write(tmp_path, synthetic_episodes(2))
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "nowhere")
    for cached in (0, 1):
        _, report = read(tmp_path)
        assert (report.episodes, report.cached) == (2, cached)
        assert report.dropped == {"unreadable": 2}
        assert sum("not a file" in problem for problem in report.problems) == 2


def test_the_last_record_of_an_id_counts(tmp_path: Path) -> None:
    old, other = synthetic_episodes(2)
    later = old.model_copy(update={"question": "As it ended"})
    write(tmp_path / "a", [old, other])
    write(tmp_path / "b", [later])
    for _ in ("read", "cached"):
        got, report = read(tmp_path)
        assert got.episodes == [other.id, old.id]
        assert got.questions[-1] == "As it ended"
        assert old.question not in got.questions or old.question == other.question
        assert report.duplicates == 1


def test_only_the_first_problems_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([b"{"] * 50))
    _, report = read(tmp_path)
    assert report.dropped == {"unreadable": 50}
    assert len(report.problems) == trace_rows.MOST_PROBLEMS


def test_paths(tmp_path: Path) -> None:
    a = write(tmp_path, synthetic_episodes(1, 1))
    (tmp_path / "notes.txt").write_text("")
    assert find_segments(tmp_path) == find_segments(str(tmp_path)) == find_segments([a, tmp_path])
    assert find_segments([]) == []
    with pytest.raises(TraceError, match="no such file or folder"):
        read([tmp_path, tmp_path / "gone"])


def test_progress(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, synthetic_episodes(1))
    for _ in range(2):
        read(tmp_path, progress=True)
        shown = capsys.readouterr().err
        assert "traces: 100%" in shown
    read(tmp_path)
    assert capsys.readouterr().err == ""


# --- the split ------------------------------------------------------------------------------


def asked(questions: list[str], copies: int = 1) -> Groups:
    """Groups that know nothing but their question."""
    count = len(questions) * copies
    arrays = {name: np.zeros((count, 1), np.int8) for name in _ARRAYS}
    arrays["question"] = np.tile(np.arange(len(questions)), copies)
    fields: Any = {**arrays, "questions": questions, "episodes": [], "agents": []}
    return Groups(**fields)


def questions_in(part: Groups) -> set[str]:
    return {part.questions[i] for i in part.question}


@given(
    st.lists(st.text(), unique=True, min_size=1, max_size=20),
    st.integers(0, 5),
    st.floats(0, 1),
    st.randoms(use_true_random=False),
)
def test_split_is_by_question_and_stable(
    questions: list[str], seed: int, share: float, rng: Any
) -> None:
    train, validation = split(asked(questions, 3), share, seed)
    assert len(train) + len(validation) == 3 * len(questions)
    held_out = questions_in(validation)
    assert not questions_in(train) & held_out
    # In another order, with others beside them: each stays where it was.
    more = [*questions, "one more question"] if "one more question" not in questions else questions
    rng.shuffle(more := list(more))
    assert questions_in(split(asked(more), share, seed)[1]) & set(questions) == held_out


def test_split_shares_and_seeds() -> None:
    many = asked([f"question {i}" for i in range(2000)])
    sizes = [len(split(many, 0.2, seed)[1]) for seed in range(3)]
    assert all(330 < size < 470 for size in sizes)  # 400 expected, standard deviation 18
    parts = [questions_in(split(many, 0.2, seed)[1]) for seed in range(2)]
    assert parts[0] != parts[1]
    assert [len(split(many, share)[1]) for share in (0.0, 1.0)] == [0, 2000]
    fixed = questions_in(split(asked([f"question {i}" for i in range(30)]))[1])
    assert fixed == {"question 25", "question 26"}  # in every run and on every machine
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(ConfigurationError, match="validation"):
            split(many, wrong)


# --- too many ---------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
def test_of_too_many_turns_a_share_of_the_questions_is_read(tmp_path: Path, packed: bool) -> None:
    made = list(synthetic_episodes(60, 5))  # of nine turns each
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(e.to_json(packed=packed) for e in made) + b"\n")
    assert [share_of(tmp_path, most) for most in (10**6, 1000, 300, 150)] == [1, 1, 0.5, 0.25]
    whole, _ = read(tmp_path)
    found = {share: read(tmp_path, share=share) for share in (0.5, 0.25)}
    for share, (groups, report) in found.items():
        assert groups.questions == [q for q in whole.questions if is_drawn(q, share)]
        assert report.episodes + report.left_out == 60
        assert 0.5 * share < report.episodes / 60 < 1.5 * share
        again, from_cache = read(tmp_path, share=share)
        assert same(again, groups)
        assert (from_cache.cached, from_cache.left_out) == (1, report.left_out)
        assert f"{report.left_out} of other questions left out" in str(report)
    assert set(found[0.25][0].questions) < set(found[0.5][0].questions)
    assert same(read(tmp_path)[0], whole)


def test_the_turns_are_counted_all_over_a_segment(tmp_path: Path) -> None:
    made = [*synthetic_episodes(60, 5)]  # of nine turns each
    early = [e.model_copy(update={"turns": []}) for e in synthetic_episodes(20, 6)]
    lines = [e.to_json(packed=True) for e in [*early, *made]]  # what settles at once ends first
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    assert [share_of(tmp_path, most) for most in (10**6, 300, 150)] == [1, 0.5, 0.25]


def test_a_torn_record_of_no_known_question_is_counted(tmp_path: Path) -> None:
    write(tmp_path, synthetic_episodes(3, 5))
    [segment] = tmp_path.glob("*.jsonl")
    segment.write_bytes(segment.read_bytes() + b'{"schema_version":5,"id":"x","quest\n')
    assert read(tmp_path, share=0.5)[1].dropped == {"unreadable": 1}
