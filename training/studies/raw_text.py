"""Raw text in place of the structured state: an ablation of what the policy sees.

Every response, own and peers' alike, becomes hashed counts of its words and pairs of words, and
goes into the same network. The network is not told who agrees with whom, how sure the critic is,
or which round it is. It has to find that out from the texts.
"""

import re
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from zlib import crc32

import numpy as np

from mpdf_langgraph import Episode, TraceReader
from training.learn.dataset import Groups

BUCKETS = 256
_TOKENS = re.compile(r"\w+|[^\w\s]")


def hash_text(text: str) -> np.ndarray:
    """Return the signed, hashed counts of a text's words and pairs, ``[BUCKETS]`` of length 1.

    The sign keeps colliding words from adding up (Weinberger et al. 2009). An empty text is 0.
    """
    words = _TOKENS.findall(text.lower())
    grams = [*words, *(f"{a} {b}" for a, b in pairwise(words))]
    codes = np.array([crc32(gram.encode(errors="replace")) for gram in grams], np.uint32)
    counts = np.bincount(codes % BUCKETS, 1.0 - 2.0 * (codes >> 31), minlength=BUCKETS)
    return np.asarray(counts / max(1.0, float(np.linalg.norm(counts))), np.float32)


def featurise(groups: Groups, traces: Iterable[Path]) -> Groups:
    """Return the groups of traces with the texts held at each decision as their features.

    These are `own` ``[G, BUCKETS]`` and `peers` ``[G, P, BUCKETS]``.
    """
    own = np.zeros((len(groups), BUCKETS), np.float32)
    peers = np.zeros((*groups.peer_mask.shape, BUCKETS), np.float32)
    order = np.argsort(groups.episode, kind="stable")
    found, starts = np.unique(groups.episode[order], return_index=True)
    parts = np.split(order, starts[1:])
    rows = {groups.episodes[i]: part for i, part in zip(found, parts, strict=False)}
    for episode in TraceReader(traces):
        for row, mine, others in _texts(groups, rows.get(episode.id, ()), episode):
            own[row] = mine
            peers[row, : len(others)] = others
    return replace(groups, own=own, peers=peers)


def _texts(
    groups: Groups, rows: Iterable[int], episode: Episode
) -> Iterable[tuple[int, np.ndarray, list[np.ndarray]]]:
    """Yield each row of an episode with its own vector and those of its peers, in their order."""
    vectors: dict[str | None, np.ndarray] = {None: hash_text("")}
    held: dict[tuple[int, str], np.ndarray] = {}
    for row in rows:
        if not held:
            for turn in episode.turns:
                id_ = turn["before"]
                if id_ is not None and id_ not in vectors:
                    vectors[id_] = hash_text(episode.responses[id_]["text"])
                held[turn["round"], turn["agent"]] = vectors[id_]
        round_, name = int(groups.round[row]), groups.agents[groups.agent[row]]
        others = [agent["name"] for agent in episode.agents if agent["name"] != name]
        yield row, held[round_, name], [held[round_, other] for other in others]
