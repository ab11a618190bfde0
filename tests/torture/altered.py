"""Files of which one value or several are altered: sound JSON that says what it must not say."""

import itertools
import json
import math
import random
import re
import time
import warnings
from collections.abc import Callable, Collection, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

from mpdf_langgraph import (
    Agent,
    Episode,
    LearnedConsensus,
    MathAnswer,
    MPDFError,
    TraceReader,
    create_deliberation,
    load_router,
)
from mpdf_langgraph.expected_gain import DEFAULT, load_expected_gain
from mpdf_langgraph.learned_consensus import Shared
from mpdf_langgraph.profile_critic import ProfileCurve, load_profile_critic
from mpdf_langgraph.recruiting import AskingValues, Stage, load_recruiting
from mpdf_langgraph.traces.view.page import write_page
from tests.support.paths import ROOT
from tests.support.running import record_of
from tests.support.scripted import Scripted, says
from tests.support.synthetic import synthetic_episodes
from tests.torture.table import Row, timed
from training.collect.importing import read_answers
from training.collect.questions import read_questions
from training.learn.ballots import ballots_of
from training.learn.dataset import load
from training.learn.fit_config import read_labels
from training.learn.recorded import read_recorded

Progress = Callable[[str], None]

#: Files altered at scale 1.
ATTEMPTS = 20_000
_VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2.0, 0.5, -0.5, 10**30, -(10**18), 2**63, 1e308, math.nan,
    math.inf, "", "x", "0", "\x00", "\u2028", "</script>", "a" * 70_000, [], {}, [[]], [None], [0],
    {"": ""}, {"a": None}, ["x"], [True], "propose", "REFINE", "math", "learned", "__class__",
]  # fmt: skip


def _keys(value: Any) -> Collection[Any]:
    return value if isinstance(value, dict) else range(len(value) if isinstance(value, list) else 0)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every container in a value, with each of its keys."""
    for key in _keys(value):
        yield value, key
        yield from _places(value[key])


def alter(text: str, chance: random.Random) -> str:
    """Return JSON with some of its values replaced, removed, doubled, exchanged or added."""
    content = json.loads(text)
    for _ in range(chance.choice([1, 1, 1, 2, 4])):
        places = list(_places(content))
        if not places:
            break
        within, key = chance.choice(places)
        how = chance.random()
        if how < 0.5:
            within[key] = deepcopy(chance.choice(_VALUES))
        elif how < 0.6:
            del within[key]
        elif how < 0.7:
            other, there = chance.choice(places)
            # Unless the place has gone meanwhile.
            within[key] = json.loads(json.dumps(other[there])) if there in _keys(other) else None
        elif how < 0.8 and isinstance(within, list):
            within.insert(chance.randrange(len(within) + 1), within[key])
        elif how < 0.9 and isinstance(within, dict):
            within[chance.choice(["", "x", "id", "packed", "agents"])] = deepcopy(
                chance.choice(_VALUES)
            )
        elif isinstance(within[key], int | float):
            within[key] += chance.choice([-1, 1, 10**6, 0.5])
        else:
            depth = chance.choice([70, 200, chance.randrange(900, 1030)])
            within[key] = f"@{chance.choice(['lists', 'objects'])} {depth}@"
    return re.sub(r'"@(\w+) (\d+)@"', _nest, json.dumps(content))


def _nest(found: re.Match[str]) -> str:
    opening, closing = ("[", "]") if found[1] == "lists" else ('{"a":', "}")
    return opening * int(found[2]) + "1" + closing * int(found[2])


# --- who reads them -------------------------------------------------------------------------


def _sound_files(folder: Path) -> dict[str, tuple[str, Callable[[Path], object]]]:
    """Return the files that others may have written: their sound content, and their readers."""
    router = ROOT / "examples" / "tiny_lm" / "router"
    for name in ("router.json", "policy.onnx"):
        (folder / name).write_bytes((router / name).read_bytes())
    question = {"question": "2+2?", "reference": "4", "contexts": {"ann": "x", "bo": "y"}, "id": 7}
    answers = [
        {"question": "2+2?", "reference": "4", "agent": agent, "response": "Answer: 4",
         "round": number, "confidence": 0.5}
        for agent in ("ann", "bo") for number in (0, 1)
    ]  # fmt: skip
    stage = Stage(gains={"1-0": 0.1}, decisions={"1-0": 9}, right={"1-0": 0.5})
    asking = AskingValues(
        order=["ann", "bo"], prices={"ann": 1.0}, tokens={"ann": 90.0}, cost=0.1, wave=1,
        consensus="majority", stages={"1": stage},
    )  # fmt: skip
    profile = ProfileCurve(intercept=0.5, weights={"length": -0.1}, agents={"ann": 0.2}, auroc=0.7)
    consensus = LearnedConsensus(
        shared=Shared(**dict.fromkeys(Shared.model_fields, 0.5)), agents=("ann", "bo"),
        votes=(0.1, 0.2), pairs=((0.0, 0.3), (0.3, 0.0)), categories={"algebra": (0.1, 0.2)},
    )  # fmt: skip
    return {
        "router.json": ((folder / "router.json").read_text(), lambda _: load_router(folder)),
        "expected_gain.json": (DEFAULT.model_dump_json(), load_expected_gain),
        "recruiting.json": (asking.model_dump_json(), load_recruiting),
        "profile_critic.json": (profile.model_dump_json(), load_profile_critic),
        "consensus.json": (
            consensus.model_dump_json(),
            lambda path: LearnedConsensus.from_json(path.read_bytes(), str(path)),
        ),
        "labels.jsonl": ('{"episode": "a", "reference": "4"}', read_labels),
        "questions.jsonl": (json.dumps(question), read_questions),
        "answers.jsonl": ("\n".join(map(json.dumps, answers)), read_answers),
    }


def _alter_file(name: str, text: str, chance: random.Random) -> str:
    """Alter a file of JSON, or a line of one that holds an object in each."""
    lines = text.split("\n") if name.endswith("l") else [text]
    number = chance.randrange(len(lines))
    lines[number] = alter(lines[number], chance)
    return "\n".join(lines)


def files(scale: float, folder: Path, progress: Progress) -> Row:
    """Alter what fits, people and logs have written: it is read, or refused by an error of ours."""
    chance = random.Random(time.time_ns())
    folder.mkdir(parents=True, exist_ok=True)
    sound = _sound_files(folder)
    with timed(Row("altered files")) as row, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, (content, read) in sound.items():
            (folder / name).write_text(content)
            read(folder / name)
            for _ in range(max(10, round(ATTEMPTS * scale / len(sound)))):
                altered = _alter_file(name, content, chance)
                (folder / name).write_text(altered)
                row.attempts += 1
                _guard(row, f"{name} of {altered!r}", lambda: read(folder / name))  # noqa: B023
            (folder / name).write_text(content)
        progress(f"{row.attempts:,} files")
    return row


def _guard(row: Row, where: str, act: Callable[[], object]) -> bool:
    """Tell whether something ends with a result or with an error of ours."""
    try:
        act()
    except MPDFError:
        pass
    except Exception as error:
        row.foreign += 1
        row.note(f"{type(error).__name__}: {error}"[:150] + f" at {where}")
        return False
    return True


def _eventful() -> Episode:
    """Return a record with failures, estimates, alternatives, and agents that were not asked."""
    number = itertools.count()
    team = [
        Agent("ann", Scripted(reply=lambda _: f"Answer: {next(number)}", logprob=-0.3)),
        Agent("bo", Scripted(reply=lambda _: ValueError("no")), retries=0),
        *[Agent(name, says("Answer: 1"), competence=0.5) for name in ("cy", "di")],
    ]
    graph = create_deliberation(
        team, router="expected-gain", critic="logprob", recruit="adaptive", max_rounds=2,
        answer=MathAnswer(), alternatives=1,
    )  # fmt: skip
    return record_of(graph, {"question": "2 + 2?", "reference": "4", "contexts": {"ann": "4"}})


def _read_everywhere(folder: Path) -> int:
    """Read traces as an app, a fit and the page read them. Return how many an app reads."""

    def grade(answer: str, reference: str) -> bool:
        return answer == reference

    load(folder, grader=grade, cached=False, progress=False)
    ballots_of(read_recorded(folder, grade, cached=False))
    write_page(folder, folder.with_suffix(".html"))
    return len(list(TraceReader(folder)))


def traces(scale: float, folder: Path, progress: Progress) -> Row:
    """Alter records: whatever they say, the sound ones beside them are read."""
    chance = random.Random(time.time_ns())
    folder.mkdir(parents=True, exist_ok=True)
    episodes = [*synthetic_episodes(3, rounds=1, alternatives=1), _eventful()]
    sound = [episode.to_json().decode() for episode in episodes]
    with timed(Row("altered records of traces")) as row, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        while row.attempts < max(40, ATTEMPTS * scale):
            altered = [alter(chance.choice(sound[1:]), chance) for _ in range(20)]
            row.attempts += len(altered)
            segment = folder / "altered.jsonl"
            segment.write_text("\n".join([sound[0], *altered]))
            read: list[int] = []
            if not _guard(row, "some records", lambda: read.append(_read_everywhere(folder))):  # noqa: B023
                for one in altered:
                    segment.write_text(one)
                    _guard(row, one, lambda: _read_everywhere(folder))
            row.lost += bool(read) and read[0] < 1
            if row.attempts % 1000 == 0:
                progress(f"{row.attempts:,} records")
    return row


ALTERED = {"altered-files": files, "altered-traces": traces}
