"""Coverage-guided fuzzing of whatever reads what others wrote.

    python -m tests.torture.fuzz math 100000      # one target

It uses atheris (libFuzzer), where it is installed. Most runs begin with short inputs, which grow as
they find nothing new. The last runs have inputs of any length from the start. Elsewhere hypothesis
draws mutations of the same examples, without guidance. A target may raise this package's own errors
and no others.
"""

import os
import random
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from tests.support.paths import ROOT
from tests.torture.table import Row, timed

Target = Callable[[bytes], object]
#: Of the runs with atheris, so many have inputs of any length. A long input can take 10 ms.
ANY_LENGTH = 0.1
#: Runs at scale 1. Files cost more than texts.
RUNS = {
    "record": 400_000, "reader": 60_000, "math": 120_000, "choice": 150_000, "text": 120_000,
    "code": 60_000, "structured": 60_000, "thoughts": 100_000, "router": 20_000,
    "questions": 20_000, "waiting": 150_000,
}  # fmt: skip
EXAMPLES = {
    "math": [r"The answer is \boxed{\frac{1}{2}}", "#### 1,234.50 km", "x=3 or x=-3", "(1, 2]"],
    "choice": ["The answer is (B).", "Answer: C", "**A**", "A) or B)?"],
    "text": ["Answer: Rome.", "The final answer is:\n\n**Rome**"],
    "code": ["```python\ndef add(a, b):\n    return a + b\n```", "def f(): pass"],
    "structured": ['{"n": 4, "items": ["a"]}', '```json\n{"n": 1e3}\n```'],
    "thoughts": ["<think>4?</think>Answer: 4", "<|channel|>analysis<|message|>x", "Confidence: 7%"],
    "waiting": ["3", "Wed, 21 Oct 2026 07:28:00 GMT", "1e999"],
    "questions": [
        '{"question": "a?", "reference": "4", "contexts": {"ann": "x"}}\n',
        "\ufeff{}\n[]",
    ],
}


def text_of(data: bytes) -> str:
    """Return a text, lone surrogates included."""
    return data[1:].decode("utf-8", "surrogateescape" if data[:1] < b"\x10" else "replace")


def make_target(name: str, folder: Path) -> tuple[Target, list[bytes]]:
    """Return what is fuzzed, and examples to start from."""
    from mpdf_langgraph import (
        ChoiceAnswer,
        CodeAnswer,
        Episode,
        MathAnswer,
        StructuredAnswer,
        TextAnswer,
        TraceReader,
        load_router,
    )
    from mpdf_langgraph.answers.thoughts import split_thought
    from mpdf_langgraph.frames import break_template_tokens, quote_text
    from mpdf_langgraph.response_profile import reasoning_profile
    from mpdf_langgraph.runtime.retries import retry_after
    from tests.support.synthetic import synthetic_episodes
    from training.collect.questions import read_questions

    folder.mkdir(parents=True, exist_ok=True)
    examples = [b"\xff" + text.encode() for text in EXAMPLES.get(name, [])]
    schema = {
        "type": "object",
        "properties": {
            "n": {"type": "number"},
            "items": {"type": "array", "items": {"type": "string"}},
        },
    }
    schemas: dict[str, Any] = {
        "math": MathAnswer, "choice": lambda: ChoiceAnswer(4), "text": TextAnswer,
        "code": CodeAnswer, "structured": lambda: StructuredAnswer(schema),
    }  # fmt: skip
    if name in schemas:
        answer = schemas[name]()
        return lambda data: answer.parse(text_of(data)), examples
    if name == "thoughts":

        def read(data: bytes) -> None:
            text = text_of(data)
            split_thought(text)
            reasoning_profile(text)
            quote_text(text)
            break_template_tokens(text)

        return read, examples
    if name == "waiting":
        return lambda data: retry_after({"retry-after": text_of(data)}), examples
    path = folder / "fuzzed.jsonl"
    if name == "questions":

        def ask(data: bytes) -> None:
            path.write_bytes(data[1:])
            read_questions(path)

        return ask, examples
    if name == "router":
        source = ROOT / "examples" / "tiny_lm" / "router"
        (folder / "policy.onnx").write_bytes((source / "policy.onnx").read_bytes())

        def load(data: bytes) -> None:
            (folder / "router.json").write_bytes(data)
            load_router(folder)

        return load, [(source / "router.json").read_bytes()]
    episodes = list(synthetic_episodes(3, rounds=1, alternatives=1))
    records = [e.to_json(packed=packed) for e in episodes for packed in (False, True)]
    if name == "record":
        return Episode.from_json, records

    def read_file(data: bytes) -> None:
        path.write_bytes(data)
        list(TraceReader(path))

    return read_file, [b"\n" + record for record in records]


def _guarded(target: Target) -> Target:
    from mpdf_langgraph import MPDFError

    def run(data: bytes) -> None:
        with suppress(MPDFError):
            target(data)

    return run


def _fuzz_guided(name: str, runs: int, folder: Path) -> None:
    import atheris

    with atheris.instrument_imports(include=["mpdf_langgraph", "training.collect.questions"]):
        target, examples = make_target(name, folder / "files")
    corpus = folder / "corpus"  # what the first pass finds, the second starts from
    corpus.mkdir(exist_ok=True)
    for number, example in enumerate(examples):
        (corpus / f"example-{number}").write_bytes(example)
    options = ["-timeout=60", "-rss_limit_mb=4096", "-max_len=16384", "-reload=0",
               f"-artifact_prefix={folder}/"]  # fmt: skip
    long = max(1, round(ANY_LENGTH * runs))
    for count, control in ((runs - long, 100), (long, 0)):
        child = os.fork()  # libFuzzer ends its process
        if child == 0:
            passed = [f"-runs={count}", f"-len_control={control}", *options]
            atheris.Setup([name, str(corpus), *passed], _guarded(target))
            atheris.Fuzz()
        if status := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
            sys.exit(abs(status))


def _fuzz_blindly(name: str, runs: int, folder: Path) -> None:
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st

    target, examples = make_target(name, folder / "files")
    run = _guarded(target)

    @settings(max_examples=runs, deadline=None, database=None, suppress_health_check=HealthCheck)
    @given(st.sampled_from(examples), st.binary(max_size=200), st.randoms(use_true_random=False))
    def attack(example: bytes, noise: bytes, chance: random.Random) -> None:
        start, end = sorted(chance.randrange(len(example) + 1) for _ in range(2))
        run(example[:start] + noise + example[end:] if chance.random() < 0.8 else noise)

    attack()
    print(f"Done {runs} runs", file=sys.stderr)  # noqa: T201


def has_atheris() -> bool:
    """Tell whether fuzzing is guided by coverage."""
    from importlib.util import find_spec

    return find_spec("atheris") is not None


def fuzz(name: str, scale: float, folder: Path, progress: Callable[[str], None]) -> Row:
    """Fuzz a target in a process of its own."""
    how = "atheris" if has_atheris() else "hypothesis, not guided"
    with timed(Row(f"fuzz: {name} ({how})")) as row:
        folder.mkdir(parents=True, exist_ok=True)
        runs = max(50, round(RUNS[name] * scale))
        done = subprocess.run(
            [sys.executable, "-m", "tests.torture.fuzz", name, str(runs), str(folder)],
            cwd=ROOT, capture_output=True, text=True, errors="replace", check=False,
        )  # fmt: skip
        counts = re.findall(r"Done (\d+) runs", done.stderr)
        row.attempts = sum(map(int, counts))
        if done.returncode or not counts:
            row.foreign = 1
            said = re.findall(r"^(?:\w*Error|==).*", done.stderr, re.MULTILINE)
            row.note(" | ".join(said[-3:]) or done.stderr[-300:])
        progress(f"{row.attempts:,} runs")
    return row


FUZZ = {f"fuzz-{name}": partial(fuzz, name) for name in RUNS}


def main(name: str, runs: str, folder: str | None = None) -> None:
    """Fuzz one target. The process ends with it."""
    place = Path(folder or tempfile.mkdtemp())
    warnings.simplefilter("ignore")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    (_fuzz_guided if has_atheris() else _fuzz_blindly)(name, int(runs), place)


if __name__ == "__main__":
    main(*sys.argv[1:])
