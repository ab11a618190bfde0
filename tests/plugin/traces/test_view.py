"""The page of the traces: what it holds, what it survives, and how it opens in a browser."""

import base64
import hashlib
import html.parser
import os
import re
import shutil
import tempfile
import webbrowser
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpdf_langgraph.errors import TraceError
from mpdf_langgraph.state import Consensus, Turn
from mpdf_langgraph.traces.records import SCHEMA_VERSION, Episode
from mpdf_langgraph.traces.view.__main__ import main
from mpdf_langgraph.traces.view.page import SCRIPTS, write_page
from mpdf_langgraph.traces.writer import TraceWriter
from tests.support.paths import ROOT
from tests.support.records import critique, failure, response, usage
from tests.support.running import run_python
from tests.support.synthetic import synthetic_episodes

PAGE = ROOT / "mpdf_langgraph/traces/view/assets"
ATTACK = (
    "</script><script>window.attacked = 1</script><img src=x onerror='attacked = 2'>"
    "<!--<script>{{index}} ]]> \u2028 </textarea></title><svg onload=attacked=3> &lt;b&gt;"
)


def turn(agent: str, round_: int, action: str, before: str, after: str, **fields: Any) -> Turn:
    plain: dict[str, Any] = {
        "agent": agent,
        "round": round_,
        "observation": {"own": [0.123456789], "peers": [[0.987654321]]},
        "mask": [True, True, True],
        "probabilities": [0.5, 0.3, 0.2],
        "action": action,
        "before": before,
        "after": after,
        "target": None,
        "alternatives": [],
        "blocked": None,
    }
    return Turn(**{**plain, **fields})  # type: ignore[typeddict-item]


def tally(
    cluster: int | None, answer: str | None, response_: str | None, **votes: int
) -> Consensus:
    return Consensus(
        answer=answer,
        cluster=cluster,
        response=response_,
        support=0.5,
        votes=dict(votes),
        weights=dict.fromkeys(votes, 1.0),
        tie=False,
    )


def episode(id_: str = "e1", **fields: Any) -> Episode:
    """Two agents, one round: ann is wrong and concedes to bob, who refines and stays right.

    Bob has drawn an alternative, and something failed.
    """
    ann = response("ann", 0, 0.25, text="I say 7.", answer="7", usage=usage(1, 10, 5), seconds=0.5)
    bob = response("bob", 1, 0.75, text="It is 42.", answer="42", usage=usage(1, 20, 5))
    again = response("bob", 1, 1.0, round_=1, text="Still 42.", answer="42", usage=usage(1, 30, 5))
    again["critique"] = critique(1.0, {"self": 0.9}, usage(1, 40, 1))
    other = response("bob", 0, 0.5, round_=1, id="bob@1+1", text="Or 7?", answer="7")
    other["usage"] = usage(1, 100, 11)
    plain: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "id": id_,
        "started": 1.7e9,
        "graph": "deliberation",
        "question": "What is 6 * 7?",
        "reference": "42",
        "contexts": {"bob": "six sevens are forty-two"},
        "history": [{"role": "human", "text": "Hello."}],
        "agents": [{"name": "ann", "model": "m"}, {"name": "bob", "model": None}],
        "options": {"router": {"name": "threshold", "version": "1"}, "answer": "math"},
        "responses": {r["id"]: r for r in (ann, bob, again, other)},
        "turns": [
            turn("ann", 1, "CONCEDE", "ann@0", "bob@0", target="bob@0"),
            turn("bob", 1, "REFINE", "bob@0", "bob@1", alternatives=["bob@1+1"]),
        ],
        "failures": [failure("ann", "refine", usage(1, 1000, 0), 1)],
        "representatives": ["7", "42"],
        "tallies": [tally(0, "7", "ann@0", ann=0, bob=1), tally(1, "42", "bob@1", ann=1, bob=1)],
        "outcome": {"stop_reason": "agreement", "seconds": 1.25},
    }
    return Episode(**{**plain, **fields})


def proposals(answers: list[str], reference: str | None, schema: str, **fields: Any) -> Episode:
    """One agent for every answer, and every answer a cluster of its own."""
    held = {f"a{i}": response(f"a{i}", i, answer=a, text=a) for i, a in enumerate(answers)}
    return episode(
        agents=[{"name": name} for name in held],
        responses={r["id"]: r for r in held.values()},
        representatives=answers,
        turns=[],
        failures=[],
        reference=reference,
        options={"answer": schema},
        tallies=[tally(0, answers[0], "a0@0", **{n: i for i, n in enumerate(held)})],
        **fields,
    )


class Document(html.parser.HTMLParser):
    """The tags of a page, in order, and the contents of its scripts and its style."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: dict[str, str] = {}
        self.policy = ""
        self._inside: str | None = None
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        known = dict(attributes)
        self.tags.append(tag)
        if tag in ("script", "style"):
            self._inside = known.get("id") or tag
        elif known.get("http-equiv") == "Content-Security-Policy":
            self.policy = known["content"] or ""

    def handle_endtag(self, tag: str) -> None:
        self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.texts[self._inside] = self.texts.get(self._inside, "") + data

    def unpacked(self, name: str) -> Any:
        return orjson.loads(zlib.decompress(base64.b64decode(self.texts[name], validate=True)))

    @property
    def rows(self) -> list[dict[str, Any]]:
        columns = self.unpacked("index")["columns"]
        return [
            dict(zip(columns, values, strict=True))
            for values in zip(*columns.values(), strict=True)
        ]

    @property
    def episodes(self) -> list[dict[str, Any]]:
        return [self.unpacked(f"block-{row['block']}")[row["place"]] for row in self.rows]


def traces(folder: Path, *episodes: Episode | bytes) -> Path:
    lines = [e if isinstance(e, bytes) else e.to_json() for e in episodes]
    (folder / "traces").mkdir(exist_ok=True)
    (folder / "traces" / "0.jsonl").write_bytes(b"\n".join(lines))
    return folder / "traces"


def written(folder: Path, *episodes: Episode | bytes) -> Document:
    write_page(traces(folder, *episodes), folder / "page.html")
    return Document(folder / "page.html")


# --- what it holds --------------------------------------------------------------------------


def test_a_row_says_the_course_of_an_episode(tmp_path: Path) -> None:
    [row] = written(tmp_path, episode()).rows
    assert row == {
        "id": "e1",
        "question": "What is 6 * 7?",
        "answer": "42",
        "answers": "7\n42",
        "reference": "42",
        "started": 1_700_000_000,
        "agents": 2,
        "held": "01/11",
        "moves": "CR",
        "votes": "01",
        "ties": 0,
        "right": "01",
        "prompt": 10 + 20 + 30 + 40 + 1000,  # with the critique and the failure
        "completion": 5 + 5 + 5 + 1,
        "learning": 111,
        "seconds": 1.25,
        "failures": 1,
        "router": "threshold",
        "stop": "agreement",
        "marks": [500, 1501, 2001],  # alternatives are not of the deliberation
        "block": 0,
        "place": 0,
    }


def test_an_episode_is_all_there_but_for_the_observations(tmp_path: Path) -> None:
    original = episode()
    [shown] = written(tmp_path, original).episodes
    assert shown["responses"] == original.responses
    assert shown["contexts"] == original.contexts
    assert shown["history"] == original.history
    assert [t.keys() | {"observation"} for t in shown["turns"]] == [
        t.keys() for t in original.turns
    ]
    assert "observation" not in shown["turns"][0]
    assert shown["held"] == [["ann@0", "bob@0"], ["bob@0", "bob@1"]]
    assert shown["right"] == [False, True]


def test_many_episodes_lie_in_several_blocks(tmp_path: Path) -> None:
    originals = list(synthetic_episodes(60, agents=4, rounds=4))
    document = written(tmp_path, *originals)
    assert document.rows[-1]["block"] > 1
    assert [e["id"] for e in document.episodes] == [e.id for e in originals]
    assert [e["responses"] for e in document.episodes] == [e.responses for e in originals]


def test_failed_proposals_and_unknown_clusters_leave_gaps(tmp_path: Path) -> None:
    lone = response("bob", None, None)
    [row] = written(
        tmp_path,
        episode(responses={"bob@0": lone}, turns=[], tallies=[tally(None, None, None)]),
    ).rows
    assert (row["held"], row["votes"], row["moves"], row["marks"]) == ("--", "-", "", [])


def test_a_round_may_pass_without_turns(tmp_path: Path) -> None:
    """As in imported tables of answers: they were counted again, and nobody had moved."""
    [row] = written(tmp_path, episode(turns=[], tallies=[episode().tallies[0]] * 3)).rows
    assert (row["held"], row["moves"], row["votes"]) == ("01/01/01", "--/--", "000")


@pytest.mark.parametrize(
    ("schema", "answers", "reference", "right"),
    [
        ("math", ["0.5", "1/3", r"\frac{1}{2}"], "1/2", "101"),
        ("math", ["2x+x", "x^3"], "3x", "10"),  # for math-verify
        ("choice(4)", ["B", "C"], "b", "10"),
        ("text", ["The Eiffel Tower.", "Louvre"], "eiffel tower", "10"),
        ("text", ["1/2", "0.5"], "0.5", "01"),
        ("dates", ["3 May", "4 May"], "4 may", "01"),  # a schema of one's own: by its text
        ("code", ["def f(): pass"], "[tests]", None),  # not to be known without running it
        ("math", ["1"], None, None),
    ],
)
def test_answers_are_graded_by_their_schema(
    tmp_path: Path, schema: str, answers: list[str], reference: str | None, right: str | None
) -> None:
    assert written(tmp_path, proposals(answers, reference, schema)).rows[0]["right"] == right


def test_a_cluster_that_a_judge_made_is_right_with_any_of_its_answers(tmp_path: Path) -> None:
    one = response("ann", 0, answer="Big Apple")
    other = response("bob", 0, answer="New York")
    judged = {
        "responses": {"ann@0": one, "bob@0": other},
        "representatives": ["Big Apple"],
        "turns": [],
        "tallies": [tally(0, "Big Apple", "ann@0", ann=0, bob=0)],
        "reference": "new york",
    }
    for schema, right in (("text", "1"), ("math", "0")):
        record = episode(**judged, options={"answer": schema})
        assert written(tmp_path, record).rows[0]["right"] == right


def test_what_only_looks_like_an_outcome_is_survived(tmp_path: Path) -> None:
    """Options, agents and the outcome may hold anything that is JSON."""
    odd = episode(
        options={"router": ["x"], "answer": {"a": 1}},
        outcome={"seconds": "long", "stop_reason": {"why": None}},
        agents=[{"name": "ann", "model": {"x": 2**70}}, {"name": "bob"}],
    )
    document = written(tmp_path, odd)
    assert document.rows[0]["seconds"] is None
    assert document.episodes[0]["agents"][0]["model"] == {"x": pytest.approx(2**70)}


# --- data stays data ------------------------------------------------------------------------


def hostile(text: str) -> Episode:
    """An episode that bears `text` wherever a record has room for it."""
    record = episode(text, question=text, reference=text, graph=text).model_dump()
    plain = orjson.dumps(record).decode()
    record = orjson.loads(plain)
    record |= {
        "contexts": {"bob": text, text: text},
        "history": [{"role": text, "text": text}],
        "representatives": [text, text + "2"],
        "options": {"answer": text, text: text, "router": {"name": text}},
        "outcome": {"stop_reason": text, text: text},
    }
    record["agents"][0] |= {"model": text, text: text}
    record["failures"][0]["error"] = text
    for one in record["responses"].values():
        one |= {"text": text, "answer": text, "finish_reason": text, "model": text}
        one["critique"] |= {"source": text, "scores": {text: 0.5}}
    for vote in record["tallies"]:
        vote["answer"] = text
    return Episode(**record)


def test_no_text_becomes_markup(tmp_path: Path) -> None:
    harmless, attacked = tmp_path / "harmless", tmp_path / "<b>{{script}}&amp;"
    for folder in (harmless, attacked):
        folder.mkdir()
    quiet, loud = written(harmless, episode()), written(attacked, hostile(ATTACK))
    assert loud.tags == quiet.tags
    assert loud.texts["script"] == quiet.texts["script"]
    assert "attacked" not in (attacked / "page.html").read_text(encoding="utf-8")
    assert loud.episodes[0]["responses"]["ann@0"]["text"] == ATTACK


@settings(max_examples=30)
@given(st.text(), st.text())
def test_any_text_comes_through_unchanged(text: str, question: str) -> None:
    said = response("ann", 0, text=text)
    record = episode(
        question=question,
        responses={"ann@0": said},
        turns=[],
        tallies=[tally(0, "7", "ann@0", ann=0)],
    )
    with tempfile.TemporaryDirectory() as folder:
        document = written(Path(folder), record)
    assert document.tags.count("script") == 3
    assert document.episodes[0]["responses"]["ann@0"]["text"] == text
    assert document.episodes[0]["question"] == question


def test_the_policy_lets_nothing_run_but_the_page_s_own(tmp_path: Path) -> None:
    document = written(tmp_path, episode())
    directives = dict(part.strip().split(" ", 1) for part in document.policy.split(";"))
    for kind in ("script", "style"):
        digest = hashlib.sha256(document.texts[kind].encode()).digest()
        assert directives[f"{kind}-src"] == f"'sha256-{base64.b64encode(digest).decode()}'"
    assert directives["default-src"] == "'none'"
    assert directives["trusted-types"] == "'none'"
    assert "unsafe" not in document.policy
    source = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert not re.search(r"\b(src|href)\s*=|@import|\burl\((?!#)", source)


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_script_makes_markup_of_text(name: str) -> None:
    source = (PAGE / name).read_text(encoding="utf-8")
    assert not re.search(
        r"(inner|outer)HTML|insertAdjacent|document\.write|\beval\b|Function\(|DOMParser|fetch\(",
        source,
    )


# --- torn, invalid, twice -------------------------------------------------------------------


def broken(**fields: Any) -> bytes:
    """A record of the right form that does not hang together."""
    return orjson.dumps({**episode(f"broken-{'-'.join(fields)}").model_dump(), **fields})


BROKEN = {
    "torn": episode().to_json()[:-40],
    "no JSON": b"hello",
    "other version": orjson.dumps({**episode().model_dump(), "schema_version": 99}),
    "nameless agent": broken(agents=[{"model": "m"}]),
    "no agents": broken(agents=[]),
    "unknown agent": broken(turns=[turn("eve", 1, "PERSIST", "ann@0", "ann@0")]),
    "unknown response": broken(turns=[turn("ann", 1, "PERSIST", "ann@0", "ann@9")]),
    "no tallies": broken(tallies=[]),
    "cluster out of range": broken(representatives=["7"]),
    "a round without a tally": broken(turns=[turn("ann", 10**9, "PERSIST", "ann@0", "ann@0")]),
}


@pytest.mark.parametrize("record", BROKEN.values(), ids=BROKEN)
def test_a_broken_record_is_counted_and_the_others_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], record: bytes
) -> None:
    folder, out = traces(tmp_path, record, episode("good")), tmp_path / "page.html"
    assert main([str(folder), "--out", str(out)]) == 0
    document = Document(out)
    assert [row["id"] for row in document.rows] == ["good"]
    about = document.unpacked("index")["about"]
    assert about["unreadable_count"] == len(about["unreadable"]) == 1
    told = capsys.readouterr().err.splitlines()
    assert told[0] == f"left out: {about['unreadable'][0]}"
    assert "1 episodes" in told[1]
    assert "1 torn or invalid records left out" in told[1]


def test_the_last_record_of_an_id_is_shown(tmp_path: Path) -> None:
    folder, out = traces(tmp_path, episode(), episode(question="As it ended")), tmp_path / "p.html"
    assert write_page(folder, out).duplicates == 1
    [row] = Document(out).rows
    assert row["question"] == "As it ended"


def test_duplicates_are_counted_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = traces(tmp_path, *[episode()] * 3), tmp_path / "page.html"
    report = write_page(folder, out)
    assert (report.episodes, report.duplicates, report.unreadable) == (1, 2, [])
    assert report.size == out.stat().st_size
    assert main([str(folder), "--out", str(out)]) == 0
    assert "2 duplicates left out" in capsys.readouterr().err


def test_episodes_in_sub_folders_are_shown(tmp_path: Path) -> None:
    for folder in ("vote", "debate/again"):
        TraceWriter(tmp_path / folder).write(episode(folder.replace("/", "-")))
    assert write_page(tmp_path, tmp_path / "page.html").episodes == 2


def test_many_broken_records_do_not_flood_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = traces(tmp_path, *[b"{torn"] * 500), tmp_path / "page.html"
    assert main([str(folder), "--out", str(out)]) == 0
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 7
    assert "495 more" in told[5]
    about = Document(out).unpacked("index")["about"]
    assert (about["unreadable_count"], len(about["unreadable"])) == (500, 200)


# --- the command ----------------------------------------------------------------------------


def test_errors_say_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty, out = tmp_path / "empty", tmp_path / "page.html"
    empty.mkdir()
    good = traces(tmp_path, episode())
    for source, target, words in (
        (tmp_path / "nowhere", out, "no such file or folder"),
        (empty, out, "give the folder that the graph's traces= names"),
        (good, tmp_path / "missing" / "page.html", "cannot make"),
    ):
        assert main([str(source), "--out", str(target)]) == 1
        assert words in capsys.readouterr().err
        assert not target.exists()
    with pytest.raises(SystemExit, match="2"):
        main([str(good), "--out", str(good / "0.jsonl")])
    assert "name it so (*.html)" in capsys.readouterr().err


def test_a_page_is_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = traces(tmp_path, episode()), tmp_path / "page.html"
    out.write_text("the older one")

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(TraceError, match="No space left"):
            write_page(folder, out)
    assert out.read_text() == "the older one"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["page.html", "traces"]
    write_page(folder, out)
    assert Document(out).rows


def test_help_tells_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    told = capsys.readouterr().out
    for word in ("traces", "--out", "--open", "example:", "private contexts"):
        assert word in told


def test_it_opens_in_the_browser_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[str] = []

    def open_(address: str) -> bool:
        opened.append(address)
        return len(opened) == 1

    monkeypatch.setattr(webbrowser, "open", open_)
    monkeypatch.chdir(tmp_path)
    folder = traces(tmp_path, episode())
    assert main([str(folder)]) == 0
    assert not opened
    assert main([str(folder), "--open"]) == 0
    assert opened == [(tmp_path / "episodes.html").as_uri()]
    assert "no browser found" not in capsys.readouterr().err
    assert main([str(folder), "--open"]) == 0
    assert "no browser found" in capsys.readouterr().err


def test_it_runs_as_a_module_and_is_not_loaded_otherwise(tmp_path: Path) -> None:
    folder, out = traces(tmp_path, episode()), tmp_path / "page.html"
    words = ("-m", "mpdf_langgraph.traces.view.page", folder, "--out", out)
    done = run_python("-W", "error", *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    code = "import sys, mpdf_langgraph; print('mpdf_langgraph.traces.view.page' in sys.modules)"
    assert run_python("-c", code).stdout.strip() == "False"


# --- in a browser ---------------------------------------------------------------------------

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


class Opened:
    """A page open in a browser, with all that it complained of and asked for."""

    def __init__(self, tab: Any, path: Path) -> None:
        self.tab, self.complaints, self.requests = tab, [], []
        tab.on("console", lambda m: self.complaints.append(f"{m.type}: {m.text}"))
        tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        tab.on("dialog", lambda dialog: self.complaints.append(f"dialog {dialog.message}"))
        tab.on("request", lambda request: self.requests.append(request.url))
        self.address = path.as_uri()
        tab.goto(self.address)
        tab.wait_for_selector(".lattice, #episode p")

    def text(self, selector: str) -> str:
        return str(self.tab.inner_text(selector))

    def rows(self) -> list[str]:
        return list(self.tab.locator(".row .row-question").all_inner_texts())

    def counted(self, words: str) -> None:
        self.tab.wait_for_function(
            "w => document.getElementById('count').innerText === w", arg=words
        )

    def focused(self) -> str:
        return str(self.tab.evaluate("document.activeElement.id"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []  # as root it has none
    with playwright.sync_playwright() as runner:
        started = runner.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield started
        started.close()


Open = Callable[..., Opened]


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Open]:
    pages: list[Opened] = []

    def open_(*episodes: Episode | bytes, path: Path | None = None, **options: Any) -> Opened:
        if path is None:
            path = tmp_path / "page.html"
            write_page(traces(tmp_path, *episodes), path)
        size = {"width": 1366, "height": 768}
        pages.append(Opened(browser.new_page(**{"viewport": size} | options), path))
        return pages[-1]

    yield open_
    for page in pages:
        page.tab.close()
        assert page.complaints == []
        assert page.requests == [page.address]


WRONG = episode("e2", question="And 7 * 8?", reference="56", options={"answer": "math"})
OPEN = episode("e3", question="Anything else?", reference=None, failures=[])


def test_it_opens_from_disk(opened: Open) -> None:
    page = opened(episode(), WRONG, OPEN)
    assert page.rows() == ["What is 6 * 7?", "And 7 * 8?", "Anything else?"]
    page.counted("3 episodes")
    assert "What is 6 * 7?" in page.text(".head")
    assert page.text("#cell-0-0").split() == ["A", "7", "✗", "0.25", "PROPOSE"]
    assert page.text("#cell-0-1").split() == ["B", "42", "⚠", "✓", "0.75", "CONCEDE", "20", "%"]
    assert page.text("#cell-1-1").split() == ["B", "42", "✓", "1.00", "REFINE", "30", "%"]
    kinds = page.tab.locator(".link").evaluate_all("all => all.map(e => e.classList[1])")
    assert kinds == ["l-CONCEDE", "l-REFINE"]
    label = page.tab.get_attribute("#cell-0-1", "aria-label")
    assert label == (
        "ann, round 1, CONCEDE with probability 20\u202f%, holds 42, right, confidence 75\u202f%, "
        "something failed"
    )
    assert page.tab.locator("#unreadable").is_hidden()


def test_it_tells_who_was_not_asked_and_what_a_decision_rests_on(opened: Open) -> None:
    told = {"asked": ["ann"], "leader": 1, "runner_up": 0, "gain": 0.01, "price": 0.03}
    stopped = {"action": "STOP", "next": [], "waiting": ["bob"], "why": "it was right"}
    rests = {"p": 0.25, "h": 0.5, "d": 0.125, "q": 0.75, "refine": 0.1, "concede": 0.5, "price": 0}
    ann = turn("ann", 1, "PERSIST", "ann@0", "ann@0") | {"estimates": rests}
    page = opened(
        episode(
            recruits=[{**told, **stopped}],
            turns=[ann],
            failures=[],
            tallies=[tally(0, "7", "ann@0", ann=0), tally(0, "7", "ann@0", ann=0)],
            responses={"ann@0": response("ann", 0, 0.25, text="I say 7.", answer="7")},
        )
    )
    assert "NOT" in page.text("#cell-1-0").split()
    assert "not asked: bob: the votes stood 1 to 0" in page.text(".head")
    page.tab.click("#cell-0-1")
    assert "h, REFINE mends a wrong answer: 0.500" in page.text("#detail")
    page.tab.click("#cell-1-1")
    assert "It was not asked." in page.text("#detail")


def test_totals_follow_the_filter(opened: Open) -> None:
    page = opened(episode(), WRONG, OPEN)
    # Of two graded episodes: ann and bob alone are right once in four, the first votes never.
    right = page.tab.locator(".card").nth(0).inner_text()
    assert re.findall(r"([\d.]+)\u202f%", right) == ["25.0", "0", "50.0"]
    assert "1 rescued, 0 spoiled" in right
    assert "2 of 3 have a reference" in right
    assert page.tab.locator(".card .stack").nth(0).get_attribute("aria-label") == (
        "PERSIST 0.0\u202f%, REFINE 50.0\u202f%, CONCEDE 50.0\u202f%"
    )
    labels = page.tab.locator(".chart").evaluate_all("all => all.map(e => e.ariaLabel)")
    assert labels == [
        "By round: agreement 50\u202f%, 100\u202f%; group right 0\u202f%, 50\u202f%",
        "Calibration: "
        + "; ".join(
            f"confidence {confidence}\u202f%: {right}\u202f% right of 2"
            for confidence, right in ((25, 0), (75, 50), (100, 50))
        ),
    ]
    page.tab.select_option("#result", "right")
    page.counted("1 of 3 episodes")
    right = page.tab.locator(".card").nth(0).inner_text()
    assert re.findall(r"([\d.]+)\u202f%", right) == ["50.0", "0", "100"]
    cost = page.tab.locator(".card").nth(4).inner_text()
    assert "1.12K tokens an episode" in cost.replace("\n", " ")
    assert "111 drawn to learn from" in cost


@pytest.mark.parametrize(
    ("filters", "shown"),
    [
        ({"result": "rescued"}, ["What is 6 * 7?"]),
        ({"result": "wrong"}, ["And 7 * 8?"]),
        ({"result": "unknown"}, ["Anything else?"]),
        ({"result": "spoiled"}, []),
        ({"course": "failed"}, ["What is 6 * 7?", "And 7 * 8?"]),
        ({"course": "open"}, []),
        ({"course": "changed", "result": "wrong"}, ["And 7 * 8?"]),
        ({"router": "1"}, ["And 7 * 8?"]),  # the one whose router is not recorded
        ({"sort": "newest"}, ["What is 6 * 7?", "And 7 * 8?", "Anything else?"]),
        ({"sort": "tokens"}, ["What is 6 * 7?", "And 7 * 8?", "Anything else?"]),
    ],
)
def test_filters(opened: Open, filters: dict[str, str], shown: list[str]) -> None:
    page = opened(episode(), WRONG, OPEN)
    for name, value in filters.items():
        page.tab.select_option(f"#{name}", value)
    page.counted("3 episodes" if len(shown) == 3 else f"{len(shown)} of 3 episodes")
    assert page.rows() == shown
    if "sort" not in filters:
        page.tab.click("#reset")
        page.counted("3 episodes")


def test_search(opened: Open) -> None:
    page = opened(episode(), WRONG, OPEN)
    page.tab.keyboard.press("/")
    assert page.focused() == "search"
    page.tab.keyboard.type("IS what")  # every word, in any order and case
    page.counted("1 of 3 episodes")
    page.tab.fill("#search", "sevens are")  # only in what bob knows
    page.counted("0 of 3 episodes")
    page.tab.check("#said")
    page.counted("3 episodes")
    page.tab.fill("#search", "still else")
    page.counted("1 of 3 episodes")
    assert page.rows() == ["Anything else?"]


def test_a_click_shows_what_was_said(opened: Open) -> None:
    page = opened(episode(), WRONG)
    page.tab.click(".row:nth-child(2)")
    page.tab.wait_for_function("document.querySelector('.head').innerText.includes('7 * 8')")
    page.tab.click("#cell-0-1")
    detail = page.text("#detail")
    for words in (
        "It adopted a peer's answer.",
        "What it adopted from bob",
        "It is 42.",
        "refine failed: e",
    ):
        assert words in detail
    assert "six sevens are forty-two" in detail  # it stood in bob's prompt
    page.tab.click("#cell-1-1")
    assert "Still 42." in page.text("#detail")
    assert "self 0.900" in page.text("#detail")
    page.tab.click("text=1 alternative drawn only to learn from")
    assert "Or 7?" in page.text("#detail")
    page.tab.click("summary:has-text('ann: 7')")
    assert "I say 7." in page.text("#detail")


def test_everything_can_be_done_with_the_keyboard(opened: Open) -> None:
    page = opened(*(episode(f"e{i}", question=f"Question {i}") for i in range(50)))
    press, tab = page.tab.keyboard.press, page.tab
    tab.focus("#list")
    press("ArrowDown")
    press("ArrowDown")
    chosen = tab.get_attribute("#list", "aria-activedescendant")
    assert tab.get_attribute(f"#{chosen}", "aria-selected") == "true"
    assert "Question 2" in tab.inner_text(f"#{chosen}")
    press("End")
    tab.wait_for_function("document.querySelector('.head').innerText.includes('Question 49')")
    assert tab.locator("#row-49").is_visible()
    assert tab.url.endswith("#e49")
    press("Enter")
    assert page.focused() == "cell-1-1"  # whose response stands for the group's answer
    press("ArrowLeft")
    press("ArrowUp")
    press("ArrowUp")  # the edge
    assert page.focused() == "cell-0-0"
    assert "I say 7." in page.text("#detail")
    press("k")
    tab.wait_for_function("document.querySelector('.head').innerText.includes('Question 48')")
    press("Escape")
    assert page.focused() == "list"
    press("t")
    assert tab.locator("#totals").is_hidden()
    press("?")
    assert tab.locator("#keys").is_visible()
    press("Escape")
    assert tab.locator("#keys").is_hidden()


def test_an_address_leads_to_its_episode(opened: Open) -> None:
    page = opened(episode("a/b 1"), episode("two", question="Second"))
    page.tab.evaluate("location.hash = 'two'")
    page.tab.wait_for_function("document.querySelector('.head').innerText.includes('Second')")
    page.tab.evaluate("location.hash = encodeURIComponent('a/b 1')")
    page.tab.wait_for_function("document.querySelector('.head').innerText.includes('6 * 7')")


def test_a_hostile_answer_is_text(opened: Open) -> None:
    page = opened(hostile(ATTACK), b"{torn " + ATTACK.encode())
    for cell in ("#cell-0-0", "#cell-1-1", "#cell-0-1"):
        page.tab.click(cell)
        assert ATTACK in page.tab.evaluate("document.querySelector('.text').textContent")
    page.tab.evaluate("document.querySelectorAll('details').forEach(e => { e.open = true })")
    page.tab.click("#unreadable")
    page.tab.wait_for_timeout(200)
    assert page.tab.evaluate("window.attacked") is None
    assert page.tab.locator("img, iframe, object, article script").count() == 0
    # And were the page ever to make markup of text, the browser would refuse.
    with pytest.raises(Exception, match="TrustedHTML"):
        page.tab.evaluate("t => { document.body.innerHTML = t }", ATTACK)
    page.complaints.clear()  # of that refusal


def test_a_thought_is_there_to_unfold(opened: Open) -> None:
    shown = episode(attachments=["image"])
    shown.responses["ann@0"]["thought"] = "Six? No."
    shown.responses["bob@0"]["refused"] = True
    page = opened(shown)
    page.tab.click("#cell-0-0")
    folded = page.tab.locator("details", has_text="Six? No.")
    assert folded.count() == 1
    assert not folded.evaluate("e => e.open")
    assert "What is 6 * 7?\n[image]" in page.tab.evaluate("document.body.textContent")
    page.tab.click("#cell-1-0")
    assert "refused to answer" in page.text("#episode")
    assert page.tab.locator("details", has_text="Six? No.").count() == 0


def test_it_reports_what_was_left_out(opened: Open) -> None:
    page = opened(b"{torn", episode(), episode(), BROKEN["unknown response"])
    assert page.text("#unreadable") == "⚠ 2 records left out"
    page.tab.click("#unreadable")
    told = page.text("#problems")
    assert "2 records torn or invalid" in told
    assert "1 record of an episode that is here already" in told
    assert "0.jsonl:1: torn record" in told
    assert "ann@9" in told


def test_nothing_but_torn_records(opened: Open) -> None:
    page = opened(b"{torn")
    assert page.text("#count") == "No episodes"
    assert "No record in these traces could be read." in page.text("#episode")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_in_light_and_dark(opened: Open, scheme: str) -> None:
    page = opened(episode(), WRONG, color_scheme=scheme)
    weak = page.tab.evaluate(CONTRAST)
    assert weak == []
    page.tab.click("#theme")  # light, whatever the system has
    bright = page.tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert bright == "rgb(245, 245, 242)"


#: Every text on the page whose contrast to what is behind it is below 4.5.
CONTRAST = """() => {
  const pen = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const paint = (colours) => {
    pen.clearRect(0, 0, 1, 1);
    for (const colour of colours) { pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1); }
    return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (rgb) => {
    const [r, g, b] = rgb.map((v) => v / 255)
      .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const weak = [];
  for (const element of document.querySelectorAll('body *')) {
    const words = [...element.childNodes].filter((n) => n.nodeType === 3 && n.data.trim());
    if (!words.length || !element.checkVisibility()) continue;
    if (element.closest('svg, script, noscript, option')) continue;
    const behind = [];
    for (let e = element; e; e = e.parentElement) {
      behind.unshift(getComputedStyle(e).backgroundColor);
    }
    const colour = getComputedStyle(element).color;
    const [a, b] = [light(paint(behind)), light(paint([...behind, colour]))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) weak.push(`${words[0].data} (${element.className}) ${contrast.toFixed(2)}`);
  }
  return weak;
}"""


@pytest.mark.parametrize("width", [1024, 1366, 1920])
def test_nothing_sticks_out_on_a_laptop(opened: Open, width: int) -> None:
    page = opened(*synthetic_episodes(3), viewport={"width": width, "height": 768})
    assert page.tab.evaluate("document.documentElement.scrollWidth") <= width
    beyond = (
        "[...document.querySelectorAll('.cell > *')].filter(e => e.scrollWidth > e.clientWidth + 1)"
    )
    assert page.tab.evaluate(f"{beyond}.map(e => e.outerHTML)") == []
    if width >= 1366:  # all rounds in sight
        sight = "(e => e.scrollWidth <= e.clientWidth)(document.querySelector('.scroller'))"
        assert page.tab.evaluate(sight)


def test_ten_thousand_episodes_open_and_are_searched(
    browser: Any, opened: Open, tmp_path: Path
) -> None:
    with (tmp_path / "traces.jsonl").open("wb") as file:
        for one in synthetic_episodes(10_000, alternatives=0):
            file.write(one.to_json() + b"\n")
    path = tmp_path / "page.html"
    report = write_page(tmp_path / "traces.jsonl", path)
    assert report.episodes == 10_000
    assert report.size < (tmp_path / "traces.jsonl").stat().st_size / 5
    page = opened(path=path)
    page.counted("10,000 episodes")
    assert page.tab.locator(".row").count() < 40  # only what is in sight: that makes it fast
    page.tab.focus("#list")
    page.tab.keyboard.press("End")
    page.tab.wait_for_selector("#row-9999[aria-selected=true]")
    page.tab.wait_for_function("document.querySelector('.head').innerText.includes('270f')")
    page.tab.fill("#search", "270f")
    page.counted("1 of 10,000 episodes")
