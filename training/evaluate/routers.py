"""Fitted routers as methods: which folders are seeds of one method, and how they are loaded."""

import json
import re
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from mpdf_langgraph import load_router
from mpdf_langgraph.router import Router
from training.evaluate.methods import MethodOptions
from training.learn.fit_config import Config


def group_routers(folders: Sequence[Path]) -> dict[str, list[Path]]:
    """Group the routers that are seeds of one method, and give each group a name.

    The folders of a group differ only in their last number, and its fits differ only in the seed.
    """
    alike: dict[Path, list[Path]] = {}
    for folder in dict.fromkeys(folder.resolve() for folder in folders):
        stem = re.sub(r"[-_]?(seed)?[-_]?\d+$", "", folder.name)
        alike.setdefault(folder.parent / stem, []).append(folder)  # without a stem: the parent
    groups: dict[Path, list[Path]] = {}
    for stem_folder, members in alike.items():
        options = [_fit_options(folder) for folder in members]
        same = all(one == options[0] for one in options)
        if same and len(members) > 1:
            groups[stem_folder] = members
        else:
            groups |= {folder: [folder] for folder in members}
    names = Counter(group.name for group in groups)
    return {g.name if names[g.name] == 1 else str(g): folders for g, folders in groups.items()}


def _read_training(folder: Path) -> dict[str, Any]:
    """Return what a router's file says of its fit. Empty: it cannot be read."""
    try:
        found = json.loads((folder / "router.json").read_text()).get("training", {})
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}  # `load_router` says what is wrong with it
    return found if isinstance(found, dict) else {}


def _fit_options(folder: Path) -> dict[str, Any]:
    options = {field.name for field in fields(Config)}
    apart = {"seed", "out", "device", "threads", "resume"}
    return {k: v for k, v in _read_training(folder).items() if k in options - apart}


def open_routers(folders: Sequence[Path], options: MethodOptions) -> dict[str, list[Router]]:
    """Load routers by group, and warn on standard error of each fitted with another critic.

    Raises:
        RouterError: A router cannot be loaded.
    """
    groups = group_routers(folders)
    return {name: [_open(folder, options) for folder in seeds] for name, seeds in groups.items()}


def _open(folder: Path, options: MethodOptions) -> Router:
    with warnings.catch_warnings():  # it is about to be measured in this mode
        warnings.filterwarnings("ignore", "router .* has not been shown", UserWarning)
        warnings.filterwarnings("ignore", "router .* passed its gate with", UserWarning)
        router = load_router(folder, greedy=not options.sampled)
    fitted = _read_training(folder).get("critic")
    critics = [fitted] if isinstance(fitted, str) else fitted or []
    if critics and critics != [options.critic_name]:
        print(
            f"warning: {folder} was fitted with the critic {', '.join(map(str, critics))}, and "
            f"is evaluated with {options.critic}: its features mean something else now",
            file=sys.stderr,
        )
    return router
