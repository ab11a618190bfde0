"""What an attack found, and the closing table."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.support.paths import ROOT

COLUMNS = (
    "test", "attempts", "lost", "duplicated", "disagreeing", "foreign", "escapes", "seconds",
)  # fmt: skip


@dataclass
class Row:
    """The result of one attack. All but `attempts` and `seconds` should be 0.

    Attributes:
        lost: What was acknowledged, or asked for, and is not there.
        duplicated: What is there twice.
        disagreeing: Two places that tell different things, such as a trace and the answer.
        foreign: Exceptions that are none of this package's own. Also what never ends.
        escapes: Programs that got out of the sandbox, and texts that passed for another's.
        notes: What was found, in words, at most twenty.
    """

    test: str
    attempts: int = 0
    lost: int = 0
    duplicated: int = 0
    disagreeing: int = 0
    foreign: int = 0
    escapes: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Keep a finding in words."""
        if len(self.notes) < 20:
            self.notes.append(text[:400])

    @property
    def clean(self) -> bool:
        """Whether nothing was found."""
        found = self.lost, self.duplicated, self.disagreeing, self.foreign, self.escapes
        return not any(found) and self.attempts > 0


@contextmanager
def timed(row: Row) -> Iterator[Row]:
    """Measure how long an attack takes."""
    began = time.monotonic()
    yield row
    row.seconds = round(time.monotonic() - began, 1)


#: An attack: how much of it (1: all), a folder of its own, and a word of progress now and then.
Attack = Callable[[float, Path, Callable[[str], None]], Row]


def code_version() -> str:
    """Return a hash of the code that is attacked, and of the attacks."""
    digest = hashlib.sha256()
    for folder in ("mpdf_langgraph", "training", "tests"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def save(row: Row, path: Path, version: str) -> None:
    """Keep a result, with the version of the code that gave it."""
    path.write_text(json.dumps({"code": version, "row": asdict(row)}, indent=1))


def load(path: Path, version: str) -> Row | None:
    """Return a result that was kept. None: there is none, or other code gave it."""
    kept = json.loads(path.read_text()) if path.exists() else {}
    return Row(**kept["row"]) if kept.get("code") == version else None


def table(rows: list[Row]) -> str:
    """Return the closing table, with a line of sums."""
    total = Row("all", *(sum(getattr(row, name) for row in rows) for name in COLUMNS[1:]))
    lines = [
        [
            f"{row.test}",
            *(f"{getattr(row, name):,}" for name in COLUMNS[1:-1]),
            f"{row.seconds:.0f}",
        ]
        for row in [*rows, total]
    ]
    lines.insert(0, list(COLUMNS))
    widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS))]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in lines
    )
