"""The page: traces as one HTML file."""

import base64
import hashlib
import json
import re
import tempfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import IO, Any

import orjson

from mpdf_langgraph.answers.choice_answer import ChoiceAnswer
from mpdf_langgraph.answers.math_answer import MathAnswer
from mpdf_langgraph.answers.memory import cache_short
from mpdf_langgraph.answers.text_answer import TextAnswer
from mpdf_langgraph.errors import TraceError
from mpdf_langgraph.rounds import held_by_round
from mpdf_langgraph.runtime.budget import is_alternative
from mpdf_langgraph.state import Response, Usage, add_usage
from mpdf_langgraph.traces.reader import TraceReader
from mpdf_langgraph.traces.records import Episode

SCRIPTS = ("tools.js", "totals.js", "list.js", "episode.js", "main.js")

_BLOCK = 1 << 19  # bytes of JSON a block: unpacked in a few milliseconds

_EXCERPT = 1000  # characters of a question that the list shows and searches

_LISTED = 200  # unreadable records that the page names one by one


_NO_CLUSTER = "-"


@dataclass(frozen=True)
class PageSummary:
    """What is on the page.

    Attributes:
        episodes: Number of episodes on the page.
        duplicates: Number of records left out, as they repeat an episode.
        unreadable: Torn or invalid records, where and why, one line each.
        size: Size of the page in bytes.
    """

    episodes: int
    duplicates: int
    unreadable: list[str]
    size: int


def write_page(
    traces: Path, out: Path, *, progress: Callable[[int], None] = lambda count: None
) -> PageSummary:
    """Write the page of all episodes in `traces`.

    Args:
        traces: A folder of ``*.jsonl`` segments, sub-folders included, or one segment.
        out: The HTML file. An older one is replaced when the new one is complete.
        progress: Called after each episode with the number of episodes so far.

    Raises:
        TraceError: There is no such path, it holds no record at all, or `out` cannot be written.
    """
    reader = TraceReader(traces)
    try:
        with tempfile.TemporaryFile() as blocks:
            page = _Page(blocks)
            for episode in reader:
                page.add(episode)
                progress(len(page))
            unreadable = [" ".join(line.split()) for line in reader.skipped + page.unreadable]
            if not page and not unreadable:
                raise TraceError(
                    f"no episodes in {traces}: give the folder that the graph's traces= names"
                )
            duplicates = reader.counts["duplicate"]
            about = {"source": str(traces), "duplicates": duplicates, "unreadable": unreadable}
            size = page.write(out, about)
            return PageSummary(len(page), duplicates, unreadable, size)
    except OSError as error:
        raise TraceError(f"cannot make {out} of {traces}: {error}") from error


class _Page:
    """Takes episodes one by one and keeps only their index in memory.

    Args:
        blocks: Keeps their compressed blocks until the page is written.
    """

    def __init__(self, blocks: IO[bytes]) -> None:
        self.columns: dict[str, list[Any]] = defaultdict(list)
        self.unreadable: list[str] = []
        self._blocks = blocks
        self._open: list[bytes] = []
        self._number = 0

    def __len__(self) -> int:
        return len(self.columns["id"])

    def add(self, episode: Episode) -> None:
        """Add one episode. An inconsistent one is counted as unreadable."""
        try:
            holdings = _Holdings.of(episode)
            row = _row(episode, holdings)
            record = _dump(_record(episode, holdings))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            name = type(error).__name__
            self.unreadable.append(f"episode {episode.id}: inconsistent: {name}: {error}"[:500])
            return
        for name, value in {**row, "block": self._number, "place": len(self._open)}.items():
            self.columns[name].append(value)
        self._open.append(record)
        if sum(map(len, self._open)) >= _BLOCK:
            self._close_block()

    def write(self, out: Path, about: Mapping[str, Any]) -> int:
        """Write the page to a file beside it, then rename that. Return its size in bytes."""
        self._close_block()
        unreadable = about["unreadable"]
        about = {**about, "unreadable": unreadable[:_LISTED], "unreadable_count": len(unreadable)}
        head, tail = _template(_pack(_dump({"about": about, "columns": self.columns})))
        partial = out.with_name(f".{out.name}.partial")
        try:
            with partial.open("wb") as page:
                page.write(head)
                self._blocks.seek(0)
                while part := self._blocks.read(1 << 20):
                    page.write(part)
                size = page.tell() + page.write(tail)
            partial.replace(out)
        finally:
            partial.unlink(missing_ok=True)
        return size

    def _close_block(self) -> None:
        if not self._open:
            return
        packed = _pack(b"[" + b",".join(self._open) + b"]")
        self._blocks.write(
            b'<script type="text/plain" id="block-%d">%b</script>\n' % (self._number, packed)
        )
        self._open, self._number = [], self._number + 1


@dataclass(frozen=True)
class _Holdings:
    """Who held what after every round.

    Attributes:
        names: The agents, in the team's order.
        held: Id of the response each agent holds, by round (0 first) and position in the team.
        right: For every cluster, whether it is the reference answer. None: unknown.
        moves: First letters of the team's actions, by round (1 first).
    """

    names: Sequence[str]
    held: Sequence[Sequence[str | None]]
    right: Sequence[bool] | None
    moves: Sequence[str]

    @classmethod
    def of(cls, episode: Episode) -> "_Holdings":
        """Follow the turns.

        Raises:
            LookupError, ValueError: They name agents, responses or clusters that do not exist.
        """
        names = [str(agent["name"]) for agent in episode.agents]
        if not names:
            raise ValueError("no agents")
        rounds = len(episode.tallies) - 1
        if rounds < 0 or any(not 1 <= turn["round"] <= rounds for turn in episode.turns):
            raise ValueError("a turn of a round without a tally, or no tally at all")
        moves = [["-"] * len(names) for _ in range(rounds)]
        for turn in episode.turns:
            moves[turn["round"] - 1][names.index(turn["agent"])] = turn["action"][0]
        known = episode.responses
        held = [
            [response["id"] if response else None for response in after.values()]
            for after in held_by_round(names, known, episode.turns, rounds)
        ]
        clusters = [r["cluster"] for r in known.values()] + [t["cluster"] for t in episode.tallies]
        if any(c is not None and not 0 <= c < len(episode.representatives) for c in clusters):
            raise ValueError("a cluster has no representative")
        return cls(names, held, _grade_clusters(episode), ["".join(move) for move in moves])


def _grade_clusters(episode: Episode) -> list[bool] | None:
    """Tell for every cluster whether it is the reference answer, or return None if unknown.

    A cluster of mathematics or of choices was built by comparing answers with its representative,
    so the representative is compared with the reference. Other comparisons, such as a judge's, are
    not available here. Such a cluster is right if one of its answers reads like the reference. The
    reference of a program is its tests. They are not run here, so the result is unknown.
    """
    schema = str(episode.options.get("answer"))
    if episode.reference is None or schema == "code":
        return None
    answers = [{answer} for answer in episode.representatives]
    if not schema.startswith(("math", "choice")):
        for response in episode.responses.values():
            if response["cluster"] is not None and response["answer"] is not None:
                answers[response["cluster"]].add(response["answer"])
    return [
        any(_equivalent(schema, answer, episode.reference) for answer in sorted(cluster))
        for cluster in answers
    ]


_MATH, _TEXT, _CHOICE = MathAnswer(), TextAnswer(), ChoiceAnswer(26)


@cache_short(1 << 16)
def _equivalent(schema: str, answer: str, reference: str) -> bool:
    if schema == "math":
        return _MATH.equivalent(answer, reference)
    if schema.startswith("choice"):
        return _CHOICE.equivalent(answer, reference)
    return _TEXT.equivalent(answer, reference)


def _row(episode: Episode, holdings: _Holdings) -> dict[str, Any]:
    """Return what the list and the totals need of an episode.

    A cluster is a single character (`_sign`). `held` has one per agent, with "/" between rounds.
    `votes` has the group's cluster per round. `moves` has the first letters of the actions.
    `marks` has 2 * round(1000 * confidence) + right for every response but alternatives.
    """
    responses = episode.responses
    own = [r for r in responses.values() if not is_alternative(r)]
    extra = [r for r in responses.values() if is_alternative(r)]
    spent = _sum_usage(own, [f["usage"] for f in episode.failures if f["stage"] != "alternative"])
    learning = _sum_usage(
        extra, [f["usage"] for f in episode.failures if f["stage"] == "alternative"]
    )
    router = episode.options.get("router")
    clusters = {None: None} | {i: response["cluster"] for i, response in responses.items()}
    return {
        "id": episode.id,
        "question": episode.question[:_EXCERPT],
        "answer": episode.tallies[-1]["answer"],
        "answers": "\n".join(episode.representatives)[:_EXCERPT],
        "reference": episode.reference,
        "started": round(episode.started),
        "agents": len(holdings.names),
        "held": "/".join("".join(_sign(clusters[i]) for i in after) for after in holdings.held),
        "moves": "/".join(holdings.moves),
        "votes": "".join(_sign(tally["cluster"]) for tally in episode.tallies),
        "ties": sum(tally["tie"] for tally in episode.tallies[-1:]),
        "right": holdings.right and "".join("01"[right] for right in holdings.right),
        "prompt": spent["prompt_tokens"],
        "completion": spent["completion_tokens"],
        "learning": learning["prompt_tokens"] + learning["completion_tokens"],
        "seconds": _seconds(episode),
        "failures": len(episode.failures),
        "router": str(router.get("name", "") if isinstance(router, dict) else router or ""),
        "stop": str(episode.outcome.get("stop_reason") or ""),
        "marks": _marks(own, holdings.right),
    }


def _sign(cluster: int | None) -> str:
    return _NO_CLUSTER if cluster is None else chr(ord("0") + cluster)


def _sum_usage(responses: Iterable[Response], others: Iterable[Usage]) -> Usage:
    """Return what responses, their critiques and other calls cost."""
    listed = list(responses)
    critiques = (r["critique"]["usage"] for r in listed if r["critique"])
    return add_usage(*(r["usage"] for r in listed), *critiques, *others)


def _seconds(episode: Episode) -> float | None:
    seconds = episode.outcome.get("seconds")
    return round(float(seconds), 3) if isinstance(seconds, int | float) else None


def _marks(responses: Iterable[Response], right: Sequence[bool] | None) -> list[int]:
    if right is None:
        return []
    return [
        2 * round(1000 * confidence) + (r["cluster"] is not None and right[r["cluster"]])
        for r in responses
        if r["critique"]
        and (confidence := r["critique"]["confidence"]) is not None
        and 0 <= confidence <= 1
    ]


def _record(episode: Episode, holdings: _Holdings) -> dict[str, Any]:
    """Return what the page shows of an episode: everything but the observations."""
    record = episode.model_dump(exclude={"schema_version"})
    for turn in record["turns"]:
        del turn["observation"]
    return {**record, "names": holdings.names, "held": holdings.held, "right": holdings.right}


def _dump(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:  # a lone surrogate in a path, or a number beyond 64 bits
        return json.dumps(value).encode()


def _pack(data: bytes) -> bytes:
    """Compress as the browser's DecompressionStream("deflate") reads it, in base64."""
    return base64.b64encode(zlib.compress(data, 6))


def _template(index: bytes) -> tuple[bytes, bytes]:
    """Return the page before and after the blocks."""
    folder = resources.files(__package__) / "assets"
    style = (folder / "page.css").read_text(encoding="utf-8")
    parts = [(folder / name).read_text(encoding="utf-8") for name in SCRIPTS]
    script = '"use strict";\n(() => {\n' + "\n".join(parts) + "})();\n"
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; "
        "base-uri 'none'; form-action 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )
    values = {"policy": policy, "style": style, "script": script, "index": index.decode()}
    page = (folder / "page.html").read_text(encoding="utf-8")
    head, _, tail = page.partition("{{blocks}}\n")
    # One pass: inserted text is not searched again.
    return re.sub(r"{{(\w+)}}", lambda match: values[match[1]], head).encode(), tail.encode()


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
