"""Episodes as columns: a row is an episode, its groups and responses lie in lists.

What the reference, the grader or a calibration decides is left open: answers are kept as indices
into the episode's own answers, and beside what was recorded lies what the critic said of every
response.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from mpdf_langgraph.calibration import raw_confidence, stage_of
from mpdf_langgraph.errors import TraceError
from mpdf_langgraph.observation import FEATURES
from mpdf_langgraph.state import ACTIONS
from mpdf_langgraph.traces.records import Episode
from training.learn.recalibrate import Held
from training.learn.rewards import Decision, first_hint

_NONE = -1
_TEXTS = ("answers", "sources", "agents")
_BY_EPISODE = ("vote", "final", "majority")
_BY_ROLLOUT = ("action", "answer", "consensus", "tokens", "response")
BY_GROUP = (
    *("agent", "round", "taken", "disagreement", "before", "without", "rollouts", "mask"),
    *("behaviour", "action", "answer", "consensus", "tokens", "own", "peers"),
)
_BY_RESPONSE = ("confidence", "cluster", "said", "stands", "source", "refined", "unaided")


class Block:
    """Columns of some episodes under construction, without padding."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.questions: list[str] = []
        self.references: list[str | None] = []
        self.answers: list[list[str]] = []
        self.sources: list[list[str]] = []
        self.agents: list[list[str]] = []
        self.parts: dict[str, list[Any]] = {}
        self.columns: dict[str, np.ndarray] = {}
        self.rollouts = self.peers = 0

    def add(self, episode: Episode, made: list[Decision], held: list[Held]) -> None:
        """Add an episode, or nothing where it cannot be made numbers of."""
        place = {agent["name"]: i for i, agent in enumerate(episode.agents)}
        codes: dict[str | None, int] = {None: _NONE}

        def code(answer: str | None) -> int:
            return codes.setdefault(answer, len(codes) - 1)

        position: dict[str | None, int] = {None: _NONE} | {
            id_: i for i, id_ in enumerate(episode.responses)
        }
        sources: dict[str, int] = {}
        if not place:
            raise TraceError("a team of nobody")
        moves = [move for decision in made for move in decision.moves]
        features, others = len(FEATURES), len(place) - 1
        own = np.array([d.observation["own"] for d in made], np.float32)
        peers = np.array([d.observation["peers"] for d in made], np.float32)
        row = {
            "own": own.reshape(len(made), features),
            "peers": peers.reshape(len(made), others * features),
            "mask": np.array([d.mask for d in made], np.uint8).reshape(-1, len(ACTIONS)),
            "behaviour": np.array([d.behaviour for d in made], np.float32).reshape(
                -1, len(ACTIONS)
            ),
            "agent": np.array([place[d.agent] for d in made], np.int16),
            "round": np.array([d.round for d in made], np.int16),
            "taken": np.array([d.action for d in made], np.int8),
            "disagreement": np.array([d.disagreement for d in made], np.uint8),
            "before": np.array([code(d.before) for d in made], np.int16),
            "without": np.array([code(d.without) for d in made], np.int16),
            "rollouts": np.array([len(d.moves) for d in made], np.int16),
            # By rollout
            "action": np.array([move.action for move in moves], np.int8),
            "answer": np.array([code(move.answer) for move in moves], np.int16),
            "consensus": np.array([code(move.consensus) for move in moves], np.int16),
            "tokens": np.array([move.tokens for move in moves], np.float32),
            "response": np.array([position[move.response] for move in moves], np.int16),
        }
        if not all(np.isfinite(row[name]).all() for name in ("own", "peers", "behaviour")):
            raise TraceError("a number is missing or not finite")
        row |= _of_responses(episode, code, sources)
        # What a person's hint gave away is not the team's own: its last answer is the one before.
        unaided = [t for round_, t in enumerate(episode.tallies) if round_ < first_hint(episode)]
        stood = [one for by_agent in held[: len(unaided)] for one in by_agent.values()]
        ids = [one["id"] if one else None for one in stood]
        row["held"] = np.array([position[id_] for id_ in ids], np.int16)
        for name, tally in (("vote", episode.tallies[0]), ("final", unaided[-1])):
            row[name] = np.array([code(tally["answer"])], np.int16)
        answers = [answer for answer in codes if answer is not None]
        texts = [episode.id, episode.question, *place, *answers, *sources]
        if episode.reference is not None:
            texts.append(episode.reference)
        if not all(isinstance(text, str) for text in texts):
            raise TraceError(
                "the id, the question, a name, the reference, an answer or a measurement is no text"
            )
        self.ids.append(episode.id)
        self.questions.append(episode.question)
        self.references.append(episode.reference)
        self.answers.append(answers)
        self.sources.append([*sources])
        self.agents.append(list(place))
        for count, name in (("groups", "agent"), ("responses", "cluster"), ("holdings", "held")):
            row[count] = np.array([len(row[name])], np.int32)
        row["majority"] = np.array([episode.options.get("consensus") == "majority"], np.uint8)
        for name, values in row.items():
            self.parts.setdefault(name, []).append(values)

    def pack(self) -> None:
        """Join the episodes' arrays, which are many and small."""
        if not self.ids:
            return
        peers = self.parts["peers"]
        width = max(array.shape[1] for array in peers)
        self.parts["peers"] = [_widened(array, width) for array in peers]
        self.columns = {name: np.concatenate(values) for name, values in self.parts.items()}
        self.parts.clear()
        self.peers = width // len(FEATURES)
        self.rollouts = int(self.columns["rollouts"].max(initial=0))

    def batch(self, schema: pa.Schema) -> pa.RecordBatch:
        """Return the columns as rows of episodes, padded to the widths of `schema`."""
        columns = dict(self.columns)
        rollouts, features = (
            schema.field(n).type.value_type.list_size for n in ("action", "peers")
        )
        filled = np.arange(rollouts) < columns["rollouts"][:, None]
        for name in _BY_ROLLOUT:
            padded = np.zeros(filled.shape, columns[name].dtype)
            padded[filled] = columns[name]
            columns[name] = padded
        columns["peers"] = _widened(columns["peers"], features)
        offsets = {
            name: pa.array(np.append(0, np.cumsum(columns[name])), pa.int32())
            for name in ("groups", "responses", "holdings")
        }
        arrays: dict[str, pa.Array] = {
            "id": pa.array(self.ids, pa.string()),
            "question": pa.array(self.questions, pa.string()),
            "reference": pa.array(self.references, pa.string()),
            "answers": pa.array(self.answers, schema.field("answers").type),
            "sources": pa.array(self.sources, schema.field("sources").type),
            "agents": pa.array(self.agents, schema.field("agents").type),
            **{name: pa.array(columns[name]) for name in _BY_EPISODE},
        }
        for entry in schema:
            if entry.name in arrays:
                continue
            values: pa.Array = pa.array(columns[entry.name].ravel())
            if pa.types.is_fixed_size_list(entry.type.value_type):
                values = pa.FixedSizeListArray.from_arrays(values, type=entry.type.value_type)
            of = offsets[_axis(entry.name)]
            arrays[entry.name] = pa.ListArray.from_arrays(of, values, type=entry.type)
        return pa.record_batch([arrays[name] for name in schema.names], schema=schema)


def _of_responses(
    episode: Episode, code: Callable[[str | None], int], sources: dict[str, int]
) -> dict[str, np.ndarray]:
    """Return the columns by response; numbers the measurements in `sources`."""
    unaided = first_hint(episode)
    rows: list[tuple[int, int, int, int, bool, bool]] = []
    confidences = []
    for one in episode.responses.values():
        said, cluster = one["critique"], one["cluster"]
        confidence = raw_confidence(said) if said is not None else None
        confidences.append(math.nan if confidence is None else confidence)
        rows.append(
            (
                _NONE if cluster is None else cluster,
                _NONE if cluster is None else code(one["answer"]),
                _NONE if cluster is None else code(episode.representatives[cluster]),
                _NONE if said is None else sources.setdefault(said["source"], len(sources)),
                stage_of(one) == "refined",
                one["round"] < unaided,
            )
        )
    numbers = np.array(rows, np.int16).reshape(-1, len(_BY_RESPONSE) - 1)
    return {
        "confidence": np.array(confidences, np.float64),
        **{name: numbers[:, i] for i, name in enumerate(_BY_RESPONSE[1:])},
    }


def _widened(array: np.ndarray, width: int) -> np.ndarray:
    if array.shape[1] == width:
        return array
    wider = np.zeros((len(array), width), array.dtype)
    wider[:, : array.shape[1]] = array
    return wider


def schema_of(rollouts: int, peers: int) -> pa.Schema:
    """Return the schema of columns of so many rollouts and peers; see `unpacked`."""
    features = len(FEATURES)

    def by_group(kind: pa.DataType, width: int | None = None) -> pa.DataType:
        if width is not None:
            kind = pa.list_(pa.field("item", kind, False), width)
        return pa.list_(pa.field("item", kind, False))

    types = {
        **{name: pa.list_(pa.field("item", pa.int16(), False)) for name in _BY_RESPONSE},
        "id": pa.string(),
        "question": pa.string(),
        "reference": pa.string(),
        "answers": by_group(pa.string()),
        "sources": by_group(pa.string()),
        "agents": by_group(pa.string()),
        "vote": pa.int16(),
        "final": pa.int16(),
        "majority": pa.uint8(),
        "agent": by_group(pa.int16()),
        "round": by_group(pa.int16()),
        "taken": by_group(pa.int8()),
        "disagreement": by_group(pa.uint8()),
        "before": by_group(pa.int16()),
        "without": by_group(pa.int16()),
        "rollouts": by_group(pa.int16()),
        "mask": by_group(pa.uint8(), len(ACTIONS)),
        "behaviour": by_group(pa.float32(), len(ACTIONS)),
        "action": by_group(pa.int8(), rollouts),
        "answer": by_group(pa.int16(), rollouts),
        "consensus": by_group(pa.int16(), rollouts),
        "tokens": by_group(pa.float32(), rollouts),
        "response": by_group(pa.int16(), rollouts),
        "own": by_group(pa.float32(), features),
        "peers": by_group(pa.float32(), peers * features),
        "held": by_group(pa.int16()),
        "confidence": by_group(pa.float64()),
    }
    return pa.schema([pa.field(n, kind, n == "reference") for n, kind in types.items()])


def _axis(name: str) -> str:
    """Return what the lists of a column are of."""
    if name in _BY_RESPONSE:
        return "responses"
    return "holdings" if name == "held" else "groups"


def unpacked(batch: pa.RecordBatch) -> dict[str, np.ndarray]:
    """Return the columns by group as arrays, without copying.

    Returns:
        By episode, ``[E]``: ``groups``, ``responses`` and ``holdings`` (how many), ``vote`` and
        ``final`` (what the team answered before and after deliberating), ``majority`` (its rule;
        else by confidence). By response, ``[R]``: ``confidence`` as the critic gave it (NaN: none),
        ``source`` (index into the episode's ``sources``), ``cluster``, ``said`` (its answer),
        ``stands`` (the answer that stands for its cluster), ``refined``, ``unaided`` (before any
        hint). By holding, ``[H]``: ``held``, the response that each agent held after each round,
        round 0 first. By group, ``[G]``: ``agent`` (position in the
        team), ``round``, ``taken``, ``disagreement``, ``before``, ``without``, ``rollouts``;
        ``mask`` and ``behaviour [G, 3]``; ``action``, ``answer``, ``consensus``, ``tokens`` and
        ``response [G, K]``, of which the first ``rollouts`` count; ``own [G, F]``; ``peers
        [G, P * F]``.
        Answers are indices into the episode's ``answers``, responses into its responses, -1 for
        none.
    """
    result = {name: batch[name].to_numpy() for name in _BY_EPISODE}
    for entry in batch.schema:
        column = batch[entry.name]
        if entry.name in _TEXTS or not pa.types.is_list(entry.type):
            continue
        result.setdefault(_axis(entry.name), np.diff(column.offsets.to_numpy()))
        values = column.flatten()
        if pa.types.is_fixed_size_list(values.type):
            width = values.type.list_size
            result[entry.name] = values.flatten().to_numpy().reshape(-1, width)
        else:
            result[entry.name] = values.to_numpy()
    return result
