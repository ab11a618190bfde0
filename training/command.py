"""How the commands of this package start, fail, and leave their results."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from mpdf_langgraph.errors import ConfigurationError, MPDFError
from training.collect.team import Answer


@dataclass
class StudyOptions:
    """Options of the studies that learn on some questions of traces and judge on the others."""

    traces: tuple[Path, ...]
    """Folders of traces (or single segments)."""
    out: Path = Path("runs")
    """Folder for the results."""
    answer: Answer = "math"
    """How answers are compared, with one another and with references."""
    folds: int = 5
    """Parts that the questions are split into."""
    seeds: int = 3
    """Ways to split them."""

    def check(self) -> None:
        """Raise `ConfigurationError` for options that cannot work."""
        check_least(self, folds=2, seeds=1)


def run_command(
    main: Callable[[Any], Any], options: type, description: str | None, stopped: str = "stopped"
) -> None:
    """Run a command with the options of its command line. Errors end it without a traceback.

    `main` takes the options. A number that it returns is the exit status. `description` is the text
    of `--help`, and `stopped` is said when the command is interrupted.
    """
    module = sys.modules["__main__"].__spec__  # None for a script
    prog = None if module is None else f"python -m {module.name.removesuffix('.__main__')}"
    try:
        result = main(tyro.cli(options, prog=prog, description=description))
    except (MPDFError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(stopped)
    if isinstance(result, int):
        sys.exit(result)


def check_least(options: Any, **least: int) -> None:
    """Raise `ConfigurationError` where one of these options is less than its least value.

    None is no value.
    """
    for name, bound in least.items():
        if (value := getattr(options, name)) is not None and value < bound:
            option = name.replace("_", "-")
            raise ConfigurationError(f"--{option} must be {bound} or more, got {value}")


def check_questions(questions: int, folds: int) -> None:
    """Raise `ConfigurationError` where folds would have fewer than 10 questions each."""
    if questions < 10 * folds:
        raise ConfigurationError(
            f"{questions} questions are too few for {folds} folds: {10 * folds} are needed"
        )


def write_results(folder: Path, text: str) -> None:
    """Write `results.md` into a folder, which is made if it is not there, and print it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.md").write_text(text)
    print(text)
