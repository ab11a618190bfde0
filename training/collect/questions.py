"""Questions, and the tables that questions and answers are read from."""

import codecs
import gzip
import hashlib
import json
import math
import reprlib
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from mpdf_langgraph import Agent, Episode, MPDFError
from mpdf_langgraph.errors import describe_error

#: Number of faults that an error names one by one.
_SHOWN = 5


class TableError(MPDFError, ValueError):
    """A file of questions or answers is not as documented. The message says where."""


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        id: For reports. The file gives it, or it is made from the text.
        reference: The reference answer. None: it is not known yet.
        contexts: Private text by agent name.
        category: The kind of the question, such as a subject. None: not given.
    """

    id: str
    question: str
    reference: str | None
    contexts: Mapping[str, str]
    category: str | None = None

    @property
    def key(self) -> str:
        """The hash that a question and its episodes share."""
        return content_key(self.question, self.reference, self.contexts, self.category)

    def input(self) -> dict[str, Any]:
        """Return the graph's input."""
        return {
            "question": self.question,
            "reference": self.reference,
            "contexts": dict(self.contexts),
            "category": self.category,
        }


def content_key(
    question: str,
    reference: str | None,
    contexts: Mapping[str, str],
    category: str | None = None,
) -> str:
    """Return a hash of text, reference, contexts and category, 16 hexadecimal digits."""
    content = [question, reference, sorted(contexts.items())]
    content += [] if category is None else [category]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def key_of(episode: Episode) -> str:
    """Return the hash that an episode shares with its question."""
    return content_key(episode.question, episode.reference, episode.contexts, episode.category)


def as_told(asked: Question | Episode) -> str:
    """Return what the models are told, however it is spaced. References are not told."""
    told = {n: " ".join(text.split()) for n, text in asked.contexts.items() if text.strip()}
    return json.dumps([" ".join(asked.question.split()), told], sort_keys=True)


SEEN = "questions.txt"
"""Hashes of the questions that a router was fitted on, in its folder."""


def hash_told(asked: Question | Episode) -> str:
    """Return a short hash of what the models are told (see `as_told`)."""
    return hashlib.sha256(as_told(asked).encode(errors="surrogatepass")).hexdigest()[:16]


def is_sound(episode: Episode) -> bool:
    """Tell whether every proposal succeeded. Later failures are survived and do not count."""
    return not any(failure["stage"] == "propose" for failure in episode.failures)


def find_superseded(episodes: Iterable[Episode]) -> set[str]:
    """Return the ids of episodes that are not sound and whose question was asked again."""
    attempts: dict[str, list[str]] = {}  # not sound, by question. The last one may stay.
    answered: set[str] = set()
    for episode in episodes:
        key = key_of(episode)
        if is_sound(episode):
            answered.add(key)
        else:
            attempts.setdefault(key, []).append(episode.id)
    return {id_ for key, ids in attempts.items() for id_ in (ids if key in answered else ids[:-1])}


def read_table(path: Path) -> Iterator[tuple[int, dict[str, Any] | TableError]]:
    """Yield the rows of a JSON Lines or Parquet file with their numbers, from 1.

    JSON Lines may be compressed (`.gz`). Blank lines are passed over but counted. A line that is
    no JSON object comes as an error.

    Raises:
        TableError: There is no such file, or a `.parquet` or `.gz` file is not one.
    """
    if not path.is_file():
        raise TableError(f"{path}: no such file")
    if path.suffix in (".csv", ".tsv", ".xlsx"):
        raise TableError(f"{path}: tables are read from JSON Lines or Parquet. Convert it")
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet as parquet  # takes half a second, which JSON does not need

        try:
            with parquet.ParquetFile(path) as file:
                batches = (batch for batch in file.iter_batches(1024))
                yield from enumerate((row for batch in batches for row in batch.to_pylist()), 1)
        except (pyarrow.ArrowException, UnicodeDecodeError) as error:
            raise TableError(f"{path}: {describe_error(error)}") from error
        return
    for number, read in enumerate(_lines(path), 1):
        # Windows' editors begin a file with a mark of its byte order.
        line = read.removeprefix(codecs.BOM_UTF8) if number == 1 else read
        if not line.strip():
            continue
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            yield number, TableError(f"no JSON ({error})")
            continue
        yield number, row if isinstance(row, dict) else TableError("no JSON object")


def _lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file, unpacked if its name ends in `.gz`."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
            yield from lines
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise TableError(f"{path}: {describe_error(error)}") from error


def text_of(row: Mapping[str, Any], column: str) -> str:
    """Return a column that must hold text.

    Raises:
        TableError: The column is missing, empty, or not text.
    """
    value = row.get(column)
    if not isinstance(value, str) or not value.strip():
        raise TableError(f"{column!r} must be text, got {reprlib.repr(value)}")
    return value.strip()


def category_of(row: Mapping[str, Any]) -> str | None:
    """Return a row's category, None if it has none or a blank one.

    Raises:
        TableError: It is not text.
    """
    value = row.get("category")
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    return text_of(row, "category")


def reference_of(row: Mapping[str, Any]) -> str | None:
    """Return the reference answer: text or a number, or null if it is not known yet.

    Raises:
        TableError: The column is missing or misspelt, or holds something else.
    """
    if "reference" not in row:
        raise TableError("'reference' is missing; write null where it is not known yet")
    value = row["reference"]
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)
    return text_of(row, "reference")


def _contexts_of(row: Mapping[str, Any], *, pairs: bool) -> dict[str, str]:
    """Return what only one agent knows. `pairs`: Parquet gives a map column as a list of pairs."""
    given = row.get("contexts")
    wrong = TableError(f"'contexts' must be text by agent name, got {reprlib.repr(given)}")
    if given is None:
        return {}
    if pairs and isinstance(given, list) and all(isinstance(pair, tuple) for pair in given):
        given = dict(given)
    if not isinstance(given, Mapping):
        raise wrong
    # Parquet gives every row all names that any row has.
    contexts = {name: text for name, text in given.items() if text is not None}
    if not all(isinstance(one, str) for pair in contexts.items() for one in pair):
        raise wrong
    return contexts


def _id_of(row: Mapping[str, Any]) -> str | None:
    value = row.get("id")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | str) or not str(value).strip():
        raise TableError(f"'id' must be text or a whole number, got {reprlib.repr(value)}")
    return str(value)


def read_questions(path: Path) -> list[Question]:
    """Read questions from JSON Lines or Parquet.

    The columns are `question`, `reference` (text, a number, or null), and three that may be left
    out: `contexts` (private text by agent name), `category` and `id`. Other columns are ignored.

    Raises:
        TableError: The file has faults, or no question. The message names lines and faults.
    """
    questions: list[Question] = []
    faults: list[str] = []
    seen: dict[str, int] = {}
    unnamed: Counter[str] = Counter()
    for number, row in read_table(path):
        try:
            if isinstance(row, TableError):
                raise row
            text, reference, contexts = (
                text_of(row, "question"),
                reference_of(row),
                _contexts_of(row, pairs=path.suffix == ".parquet"),
            )
            category = category_of(row)
            name = _id_of(row)
            if name is None:
                name = content_key(text, reference, contexts, category)
                unnamed[name] += 1
                name += f"-{unnamed[name]}" if unnamed[name] > 1 else ""
            if name in seen:
                raise TableError(f"id {name!r} stands in line {seen[name]} already")
        except TableError as error:
            faults.append(f"{path}:{number}: {error}")
            continue
        seen[name] = number
        questions.append(Question(name, text, reference, contexts, category))
    if faults:
        more = f"\nand {len(faults) - _SHOWN} more lines" if len(faults) > _SHOWN else ""
        raise TableError("\n".join(faults[:_SHOWN]) + more)
    if not questions:
        raise TableError(f"{path}: there is no question in it")
    return questions


def leave_out_repeated(questions: Sequence[Question]) -> list[Question]:
    """Return the questions in their order, the first of each content.

    A question asked again gets the same samples, so it would count twice and say nothing new.
    """
    return list({question.key: question for question in reversed(questions)}.values())[::-1]


def check_contexts(questions: Iterable[Question], agents: Sequence[Agent]) -> None:
    """Check, before the first question is asked, that every private context belongs to an agent.

    Raises:
        TableError: A context belongs to nobody.
    """
    names = [agent.name for agent in agents]
    for question in questions:
        if unknown := sorted(set(question.contexts) - set(names)):
            raise TableError(
                f"question {question.id!r}: contexts names {', '.join(unknown)}, but the agents "
                f"are {', '.join(names)}. --agents says how many there are: raise it, or rename in "
                "the file"
            )
