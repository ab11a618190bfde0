"""How the commands of this package start and fail."""

import sys
from collections.abc import Callable
from typing import Any

import tyro

from mpdf_langgraph.errors import MPDFError


def run_command(
    main: Callable[[Any], Any], options: type, description: str | None, stopped: str = "stopped"
) -> None:
    """Run a command with the options of its command line. Errors end it without a traceback.

    `main` takes the options. A number that it returns is the exit status. `description` is the text
    of `--help`, and `stopped` is said when the command is interrupted.
    """
    try:
        result = main(tyro.cli(options, description=description))
    except (MPDFError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(stopped)
    if isinstance(result, int):
        sys.exit(result)
