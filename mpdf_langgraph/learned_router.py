"""The learned router: a policy fitted by `training`, run by onnxruntime. No torch, no pickle.

A router is a folder: the network ``policy.onnx``, the description ``router.json``, and mostly a
learned consensus, ``consensus.json``. `load_router` imports numpy and onnxruntime, so importing the
package stays quick.
"""

import hashlib
import json
import math
import os
import reprlib
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, lru_cache
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mpdf_langgraph.calibration import Calibration
from mpdf_langgraph.errors import ConfigurationError, RouterError, describe_error
from mpdf_langgraph.fitted_file import explain_invalid, folder_of
from mpdf_langgraph.learned_consensus import LearnedConsensus
from mpdf_langgraph.observation import FEATURE_VERSION, FEATURES
from mpdf_langgraph.options import check_number
from mpdf_langgraph.router import behaviour
from mpdf_langgraph.state import ACTIONS, CHEAPEST_FIRST, Observation

#: Routers of format 1 were fitted on confidences as the critic gave them.
FORMATS = (1, 2)
MODEL, MANIFEST, CONSENSUS = "policy.onnx", "router.json", "consensus.json"
#: Inputs of `MODEL` (type and sizes, None: any size), and its output.
_INPUTS: dict[str, tuple[str, list[int | None]]] = {
    "own": ("tensor(float)", [None, len(FEATURES)]),
    "peers": ("tensor(float)", [None, None, len(FEATURES)]),
    "peer_mask": ("tensor(bool)", [None, None]),
    "action_mask": ("tensor(bool)", [None, len(ACTIONS)]),
}
_OUTPUT = "log_probabilities"
#: Bytes that all networks of a process may take together. One takes a few million.
MOST_MEMORY = 256 * 2**20


class Manifest(BaseModel):
    """What ``router.json`` must hold. It may hold more, for people who read it.

    Attributes:
        format: Version of the folder's format.
        feature_version: `observation.FEATURE_VERSION` of the traces it was fitted on.
        name: Name of the router in traces.
        version: Content hash of the network, its version in traces.
        temperature: Divides the log-probabilities.
        floor: Least probability of every allowed action.
        competence: Prior competence by agent name, for agents that give none.
        calibration: Calibration of the confidences that it was fitted on. Format 1 had none.
        gate: Whether the router was shown to beat the baselines.
        mode: How it decided when that was measured: by the likeliest action, or by a drawn one.
        consensus: The consensus rule that it was fitted with. None: the traces' own rule.
        advice: What to run, as the fit found it.
        evidence: What the gate rests on.
        training: The options of the fit, and the critics of its traces.
        sha256: Hash of every file that is loaded, by name.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False, strict=True)

    format: Literal[1, 2]
    feature_version: int
    name: str = Field(min_length=1)
    version: str = Field(min_length=1)
    temperature: float = Field(gt=0)
    floor: float = Field(ge=0, le=1 / 3)
    competence: dict[str, Annotated[float, Field(ge=0, le=1)]]
    calibration: Calibration
    gate: Literal["pass", "fail", "unknown"]
    mode: Literal["greedy", "drawn"] = "greedy"
    consensus: Literal["confidence", "majority", "log-odds", "learned"] | None = None
    advice: str = ""
    evidence: dict[str, Any] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict)
    sha256: dict[str, str]

    @property
    def critics(self) -> tuple[str, ...]:
        """Names of the critics of the traces. Empty: nobody wrote them down."""
        told = self.training.get("critic")
        told = told if isinstance(told, list) else [told]
        return tuple(name for name in told if isinstance(name, str))

    @property
    def measured(self) -> str | None:
        """Why ``training/evaluate.py`` did not let it pass. None: it does not say."""
        evaluation = self.evidence.get("evaluation")
        told = evaluation.get("why") if isinstance(evaluation, dict) else None
        return told if told and isinstance(told, str) else None

    @property
    def answer(self) -> str | None:
        """How answers were compared in its fit. None: nobody wrote it down."""
        told = self.training.get("answer")
        return told if isinstance(told, str) else None


@dataclass(frozen=True)
class LearnedRouter:
    """A fitted policy (`Router`). `load_router` makes one.

    Attributes:
        name: As the folder's ``router.json`` says.
        version: The network's content hash, and the options that differ from the folder's.
        competence: Prior competence by agent name, for agents that give none.
        calibration: Calibration of the confidences that it was fitted on. Empty if they were raw.
        temperature: Divides the log-probabilities. Below 1, the router decides more sharply.
        greedy: Take the likeliest allowed action only (before the floor).
        floor: Least probability of every allowed action.
        session: The onnxruntime session.
        consensus: The learned consensus of its folder, None if there is none.
        rule: The consensus rule that it was fitted with.
        critics: Names of the critics that its confidences came from. Empty: unknown.
        answer: How answers were compared in its fit: "math", "choice", "text" or "code". None:
            unknown.
    """

    name: str
    version: str
    competence: Mapping[str, float]
    calibration: Calibration
    temperature: float
    greedy: bool
    floor: float
    session: Any = field(repr=False, compare=False)
    consensus: LearnedConsensus | None = field(default=None, repr=False)
    rule: str | None = None
    critics: tuple[str, ...] = ()
    answer: str | None = None

    def decide(
        self, observations: Sequence[Observation], masks: Sequence[Sequence[bool]]
    ) -> Sequence[Sequence[float]]:
        """See `Router.decide`. It is one call of the network, also for teams of several sizes.

        Raises:
            RouterError: An observation has another size, or is not finite.
        """
        if not observations:
            return []
        logs = _run(self.session, *pad(observations, masks), name=self.name)
        return [self._behaviour(row, mask) for row, mask in zip(logs, masks, strict=True)]

    def _behaviour(self, logs: list[float], mask: Sequence[bool]) -> list[float]:
        best = -1
        for i in CHEAPEST_FIRST:
            if mask[i] and (best < 0 or logs[i] > logs[best]):
                best = i
        best = max(best, 0)
        if self.greedy:
            return list(_greedy_behaviour(best, tuple(mask), self.floor))
        # Allowed actions get at most 0 here, so no temperature overflows.
        row = [math.exp(min(0.0, p - logs[best]) / self.temperature) for p in logs]
        return behaviour(row, mask, self.floor)


@lru_cache(maxsize=256)
def _greedy_behaviour(best: int, mask: tuple[bool, ...], floor: float) -> list[float]:
    return behaviour([float(i == best) for i in range(len(ACTIONS))], mask, floor)


def load_router(
    folder: str | os.PathLike[str],
    *,
    temperature: float | None = None,
    greedy: bool = True,
    floor: float | None = None,
) -> LearnedRouter:
    """Load a router that ``training/fit_router.py`` has written.

    It knows the prior competences by the agents' names. Give the agents the names that they had
    when the traces were collected, or give each `Agent` a competence.

    Args:
        folder: Holds ``policy.onnx`` and ``router.json``.
        temperature: Divides the log-probabilities before an action is drawn. None: as fitted.
        greedy: Take the likeliest action, as in the measurements. False: draw one. That costs
            accuracy and tokens where the policy is not sharp.
        floor: Least probability of every allowed action, 0 to 1/3. None: as fitted.

    Returns:
        A `Router`, for `create_deliberation(..., router=...)`.

    Raises:
        ConfigurationError: An option is wrong, or onnxruntime is not installed.
        RouterError: The folder is incomplete or altered, or does not fit this version.

    Warns:
        UserWarning: The router has not been shown to beat the baselines, or only in the other
            mode.
    """
    check_number("temperature", temperature, 0, above=True, optional=True)
    check_number("floor", floor, 0, 1 / 3, optional=True)
    if temperature is not None and greedy:
        raise ConfigurationError(
            "a temperature is for drawn actions. Give greedy=False with it, or leave it out"
        )
    folder = folder_of(folder)
    manifest = _read_manifest(folder)
    session = _open(_read_hashed(folder, MODEL, manifest), folder / MODEL)
    consensus = None
    if CONSENSUS in manifest.sha256:
        content = _read_hashed(folder, CONSENSUS, manifest)
        consensus = LearnedConsensus.from_json(content, str(folder / CONSENSUS))
    elif manifest.consensus == "learned":
        raise RouterError(f"{folder / MANIFEST}: consensus is learned, but sha256 lists none")
    if manifest.gate != "pass":
        if why := manifest.measured:
            rest = (
                f'training/evaluate.py has measured it: {why:.300}. Use router="threshold" instead'
            )
        else:
            rest = (
                "Measure it on your own questions with training/evaluate.py, or use "
                'router="threshold"'
            )
        warnings.warn(
            f"router {manifest.name!r} has not been shown to beat the baselines (gate: "
            f"{manifest.gate}). {manifest.advice + ' ' if manifest.advice else ''}{rest}",
            stacklevel=2,
        )
    mode = "greedy" if greedy else "drawn"
    if manifest.gate == "pass" and manifest.mode != mode:
        warnings.warn(
            f"router {manifest.name!r} passed its gate with {manifest.mode} actions and is loaded "
            f"with {mode} ones. Nothing is known of these: give greedy={not greedy}",
            stacklevel=2,
        )
    options = {"temperature": temperature, "greedy": None if greedy else False, "floor": floor}
    changed = [f"{key}={value}" for key, value in options.items() if value is not None]
    return LearnedRouter(
        name=manifest.name,
        version="+".join([manifest.version, *changed]),
        competence=manifest.competence,
        calibration=manifest.calibration,
        temperature=manifest.temperature if temperature is None else temperature,
        greedy=greedy,
        floor=manifest.floor if floor is None else floor,
        session=session,
        consensus=consensus,
        rule=manifest.consensus,
        critics=manifest.critics,
        answer=manifest.answer,
    )


# --- the folder -----------------------------------------------------------------------------


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RouterError(
            f"no router in {str(path.parent)!r}: {path.name} cannot be read "
            f"({error.strerror}). Give the folder that training/fit_router.py wrote"
        ) from error


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    raw = _read_bytes(path)
    try:
        given = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise RouterError(f"{path} is not valid JSON: {describe_error(error)}") from error
    if not isinstance(given, dict):
        raise RouterError(f"{path} must hold a JSON object, got {reprlib.repr(given)}")
    # Checked first, as another version may hold anything.
    for key, here in (("format", FORMATS), ("feature_version", (FEATURE_VERSION,))):
        if given.get(key) not in here:
            raise RouterError(
                f"{path}: {key} is {reprlib.repr(given.get(key))}, this version of mpdf-langgraph "
                f"needs {' or '.join(map(str, here))}. Fit the router again, or install the "
                "version that it was fitted with"
            )
    if given["format"] == 1:  # its calibration was for people to read only
        given["calibration"] = {}
    try:
        return Manifest.model_validate(given)
    except ValidationError as error:
        raise RouterError(f"{path}: {explain_invalid(error)}") from error


def _read_hashed(folder: Path, name: str, manifest: Manifest) -> bytes:
    """Return a file's bytes, read once: the bytes that were hashed are the bytes that run."""
    path = folder / name
    content = _read_bytes(path)
    expected, found = manifest.sha256.get(name), hashlib.sha256(content).hexdigest()
    if expected != found:
        raise RouterError(
            f"{path} is not the file that {MANIFEST} describes (sha256 {found[:12]}…, expected "
            f"{str(expected)[:12]}…): it is torn or was altered. Copy the whole folder again"
        )
    return content


# --- the network ----------------------------------------------------------------------------


@cache
def _cap_memory(onnxruntime: Any) -> None:
    """Limit what the networks of a process may take together, as a small file can ask for much."""
    kind = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR
    where = onnxruntime.OrtMemoryInfo("Cpu", kind, 0, onnxruntime.OrtMemType.DEFAULT)
    settings = onnxruntime.OrtArenaCfg(MOST_MEMORY, 1, -1, -1)  # grow by what is asked for
    with suppress(RuntimeError):  # the application has registered one of its own
        onnxruntime.create_and_register_allocator(where, settings)


def _open(model: bytes, path: Path) -> Any:
    """Return a session of one thread, after a check of the network's inputs and its output."""
    # Without it, onnxruntime >= 1.31 sends usage to its makers and leaves an identifier in the
    # home directory. A value that the user has set stays.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigurationError(
            'a learned router needs onnxruntime: pip install "mpdf-langgraph[router]"'
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors are raised, and its log would go to stderr
    _cap_memory(onnxruntime)
    options.add_session_config_entry("session.use_env_allocators", "1")
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common base class
        raise RouterError(f"{path} is not a usable network: {describe_error(error)}") from error
    inputs = {
        one.name: (one.type, [size if isinstance(size, int) else None for size in one.shape])
        for one in session.get_inputs()
    }
    outputs = [one.name for one in session.get_outputs()]
    if inputs != _INPUTS or outputs != [_OUTPUT]:
        raise RouterError(
            f"{path} has inputs {inputs} and outputs {outputs}, expected {_INPUTS} (None: any "
            f"size) and [{_OUTPUT!r}]"
        )
    features, allowed = [0.5] * len(FEATURES), [True] * len(ACTIONS)
    alone = Observation(own=features, peers=[])
    for team in (0, 1, 3):
        given = [alone, Observation(own=features, peers=[features] * team)]
        _run(session, *pad(given, [allowed, allowed]), name=str(path))
    return session


def pad(
    observations: Sequence[Observation], masks: Sequence[Sequence[bool]]
) -> tuple[Any, Any, Any, Any]:
    """Return the network's inputs. Every team is padded to the size of the largest.

    Raises:
        RouterError: An observation or mask has another size, or a feature is not finite.
    """
    import numpy as np

    count, size = len(observations), len(FEATURES)
    sizes = [len(observation["peers"]) for observation in observations]
    peers = np.zeros((count, max(sizes), size), np.float32)
    peer_mask = np.arange(max(sizes)) < np.array(sizes)[:, None]
    try:
        with np.errstate(over="ignore"):  # it becomes infinity, which is refused below
            own = _table([o["own"] for o in observations], size)
            peers[peer_mask] = _table([row for o in observations for row in o["peers"]], size)
        action_mask = np.array([list(mask) for mask in masks], np.bool_)
        action_mask = action_mask.reshape(count, len(ACTIONS))
    except (TypeError, ValueError, OverflowError) as error:
        raise RouterError(
            f"a learned router takes {size} features of an agent and of each peer, and 3 "
            f"allowed actions, for every observation: {describe_error(error)}"
        ) from error
    finite = np.isfinite(np.concatenate([own, peers.reshape(-1, size)]))
    if not finite.all():
        right = finite.all(axis=0).tolist()
        wrong = ", ".join(name for name, ok in zip(FEATURES, right, strict=True) if not ok)
        raise RouterError(f"features must be finite, and are not: {wrong}")
    return own, peers, peer_mask, action_mask


def _table(rows: Sequence[Sequence[float]], size: int) -> Any:
    """Return rows as an array ``[n, size]``, number by number, which is quick.

    Raises:
        ValueError: A row has another length.
    """
    import numpy as np

    if any(len(row) != size for row in rows):
        raise ValueError(f"a row has other than {size} numbers")
    values = np.fromiter(chain.from_iterable(rows), np.float64, len(rows) * size)
    return values.astype(np.float32).reshape(len(rows), size)


def _run(
    session: Any, own: Any, peers: Any, peer_mask: Any, action_mask: Any, *, name: str
) -> list[list[float]]:
    """Return the network's log-probabilities, shape ``[n, 3]``.

    Raises:
        RouterError: They are not log-probabilities.
    """
    import numpy as np

    given = {"own": own, "peers": peers, "peer_mask": peer_mask, "action_mask": action_mask}
    try:
        found = session.run([_OUTPUT], given)[0]
        totals = np.exp(found.astype(np.float64)).sum(axis=-1)
        sound = found.shape == (len(own), len(ACTIONS)) and bool((abs(totals - 1.0) < 1e-3).all())
        logs: list[list[float]] = found.tolist()
    except Exception as error:  # onnxruntime's errors have no common base class
        raise RouterError(f"{name}: the network failed: {describe_error(error)}") from error
    if not sound:
        raise RouterError(f"{name}: the network did not return log-probabilities: {logs!r:.200}")
    return logs
