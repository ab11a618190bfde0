"""Files that the training has written: how they are read, and what is told if they are wrong."""

import os
import reprlib
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from mpdf_langgraph.errors import RouterError


class Fitted(BaseModel):
    """What such a file holds: finite numbers of the right types, and nothing else."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False, strict=True, extra="forbid")


Form = TypeVar("Form", bound=Fitted)


def read_fitted(path: str | os.PathLike[str], name: str, form: type[Form], holds: str) -> Form:
    """Return what ``training/fit_rules.py`` has written, from a file or its folder.

    `holds` says in words what it must hold, for the errors.

    Raises:
        RouterError: There is no such file, or it is of another form.
    """
    file = folder_of(path)
    file = file / name if file.is_dir() else file
    try:
        content = file.read_bytes()
    except OSError as error:
        raise RouterError(
            f"no {holds} in {str(path)!r} ({error.strerror}). Give the folder that "
            "training/fit_rules.py wrote"
        ) from error
    try:
        return form.model_validate_json(content)
    except ValidationError as error:
        raise RouterError(f"{file} holds no {holds}: {explain_invalid(error)}") from error


def folder_of(path: str | os.PathLike[str]) -> Path:
    """Return a path that a caller gives.

    Raises:
        RouterError: It is none.
    """
    try:
        return Path(path)
    except TypeError as error:
        raise RouterError(f"give the path of a folder, got {path!r:.80}") from error


def explain_invalid(error: ValidationError) -> str:
    """Return what is wrong with a file's content, and where in it."""
    wrong = "; ".join(
        f"{'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg']} (got {reprlib.repr(e['input'])})"
        for e in error.errors()
    )
    return f"{wrong:.500}"
