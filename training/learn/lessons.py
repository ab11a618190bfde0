"""What a fit learns from: the turns of traces, valued, and in parts by question."""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mpdf_langgraph.calibration import Calibration
from mpdf_langgraph.errors import ConfigurationError
from training.collect.team import remembering_grader
from training.learn.ballots import ballots_of
from training.learn.calibrate import Judged, fit_calibration, judged_of
from training.learn.choices import Comparison, compare
from training.learn.dataset import Groups, check_answer, groups_of, report_of, split
from training.learn.fit_config import Config, read_labels
from training.learn.joint_calibration import joint_of
from training.learn.origins import most_rounds
from training.learn.recorded import ReadingReport, read_recorded
from training.learn.tensors import estimate_competence, set_competence
from training.learn.trace_rows import describe_records, share_of
from training.learn.values import ToTheEnd, Values

View = Callable[[Groups, Mapping[str, float]], Groups]
"""From groups and the agents' competence to the groups as the policy sees them."""

CHOOSING = 0.125
"""Share of the questions that are not held out on which the epochs are chosen."""


@dataclass
class Lessons:
    """What a fit learns from: turns to train on, to choose epochs by and to report, in this order.

    Attributes:
        one_step: The turns as the policy sees them, with what their moves are worth at once.
        parts: The same with what the moves are worth to the end. With one-step values: the same.
        ends: What makes these. None: the values are one-step.
        values: V of the traces' policy. None: the values are one-step.
        competence: Prior competence by agent.
        calibration: Calibration of the critic's confidence, fitted on the first two parts.
        measured: The critic's confidences of responses to held-out questions.
        comparison: The learned consensus, and what rules over the proposals give.
        learned: The learned consensus decides, and not the traces' own rule.
        reading: What was read.
    """

    one_step: list[Groups]
    parts: list[Groups]
    ends: ToTheEnd | None
    values: Values | None
    competence: dict[str, float]
    calibration: Calibration
    measured: Judged
    comparison: Comparison
    learned: bool
    reading: ReadingReport


def prepare(config: Config, view: View = set_competence) -> Lessons:
    """Read the traces of a fit, and value their turns.

    Raises:
        MPDFError: There is nothing to learn from, or an option is wrong.
    """
    check_answer(config.traces, config.answer)
    right = remembering_grader(config.answer)
    labels = read_labels(config.labels) if config.labels else None
    processes = min(8, os.cpu_count() or 1)
    share = share_of(config.traces, config.most_turns)
    recorded = read_recorded(
        config.traces, right, labels, share=share, processes=processes, progress=True
    )
    recorded.check_rules()
    judged, measured = judged_of(recorded).split(config.validation, config.seed)
    calibration = fit_calibration(judged)
    # From here on every confidence is a calibrated one, as it will be where the router runs.
    ballots = ballots_of(recorded, calibration)
    if not len(ballots):
        raise ConfigurationError(
            "no episode has a reference and a valid answer. "
            f"{describe_records(recorded.reading.records, recorded.reading.dropped)}. "
            "Check --traces, --labels and --answer"
        )
    comparison = compare(*ballots.split(config.validation, config.seed), config.seed)
    wanted = {"learned": True, "recorded": False}
    learned = wanted.get(config.consensus, comparison.final_gain.mean >= 0)
    joint = joint_of(recorded, calibration, comparison.consensus if learned else None)
    groups = groups_of(recorded, joint)
    reading = report_of(recorded, groups)
    print(reading)
    for problem in reading.problems:
        print(f"warning: {problem}", file=sys.stderr)
    train, held_out = split(groups, config.validation, config.seed)
    # The epochs are chosen on questions that the report does not quote.
    train, choosing = split(train, CHOOSING, config.seed + 1)
    if not len(groups) and not most_rounds(config.traces):
        raise ConfigurationError(
            "these traces have no rounds of decisions: collect with --rounds 1 or more"
        )
    if not len(train) or not len(choosing) or not len(held_out):
        raise ConfigurationError(
            f"{len(groups)} turns of {len(groups.questions)} questions leave {len(train)} to train "
            f"on, {len(choosing)} to choose by and {len(held_out)} to report: collect more traces, "
            "in which agents disagree"
        )
    del groups  # the parts are copies
    competence = estimate_competence(train)
    parts = one_step = [view(part, competence) for part in (train, choosing, held_out)]
    ends = values = None
    if config.values == "fitted":
        ends = ToTheEnd(joint, one_step, competence, config.seed)
        values, parts = ends.revalue()
    return Lessons(
        one_step,
        parts,
        ends,
        values,
        competence,
        calibration,
        measured,
        comparison,
        learned,
        reading,
    )
