"""Public benchmarks in their own formats, as questions.

    python -m training.evaluate.benchmarks --benchmark gsm8k --data train.jsonl --out train-q.jsonl

writes the questions that `training/collect.py` reads. `--data` is a file (.jsonl, .jsonl.gz or
.parquet) as the benchmark's authors or the Hugging Face Hub publish it. It may also be a dataset's
name on the Hub, if `datasets` is installed and the machine can reach the Hub. Questions are asked
zero-shot: the benchmark's text, the prompt below, and the answer schema's instructions.
"""

import hashlib
import re
import reprlib
import string
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import orjson
from tqdm import tqdm

from mpdf_langgraph import (
    AnswerSchema,
    CodeAnswer,
    CodeTests,
    ConfigurationError,
    MathAnswer,
    Prompts,
)
from mpdf_langgraph.errors import describe_error
from training.collect.questions import Question, TableError, read_table, text_of
from training.collect.team import Answer, check_reference
from training.command import run_command

Name = Literal["gsm8k", "math", "aime", "amc", "mmlu", "humaneval", "mbpp"]
Row = dict[str, Any]

#: For questions that take thinking before an answer.
STEP_BY_STEP = Prompts(propose="{question}\n\nReason step by step. {instructions}")
#: For functions to complete.
PROGRAM = Prompts(
    propose="Complete this Python function.\n\n```python\n{question}\n```\n\n{instructions}"
)
#: For programs to write from a description.
TASK = Prompts(propose="{question}\n\n{instructions}")
_MATH = MathAnswer()
_CHOICES = 4


@dataclass(frozen=True)
class Benchmark:
    """One benchmark: where it is, how it is read, asked and graded.

    Attributes:
        name: Its name.
        convert: A row as it is published -> (question, reference).
        answer: The answer schema, as in `TeamOptions.answer`.
        hub: Dataset on the Hugging Face Hub, its configuration, if it has any, and its test split.
        max_tokens: Longest answer.
        usual_tokens: Usual length of an answer of a model of 3 to 8 billion parameters, roughly.
            For estimates.
        prompts: How it is asked, as ``module:NAME`` of a `Prompts`.
    """

    name: str
    convert: Callable[[Row], tuple[str, str]]
    answer: Answer
    hub: tuple[str, str | None, str]
    max_tokens: int
    usual_tokens: int
    prompts: str = "training.evaluate.benchmarks:STEP_BY_STEP"


# --- formats --------------------------------------------------------------------------------


def _reference(text: str) -> str:
    answer = _MATH.parse(text)
    if answer is None:
        raise TableError(f"no answer in {text[-80:]!r}")
    return answer


def gsm8k(row: Row) -> tuple[str, str]:
    """Convert a row of GSM8K (Cobbe et al. 2021): the answer stands after ``####``."""
    worked = text_of(row, "answer")
    if "####" not in worked:
        raise TableError("'answer' does not end in '#### <number>'")
    return text_of(row, "question"), _reference(worked)


def math(row: Row) -> tuple[str, str]:
    r"""Convert a row of MATH (Hendrycks et al. 2021): the answer is the solution's ``\boxed{}``."""
    solution = text_of(row, "solution")
    if "boxed" not in solution:
        raise TableError("'solution' has no \\boxed{} answer")
    return text_of(row, "problem"), _reference(solution)


def competition(row: Row) -> tuple[str, str]:
    """Convert a row of AIME or AMC: `problem` or `question`, and `answer`, a number."""
    answer = row.get("answer")
    if isinstance(answer, float) and answer.is_integer():
        answer = int(answer)  # 27.0
    if isinstance(answer, bool) or not isinstance(answer, int | float | str):
        raise TableError(f"'answer' must be a number, got {reprlib.repr(answer)}")
    return text_of(row, "problem" if "problem" in row else "question"), _reference(str(answer))


def mmlu(row: Row) -> tuple[str, str]:
    """Convert a row of MMLU (Hendrycks et al. 2021): `choices`, and the place of the right one."""
    choices, answer = row.get("choices"), row.get("answer")
    if not isinstance(choices, Sequence) or isinstance(choices, str) or len(choices) != _CHOICES:
        raise TableError(f"'choices' must be {_CHOICES} texts, got {reprlib.repr(choices)}")
    letters = string.ascii_uppercase[:_CHOICES]
    if isinstance(answer, str) and len(answer) == 1 and answer in letters:
        answer = letters.index(answer)  # as in the authors' own tables
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < _CHOICES:
        raise TableError(f"'answer' must be 0 to {_CHOICES - 1}, got {reprlib.repr(answer)}")
    lettered = (f"{letter}. {choice}" for letter, choice in zip(letters, choices, strict=True))
    return text_of(row, "question") + "\n\n" + "\n".join(lettered), letters[answer]


def humaneval(row: Row) -> tuple[str, str]:
    """Convert a row of HumanEval (Chen et al. 2021): the reference is its tests, as JSON."""
    prompt = text_of(row, "prompt")
    return prompt, CodeTests(text_of(row, "entry_point"), text_of(row, "test"), prompt).to_json()


_CALLED = re.compile(r"(?<![\w.])([A-Za-z_]\w*)\s*\(")
_DEFINED = re.compile(r"^def\s+(\w+)\s*\(", re.MULTILINE)


def mbpp(row: Row) -> tuple[str, str]:
    """Convert a row of MBPP (Austin et al. 2021): the first test is shown, the others are hidden.

    The rows have the line ends of Windows.
    """
    text = text_of(row, "text" if "text" in row else "prompt").replace("\r\n", "\n")
    tests = row.get("test_list")
    if not isinstance(tests, Sequence) or isinstance(tests, str) or len(tests) < 2:
        raise TableError(f"'test_list' must be two tests or more, got {reprlib.repr(tests)}")
    shown, *hidden = (str(test).replace("\r\n", "\n").strip() for test in tests)
    code = text_of(row, "code").replace("\r\n", "\n")
    name = next((n for n in _CALLED.findall(shown) if n in _DEFINED.findall(code)), None)
    if name is None:
        raise TableError(f"the first test calls no function of 'code': {shown!r:.80}")
    setup = row.get("test_setup_code") or "\n".join(row.get("test_imports") or ())
    question = f"{text}\n\nThe function must pass this test:\n\n{shown}"
    setup = setup.replace("\r\n", "\n")
    return question, CodeTests(name, "\n".join(hidden), setup).to_json()


BENCHMARKS: dict[str, Benchmark] = {
    b.name: b
    for b in (
        Benchmark("gsm8k", gsm8k, "math", ("openai/gsm8k", "main", "test"), 512, 180),
        Benchmark("math", math, "math", ("HuggingFaceH4/MATH-500", None, "test"), 1536, 450),
        Benchmark(
            "aime", competition, "math", ("HuggingFaceH4/aime_2024", None, "train"), 3072, 1100
        ),
        Benchmark("amc", competition, "math", ("math-ai/amc23", None, "test"), 2048, 800),
        Benchmark(
            "mmlu", mmlu, "choice", ("cais/mmlu", "all", "test"), 1024, 250
        ),
        Benchmark(
            "humaneval", humaneval, "code", ("openai/openai_humaneval", None, "test"),
            1024, 250, "training.evaluate.benchmarks:PROGRAM",
        ),
        Benchmark(
            "mbpp", mbpp, "code", ("google-research-datasets/mbpp", "full", "test"), 1024, 200,
            "training.evaluate.benchmarks:TASK",
        ),
    )
}  # fmt: skip
assert set(BENCHMARKS) == set(get_args(Name))


# --- reading --------------------------------------------------------------------------------

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def load(benchmark: Benchmark, data: str | None = None, split: str | None = None) -> list[Question]:
    """Return a benchmark's questions.

    Args:
        benchmark: From `BENCHMARKS`.
        data: A file, a folder of a dataset downloaded from the Hugging Face Hub, or the name of a
            dataset there with its configuration behind a colon. None: the benchmark's usual
            place on the Hub.
        split: Split of a dataset. None: its test questions. A file is taken whole.

    Raises:
        TableError: Rows are not in the benchmark's format. The message says which, and why.
        ConfigurationError: There is no such data, or it cannot be reached.
    """
    questions: list[Question] = []
    faults: list[str] = []
    for number, row in _rows(benchmark, data, split):
        try:
            if isinstance(row, TableError):
                raise row
            question, reference = benchmark.convert(row)
            questions.append(Question(f"{benchmark.name}/{number}", question, reference, {}))
        except TableError as error:
            faults.append(f"row {number}: {error}")
    place = data or benchmark.hub[0]
    if faults:
        raise TableError(
            f"{place} is not in the format of {benchmark.name} ({len(faults)} rows): "
            f"{'; '.join(faults[:3])}"
        )
    if not questions:
        raise TableError(f"{place}: there is no question in it")
    return questions


def _rows(
    benchmark: Benchmark, data: str | None, split: str | None
) -> Iterator[tuple[int, Row | TableError]]:
    name, config, test = benchmark.hub
    if data is not None:
        path = Path(data)
        if path.is_file():
            return read_table(path)
        given, _, configuration = data.partition(":")
        if path.is_dir():
            name, config, test = data, None, "test"
        elif not _HUB_NAME.fullmatch(given):
            raise ConfigurationError(
                f"--data {data}: no such file, and no dataset's name (owner/name) either"
            )
        elif given != name or configuration:
            name, config, test = given, configuration or None, "test"
    return enumerate(_read_from_hub(name, config, split or test), 1)


def _read_from_hub(name: str, config: str | None, split: str) -> Iterable[Row]:
    try:
        import datasets  # type: ignore[import-not-found]  # optional: files do not need it
    except ImportError as error:
        raise ConfigurationError(
            f"--data {name} is no file here, and to load it from the Hugging Face Hub takes "
            "`pip install datasets`"
        ) from error
    try:
        return datasets.load_dataset(name, config, split=split)  # type: ignore[no-any-return]
    except Exception as error:  # of many libraries: no network, no such dataset or split, gated
        raise ConfigurationError(
            f"{name} ({config or 'no configuration'}, split {split}) cannot be loaded: "
            f"{describe_error(error)}. Download a file of it where the Hub can be reached, and "
            "give its path"
        ) from error


def sample(questions: Sequence[Question], limit: int | None) -> list[Question]:
    """Return so many of the questions, the same ones every time, in their order.

    They are spread over the file, which may be sorted by subject.
    """
    if limit is None or limit >= len(questions):
        return list(questions)
    if limit < 1:
        raise ConfigurationError(f"--limit must be 1 or more, got {limit}")
    order = sorted(
        range(len(questions)), key=lambda k: hashlib.sha256(questions[k].id.encode()).digest()
    )
    return [questions[k] for k in sorted(order[:limit])]


def leave_out_unusable(questions: Sequence[Question], schema: AnswerSchema) -> list[Question]:
    """Return the questions whose references can be used, and print which cannot.

    A few of MBPP's tests call a function with a class or another function. These cannot be sent
    into the sandbox.

    Raises:
        SandboxError: Programs cannot be run here.
    """
    kept = []
    for question in tqdm(questions, desc="check tests", unit="question", leave=False, delay=1):
        try:
            check_reference(str(question.reference), schema)
            kept.append(question)
        except ConfigurationError as error:
            print(f"{question.id} is left out: {error}")
    return kept


def as_row(question: Question) -> Mapping[str, Any]:
    """Return a question as the commands of `training` read it."""
    return {"id": question.id, "question": question.question, "reference": question.reference}


@dataclass(frozen=True)
class ConvertOptions:
    """Options of the conversion."""

    benchmark: Name
    """The benchmark."""
    out: Path
    """File for the questions: JSON Lines."""
    data: str | None = None
    """File, folder or dataset, see above. Default: the benchmark's usual place on the Hub."""
    split: str = "train"
    """Split of a dataset from the Hub. A file is taken whole."""
    limit: int | None = None
    """Take only so many questions, spread over the file."""


def main(options: ConvertOptions) -> None:
    """Write the questions."""
    questions = load(BENCHMARKS[options.benchmark], options.data, options.split)
    chosen = sample(questions, options.limit)
    if BENCHMARKS[options.benchmark].answer == "code":
        chosen = leave_out_unusable(chosen, CodeAnswer())
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_bytes(b"".join(orjson.dumps(as_row(q)) + b"\n" for q in chosen))
    print(f"{len(chosen)} of {len(questions)} questions written to {options.out}")


if __name__ == "__main__":
    run_command(main, ConvertOptions, __doc__)
