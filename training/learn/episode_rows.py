"""An episode as a row of arrays: all that is learned from it, not graded.

There are four tables: its responses, what the team *held* after each round, the *states* (what it
held at each round of decisions, and the moves that it had), and the episode itself. `recorded`
joins and grades the rows of many episodes.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mpdf_langgraph.calibration import STAGES, raw_confidence, stage_of
from mpdf_langgraph.consensus import ConsensusRule, LogOdds, Vote, majority
from mpdf_langgraph.errors import ConfigurationError, TraceError
from mpdf_langgraph.learned_consensus import QuestionConsensus
from mpdf_langgraph.observation import INDEX, describe_response
from mpdf_langgraph.rounds import confidence_of, find_limit, held_by_round
from mpdf_langgraph.router import competences
from mpdf_langgraph.state import ACTIONS, Response
from mpdf_langgraph.traces.records import Episode
from training.collect.questions import hash_told
from training.learn.rewards import Decision, check_tallies, decisions, first_hint, rule_of
from training.learn.trace_rows import Arrays, Row

#: Features of a response alone, whoever holds it.
OF_RESPONSE = (
    "steps", "operators", "length", "hedges", "claimed_confidence", "claim_given", "truncated",
    "refined", "confidence", "confidence_known", "logprob", "logprob_known", "logprob_raw",
    "lowest_window", "self_verdict", "self_known",
)  # fmt: skip
#: Their places among the features of an observation.
OWN = [INDEX[name] for name in OF_RESPONSE]
#: Those that are 1/2 where nothing is known of them.
HALF = ("claimed_confidence", "confidence", "logprob", "self_verdict")
_NOTHING = {name: 0.5 if name in HALF else 0.0 for name in OF_RESPONSE}
#: More rounds of decisions than these are not told apart.
MOST_LEFT = 10_000
#: Of `previous`: the first round, in which nobody has changed.
UNCHANGED = -1
#: Kinds of consensus rules. A callable of the user's own is in no record.
CONFIDENCE, MAJORITY, LEARNED, LOG_ODDS, CUSTOM = range(5)


def _table(*shape: int, dtype: Any = np.float64) -> Any:
    return np.zeros((0, *shape), dtype)


#: The arrays of no row, for a team of one agent. `make_row` says what they are.
EMPTY: Arrays = {
    "static": _table(len(OF_RESPONSE), dtype=np.float32),
    "cluster": _table(dtype=np.int32),
    "answer": _table(dtype=np.int32),
    "author": _table(dtype=np.int16),
    "confidence": _table(),
    "raw": _table(),
    "source": _table(dtype=np.int16),
    "stage": _table(dtype=np.int8),
    "judged": _table(dtype=bool),
    "base": _table(),
    "held": _table(1, dtype=np.int32),
    "elected": _table(dtype=np.int32),
    "before": _table(1, dtype=np.int32),
    "previous": _table(1, dtype=np.int32),
    "moves": _table(1, 1, dtype=np.int32),
    "action": _table(1, 1, dtype=np.int8),
    "tokens": _table(1, 1, dtype=np.float32),
    "taken": _table(1, dtype=np.int16),
    "mask": _table(1, len(ACTIONS), dtype=bool),
    "behaviour": _table(1, len(ACTIONS), dtype=np.float32),
    "competence": _table(1, dtype=np.float32),
    "round": _table(dtype=np.int32),
    "left": _table(dtype=np.int32),
    "cut": _table(dtype=bool),
    "size": _table(dtype=np.int64),
    "pair": _table(1, 1),
    "rule": _table(8),
    "sizes": _table(4, dtype=np.int32),
}


def make_row(episode: Episode) -> Row:
    """Return an episode's tables, N agents with up to K moves each.

    Responses, clusters and actions are numbered from 1. 0 means none. Padding is 0, too. Answers
    are positions in the text ``"answers"``, which begins with the representatives, -1 for none.
    Agents are positions in the team. Rounds after a person's hint are left out, because the hint
    may give the answer away.

    - By response ``[R]``: ``static`` (`OF_RESPONSE`), ``cluster``, ``answer``, ``author``,
      ``confidence`` and ``raw`` (before any calibration), below 0 where unknown, ``source`` and
      ``stage`` of the confidence, ``judged`` (it tells something of confidences), ``base`` (score
      as the only voice, without its confidence).
    - By round after which something is held ``[H]``: ``held`` ``[H, N]``, ``elected`` cluster.
    - By state ``[S]``: see `Joint`.
    - Of the episode: ``size`` of the team, ``rule`` (see `Joint`), ``pair`` if its rule has pairs,
      and ``sizes``: R, H, S, and the number of rows of ``pair``.

    Raises:
        TraceError: The record contradicts itself, or the rule its tallies.
    """
    names, responses = episode.team, episode.responses
    if not names or not episode.tallies:
        raise TraceError(f"episode {episode.id}: it has no team, or no consensus")
    hint = first_hint(episode)
    rounds: dict[int, list[Decision]] = {}
    for decision in decisions(episode):
        rounds.setdefault(decision.round, []).append(decision)
    rule = _rule_as_numbers(episode, names)
    held = held_by_round(names, responses, episode.turns)
    if rule.rule is not None:
        check_tallies(episode, rule.rule, held)
    held = [those for round_, those in enumerate(held) if round_ < hint]
    number = {id_: i for i, id_ in enumerate(responses, 1)}
    told = _tell(episode, names, rule, hint)
    arrays = told.arrays | _states(episode, names, rounds, number)
    arrays |= {
        "held": np.array(
            [[number[one["id"]] if one else 0 for one in those.values()] for those in held],
            np.int32,
        ).reshape(len(held), len(names)),
        "elected": np.array(
            [_number(episode.tallies[round_]["cluster"]) for round_ in range(len(held))], np.int32
        ),
        "size": np.array([len(names)]),
        "pair": rule.pair,
        "rule": np.array([[rule.kind, *_ending(episode), *rule.scores]], float),
        "sizes": np.array([[len(responses), len(held), len(rounds), len(rule.pair)]], np.int32),
    }
    texts = {
        "id": episode.id,
        "question": episode.question,
        "told": hash_told(episode),
        "reference": episode.reference,
        "category": episode.category,
        "rule": str(episode.options.get("consensus")),
        "agents": names,
        "answers": told.answers,
        "sources": told.sources,
    }
    return Row(arrays, texts)


class _Told(NamedTuple):
    """The table of the responses, and the texts that it points to."""

    arrays: Arrays
    answers: list[str]
    sources: list[str]


def _tell(episode: Episode, names: list[str], rule: "_Rule", hint: float) -> _Told:
    responses = list(episode.responses.values())
    answers = list(episode.representatives)
    codes: dict[str, int] = {}
    for code, representative in enumerate(answers):
        codes.setdefault(representative, code)
    sources: dict[str, int] = {}
    place = {name: i for i, name in enumerate(names)}
    rows = []
    for one in responses:
        said, answer = one["critique"], one["answer"]
        valid = one["cluster"] is not None and answer is not None
        if valid and answer not in codes:
            codes[answer] = len(answers)  # type: ignore[index]
            answers.append(answer)  # type: ignore[arg-type]
        confidence = confidence_of(one)
        raw = raw_confidence(said) if said else None
        rows.append(
            (
                _number(one["cluster"]),
                codes[answer] if valid else -1,  # type: ignore[index]
                place[one["agent"]],
                -1.0 if confidence is None else confidence,
                -1.0 if raw is None else raw,
                sources.setdefault(said["source"], len(sources)) if said else 0,
                STAGES.index(stage_of(one)),
                valid and raw is not None and one["round"] < hint,
                rule.base_of(one),
            )
        )
    names_of_columns = (
        "cluster", "answer", "author", "confidence", "raw", "source", "stage", "judged", "base",
    )  # fmt: skip
    columns = zip(*rows, strict=True) if rows else [()] * len(names_of_columns)
    arrays = {
        name: np.array(column, EMPTY[name].dtype)
        for name, column in zip(names_of_columns, columns, strict=True)
    }
    described = [[*(_NOTHING | describe_response(one)).values()] for one in responses]
    arrays["static"] = np.array(described, np.float32).reshape(-1, len(OF_RESPONSE))
    return _Told(arrays, answers, [*sources])


def _states(
    episode: Episode,
    names: list[str],
    rounds: dict[int, list[Decision]],
    number: dict[str, int],
) -> Arrays:
    most = max((len(d.moves) for made in rounds.values() for d in made), default=1)
    shape = (len(rounds), len(names))
    before = np.zeros(shape, np.int32)
    taken, action = np.zeros(shape, np.int16), np.zeros((*shape, most), np.int8)
    moves, tokens = np.zeros((*shape, most), np.int32), np.zeros((*shape, most), np.float32)
    previous = np.full(shape, UNCHANGED, np.int32)
    for row, (round_, made) in enumerate(rounds.items()):
        votes = episode.tallies[round_ - 2]["votes"] if round_ > 1 else {}
        for place, decision in enumerate(made):
            for k, move in enumerate(decision.moves):
                action[row, place, k] = move.action + 1
                moves[row, place, k] = number[move.response] if move.response else 0
                tokens[row, place, k] = move.tokens
                if move.taken:
                    taken[row, place] = k
            before[row, place] = moves[row, place, 0]
            if round_ > 1:
                previous[row, place] = _number(votes[decision.agent])
    by_action = (*shape, len(ACTIONS))
    prior = competences(episode.agents)
    limit = episode.options["max_rounds"]
    masks = [[d.mask for d in made] for made in rounds.values()]
    chances = [[d.behaviour for d in made] for made in rounds.values()]
    competence = np.array([prior[name] for name in names], np.float32)
    return {
        "before": before,
        "previous": previous,
        "moves": moves,
        "action": action,
        "tokens": tokens,
        "taken": taken,
        "mask": np.array(masks, bool).reshape(by_action),
        "behaviour": np.array(chances, np.float32).reshape(by_action),
        "competence": np.tile(competence, (len(rounds), 1)),
        "round": np.array([*rounds], np.int32),
        "left": np.array([min(MOST_LEFT, limit - round_ + 1) for round_ in rounds], np.int32),
        "cut": np.array([_is_cut(episode, round_) for round_ in rounds], bool),
    }


def _is_cut(episode: Episode, round_: int) -> bool:
    """Tell whether a budget ended the deliberation after a round, whatever was decided in it."""
    if find_limit([turn for turn in episode.turns if turn["round"] == round_]):
        return True
    last = round_ == len(episode.tallies) - 1
    return bool(last and episode.outcome.get("stop_reason") == "timeout")


def _ending(episode: Episode) -> tuple[float, float]:
    """Return whether agreement ends a deliberation, and the bar for that, below 0: none."""
    bar = episode.options.get("settle_confidence")
    settles = float(episode.options.get("stop_when_settled", True))
    return settles, -1.0 if bar is None else float(bar)


def _number(cluster: int | None) -> int:
    return 0 if cluster is None else cluster + 1


# --- consensus rules ----------------------------------------------------------------------------


class _Rule(NamedTuple):
    """A consensus rule as numbers.

    Attributes:
        kind: Of the rule.
        rule: It. None: a callable of the user's own.
        pair: What a pair of agents adds to the score of their answer, ``[1, N, N]``. Without a row:
            nothing.
        scores: The columns of `Joint.rule` from `NONE` on.
    """

    kind: int
    rule: ConsensusRule | None
    pair: NDArray[np.float64] = EMPTY["pair"]
    scores: tuple[float, float, float, float, float] = (0.0, 0.0, 0.0, 0.0, 0.0)

    def base_of(self, response: Response) -> float:
        """Return the score of a response as the only voice, without its confidence."""
        if response["cluster"] is None:
            return 0.0
        if isinstance(self.rule, LogOdds):
            return self.rule.none
        if isinstance(self.rule, QuestionConsensus):
            refined = response["round"] > 0
            return self.rule.score([Vote(response["agent"], response["cluster"], refined=refined)])
        return 0.0


def _rule_as_numbers(episode: Episode, names: list[str]) -> _Rule:
    try:
        rule = rule_of(episode)
    except ConfigurationError:
        return _Rule(CUSTOM, None)
    if isinstance(rule, QuestionConsensus):
        shared = rule.fitted.shared
        place = {name: i for i, name in enumerate(rule.fitted.agents)}
        at = [place.get(name) for name in names]
        pairs = [[[0.0 if a == b else sum(rule.pair(at[a], at[b])) for b in range(len(at))]
                 for a in range(len(at))]]  # fmt: skip
        of_none = shared.none, shared.none_per_voice
        others = shared.refined_pair, shared.known, shared.confidence
        return _Rule(LEARNED, rule, np.array(pairs), (*of_none, *others))
    if isinstance(rule, LogOdds):
        return _Rule(LOG_ODDS, rule, scores=(rule.none, 0.0, 0.0, 0.0, 1.0))
    return _Rule(MAJORITY if rule is majority else CONFIDENCE, rule)
