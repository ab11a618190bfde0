"""Questions whose right answers, and the methods that find them, are known beforehand.

Of a riddle "A3" or "B3" the answer is 3. All agents propose something else of an A, unsurely, and
refining makes them right. Of a B, agents 1 and 2 propose the right answer, and refining makes all
wrong. Confidence is always the same, so that only the hedging tells one from the other.
"""

import json
import random
import re
import tempfile
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import torch
from langchain_core.messages import AIMessage

from mpdf_langgraph.calibration import Calibration
from mpdf_langgraph.observation import INDEX
from tests.support.scripted import Reply, Request, Scripted, StatusError
from training.learn.policy import Policy, export
from training.learn.report import write_manifest

MODELS: list[Scripted] = []
"""Every model made, in order."""


def questions(path: Path, kinds: str, *, contexts: bool = True) -> Path:
    """Write a riddle for every letter of `kinds`. Without contexts nobody knows who it is."""
    rows = []
    for number, kind in enumerate(kinds, 1):
        row: dict[str, Any] = {"id": f"{kind}{number}", "reference": number}
        row["question"] = f"Riddle {kind}{number} of {path.stem}?"
        if contexts:
            row["contexts"] = {f"agent-{k}": f"You are number {k}." for k in (1, 2, 3)}
        rows.append(row)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def solve(request: Request) -> Reply:
    """Reply as the module says, never twice with the same letter. X fails, U gets no answer."""
    kind, number = re.search(r"Riddle (\w)(\d+)", request.text).groups()  # type: ignore[union-attr]
    who = re.search(r"You are number (\d)", request.text)
    agent = int(who[1]) if who else 1
    refining = request.kind == "refine"
    if kind == "X":
        return StatusError(400, "out of order")
    letter = "abcdefghijklmnopqrstuvwxyz"[request.number % 26]
    if kind == "U":
        return f"{letter}: no idea."
    if kind == "A":
        said = f"the answer is {number}" if refining else f"I guess the answer is {agent}00"
    else:
        right = agent < 3 and not refining
        said = f"the answer is {number}" if right else f"the answer is {990 + agent}"
    return f"{letter}: {said}"


def make() -> Scripted:
    model = Scripted(reply=solve, logprob=-0.3, model_name="riddler")
    MODELS.append(model)
    return model


def agreeable() -> Scripted:
    """A model of another make under the same name: always right."""

    def reply(request: Request) -> Reply:
        return f"The answer is {re.search(r'Riddle .([0-9]+)', request.text)[1]}"  # type: ignore[index]

    model = Scripted(reply=reply, logprob=-0.1, model_name="riddler")
    MODELS.append(model)
    return model


@cache
def network() -> bytes:
    """A policy, made once: whoever hedges refines, and all others persist."""
    policy = Policy()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.zero_()
        policy.own[0].weight[0, INDEX["hedges"]] = 10.0
        policy.head[0].weight[0, 0] = 1.0
        policy.head[2].weight[1, 0] = 10.0
        policy.head[2].bias[:] = torch.tensor([0.0, -5.0, -20.0])
    with tempfile.TemporaryDirectory() as folder:
        export(policy, path := Path(folder) / "policy.onnx")
        return path.read_bytes()


def router(folder: Path, *, critic: str | None = None) -> Path:
    """Write a router of that policy."""
    folder.mkdir(parents=True)
    (folder / "policy.onnx").write_bytes(network())
    write_manifest(
        folder,
        name=folder.name,
        temperature=1.0,
        competence={"agent-1": 0.5},
        calibration=Calibration({}),
        gate="unknown",
        mode="greedy",
        evidence={"why": "hand-made"},
        training={} if critic is None else {"critic": critic},
    )
    return folder


def motley() -> Scripted:
    """Draws one of three numbers or none, and how sure it is. Number 2 fails."""
    heard: Counter[str] = Counter()

    def reply(request: Request) -> Reply:
        heard[request.text] += 1
        rng = random.Random(f"{heard[request.text]} {request.text}")
        if "You are number 2" in request.text:
            return StatusError(400, "out of order")
        text = rng.choice(["The answer is 1", "So 2", "#### 3", "\\boxed{1.0}", "I do not know."])
        token = {"token": "x", "logprob": -rng.random(), "top_logprobs": []}
        return AIMessage(text, response_metadata={"logprobs": {"content": [token]}})

    model = Scripted(reply=reply, model_name="motley")
    MODELS.append(model)
    return model


def hot_headed() -> Scripted:
    """Never reads its peers: asked cooler it is mostly right, else mostly wrong in its own way."""
    heard: Counter[str] = Counter()

    def reply(request: Request) -> Reply:
        asked = str(request.messages[0].text)
        heard[asked] += 1
        rng = random.Random(f"{heard[asked]} {asked}")
        number = re.search(r"Riddle .(\d+)", request.text)[1]  # type: ignore[index]
        right = rng.random() < (0.9 if request.kwargs["temperature"] < 1.0 else 0.3)
        letter = "abcdefghijklmnopqrstuvwxyz"[request.number % 26]  # never the very same text
        return f"{letter}: the answer is {number if right else rng.randrange(1000, 9999)}"

    model = Scripted(reply=reply, logprob=-0.3, model_name="hot", temperature=1.0)
    MODELS.append(model)
    return model
