"""What traces were made with: their routers, critics, consensus rules and answer schemas."""

import os
from collections.abc import Iterable
from dataclasses import dataclass

from mpdf_langgraph.traces.reader import find_segments, first_episode
from mpdf_langgraph.traces.records import Episode
from training.collect.importing import LOGGED

NO_POLICY = ("random", LOGGED)
"""Routers that only make traces. Nobody should deploy the first, and nobody can the second."""


@dataclass(frozen=True)
class Origins:
    """Names of what traces were made with, each once and in order.

    Attributes:
        routers: Routers.
        critics: Critics. Confidence means something else under another one, so a router must not
            be run with one.
        rules: Consensus rules.
        schemas: Answer schemas.
    """

    routers: tuple[str, ...] = ()
    critics: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    schemas: tuple[str, ...] = ()

    @property
    def deployable(self) -> bool:
        """They have one router, and it is one to deploy."""
        return len(self.routers) == 1 and self.routers[0] not in NO_POLICY

    def mixtures(self) -> list[str]:
        """Return warnings of what differs among the traces of a fit, with what to do."""
        several = (
            ("critics", self.critics, "their confidences mean different things"),
            ("consensus rules", self.rules, "their teams decided in different ways"),
            ("answer schemas", self.schemas, "their answers were compared in different ways"),
        )
        return [
            f"the traces have several {what} ({', '.join(names)}), so {why}. Give the folders of "
            "one."
            for what, names, why in several
            if len(names) > 1
        ]


def origins_of(episodes: Iterable[Episode]) -> Origins:
    """Return what episodes were made with."""
    found = {
        (router_of(e), *(str(e.options.get(key)) for key in ("critic", "consensus", "answer")))
        for e in episodes
    }
    return Origins(*(tuple(sorted(set(names))) for names in zip(*found, strict=True)))


def origins_of_traces(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> Origins:
    """Return what traces were made with, by each segment's first sound episode."""
    firsts = map(first_episode, find_segments(paths))
    return origins_of(episode for episode in firsts if episode is not None)


def most_rounds(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> int:
    """Return how many rounds of decisions traces allow, by each segment's first sound episode."""
    firsts = map(first_episode, find_segments(paths))
    return max((int(e.options.get("max_rounds", 0)) for e in firsts if e is not None), default=0)


def router_of(episode: Episode) -> str:
    """Return the name of an episode's router."""
    router = episode.options.get("router")
    return str(router.get("name") if isinstance(router, dict) else router)
