"""An episode as its graph would have recorded it with another calibration of the confidences."""

from collections.abc import Callable

from mpdf_langgraph.calibration import Calibration
from mpdf_langgraph.consensus import ConsensusRule, concession, count_votes
from mpdf_langgraph.learned_consensus import LearnedConsensus, describe_rule
from mpdf_langgraph.observation import FEATURE_VERSION, Situation, observe
from mpdf_langgraph.rounds import Held, held_by_round
from mpdf_langgraph.router import competences
from mpdf_langgraph.state import Observation, Response, Turn
from mpdf_langgraph.traces.records import Episode
from training.learn.rewards import check_tallies, rule_of


def recalibrate(
    episode: Episode,
    calibration: Calibration,
    consensus: LearnedConsensus | None = None,
) -> Episode:
    """Return the episode with its confidences calibrated, and all that follows from them.

    That is the consensus after every round, whom CONCEDE would have adopted, and what the router
    would have seen. What was done stays done: who did concede holds the response that it adopted,
    and the outcome is what the caller got. ``Calibration({})`` gives the confidences back as the
    critic gave them. `consensus` decides in place of the episode's rule.

    Raises:
        ConfigurationError: The rule is not built in.
        TraceError: The record contradicts the rule.
    """
    rule = rule_of(episode)
    check_tallies(episode, rule, holdings(episode))
    options = {key: value for key, value in episode.options.items() if key != "calibration"}
    if calibration.root:
        options["calibration"] = calibration.model_dump()
    options["feature_version"] = FEATURE_VERSION
    if consensus is not None:
        rule = consensus.of(episode.category)
        options |= describe_rule("learned", consensus)
    calibrated = with_responses(episode, calibration.apply)
    return rebuild(calibrated.model_copy(update={"options": options}), rule)


def with_responses(episode: Episode, change: Callable[[Response], Response]) -> Episode:
    """Return the episode with its responses changed, and nothing that follows from them."""
    responses = {id_: change(one) for id_, one in episode.responses.items()}
    return episode.model_copy(update={"responses": responses})


def rebuild(changed: Episode, rule: ConsensusRule) -> Episode:
    """Return an episode with all that follows from the confidences of its responses.

    See `recalibrate`.
    """
    rounds = holdings(changed)
    tallies = [count_votes(held, rule, changed.representatives) for held in rounds]
    changed = changed.model_copy(update={"tallies": tallies})
    seen = {r: observations(changed, r) for r in range(1, len(rounds))}
    turns = [_turn(t, rounds[t["round"] - 1], seen[t["round"]]) for t in changed.turns]
    return changed.model_copy(update={"turns": turns})


def holdings(episode: Episode) -> list[dict[str, Response | None]]:
    """Return what every agent held after each round, round 0 first."""
    names = episode.team
    return held_by_round(names, episode.responses, episode.turns)


def observations(episode: Episode, round_: int) -> dict[str, Observation]:
    """Return a round's observations by agent, from nothing but the responses and tallies.

    They equal those recorded, unless another feature version recorded them.
    """
    turns = {turn["agent"]: turn for turn in episode.turns if turn["round"] == round_}
    before = {name: turns[name]["before"] for name in episode.team}
    return observe(
        Situation(
            held={n: episode.responses[i] if i else None for n, i in before.items()},
            previous=episode.tallies[round_ - 2]["votes"] if round_ > 1 else {},
            competence=competences(episode.agents),
            round=round_,
            max_rounds=episode.options["max_rounds"],
        )
    )


def _turn(turn: Turn, before: Held, seen: dict[str, Observation]) -> Turn:
    target = turn["target"]
    if target is not None and turn["action"] != "CONCEDE":
        target = concession(before, turn["agent"])
    return Turn({**turn, "observation": seen[turn["agent"]], "target": target})
