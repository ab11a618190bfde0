"""The small model as a LangChain chat model, in process: no server, no key, no download.

    from examples.tiny_lm.chat_model import make

    make().invoke("Kim has 12 coins. Ann has 3 times as many coins as Kim. How many ...?").content

Calls that come at the same time, from threads or coroutines, are decoded as one batch. Results
look like those of ChatOpenAI on a vLLM server: log-probabilities, finish reason and usage.
"""

import asyncio
import atexit
import queue
import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from examples.tiny_lm.generate import Request, Sample, decode
from examples.tiny_lm.prompts import PROPOSE_TEMPERATURE
from examples.tiny_lm.text import prompt_tokens
from mpdf_langgraph.errors import ConfigurationError, EndpointError

MODEL_FOLDER = Path(__file__).parent / "model"
ROLES = {"system": "system", "human": "user", "ai": "assistant"}
GATHER_SECONDS = 0.003
"""How long a batch waits for more calls after its first one."""
OPTIONS = {
    "temperature", "max_tokens", "max_completion_tokens", "seed", "logprobs", "top_logprobs",
    "extra_body",
}  # fmt: skip


class Engine:
    """One loaded model with a thread that decodes whatever has been submitted, in batches."""

    def __init__(self, folder: Path, max_batch: int = 64) -> None:
        """Loads the folder. `ConfigurationError`: there is no model in it."""
        if not (folder / "model.safetensors").is_file():
            raise ConfigurationError(
                f"there is no model in {folder}; train one with "
                "`python examples/tiny_lm/train.py` and copy its model/ folder there"
            )
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        self.model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.context: int = self.model.config.max_position_embeddings
        self.max_batch = max_batch
        self._queue: queue.SimpleQueue[tuple[Request, Future[Sample]] | None] = queue.SimpleQueue()
        self._ended = False
        self._thread = threading.Thread(
            target=self._work, name=f"decode {folder.name}", daemon=True
        )
        self._thread.start()
        # A thread that is still in torch when the interpreter goes away would abort the process.
        atexit.register(self._end)

    def _end(self) -> None:
        self._ended = True
        self._queue.put(None)
        self._thread.join(timeout=30)

    def submit(self, request: Request) -> Future[Sample]:
        """Queues a request.

        Raises:
            EndpointError: Prompt and output together do not fit into the model's context.
        """
        if len(request.prompt) + request.max_tokens > self.context:
            raise EndpointError(
                f"a prompt of {len(request.prompt)} tokens and max_tokens={request.max_tokens} "
                f"exceed the context of {self.context} tokens"
            )
        future: Future[Sample] = Future()
        self._queue.put((request, future))
        return future

    def _gather(self) -> list[tuple[Request, Future[Sample]]]:
        """Returns a batch of calls that wait. There is none at the end."""
        batch: list[tuple[Request, Future[Sample]]] = []
        until = None  # no limit for the first one
        while len(batch) < self.max_batch:
            try:
                wait = None if until is None else max(0.0, until - time.monotonic())
                one = self._queue.get(timeout=wait)
            except queue.Empty:
                break
            if one is None:
                break
            batch.append(one)
            until = until or time.monotonic() + GATHER_SECONDS
        # From here on a call can no longer be cancelled, so that its result finds its place.
        return [(request, f) for request, f in batch if f.set_running_or_notify_cancel()]

    def _work(self) -> None:
        # So small a model gains nothing from a second thread, and where another program keeps
        # a core busy, threads that wait for each other slow it down twentyfold.
        torch.set_num_threads(1)
        while not self._ended:
            batch = self._gather()
            if not batch:
                continue
            futures = [future for _, future in batch]
            try:
                for row, result in decode(self.model, [request for request, _ in batch]):
                    futures[row].set_result(result)
                    if self._ended:
                        return
            except Exception as error:  # whoever waits must hear of it, and the thread lives on
                for future in futures:
                    if not future.done():
                        future.set_exception(error)


@lru_cache(maxsize=8)
def engine_for(folder: Path) -> Engine:
    """Returns the engine of a folder. Models on one folder share it, and so their batches."""
    return Engine(folder)


class TinyChatModel(BaseChatModel):
    """A chat model that runs a folder of `train.py` in process.

    Per call it honours `temperature`, `max_tokens`, `stop`, `seed`, `logprobs`, `top_logprobs`
    and `extra_body={"structured_outputs": {"choice": [...]}}`, as vLLM does.

    Attributes:
        folder: The model's folder.
        model_name: What results bear as the model's name.
        temperature: Sampling temperature. The log-probabilities are those at temperature 1.
        max_tokens: Longest answer.
        seed: If given, equal conversations get equal answers, whatever else is in the batch.
        logprobs: Whether results carry the log-probabilities of the sampled tokens.
        top_logprobs: How many of the most probable tokens to report at every step.
    """

    folder: Path = MODEL_FOLDER
    model_name: str = "tiny-lm"
    temperature: float = PROPOSE_TEMPERATURE
    max_tokens: int = 192
    seed: int | None = None
    logprobs: bool = True
    top_logprobs: int = 0

    def __init__(self, **fields: Any) -> None:
        """Loads the folder at once, so that a missing one is noticed here."""
        super().__init__(**fields)  # before the engine: pydantic would wrap its errors
        engine_for(self.folder.resolve())

    @property
    def _llm_type(self) -> str:
        return "tiny-lm"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {
            "model_name": self.model_name,
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "seed": self.seed,
        }

    def get_num_tokens(self, text: str) -> int:
        """Counts the tokens of a text."""
        return len(engine_for(self.folder.resolve()).tokenizer.encode(text))

    def _generate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, *_: Any, **kwargs: Any
    ) -> ChatResult:
        call = _Call(self, messages, stop, kwargs)
        return call.result(call.engine.submit(call.request).result())

    async def _agenerate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, *_: Any, **kwargs: Any
    ) -> ChatResult:
        call = _Call(self, messages, stop, kwargs)
        return call.result(await asyncio.wrap_future(call.engine.submit(call.request)))


class _Call:
    """One call: its options made into a request, and the sample made into a result."""

    def __init__(
        self,
        model: TinyChatModel,
        messages: Sequence[BaseMessage],
        stop: list[str] | None,
        options: dict[str, Any],
    ) -> None:
        unknown = {name for name, value in options.items() if value is not None} - OPTIONS
        if unknown:
            raise ConfigurationError(f"TinyChatModel has no option {', '.join(sorted(unknown))}")
        self.engine = engine_for(model.folder.resolve())
        self.tokenizer = self.engine.tokenizer
        self.name = model.model_name
        self.stop = [stop] if isinstance(stop, str) else list(stop or [])

        def option(name: str) -> Any:
            value = options.get(name)
            return getattr(model, name) if value is None else value

        self.logprobs = bool(option("logprobs"))
        seed = option("seed")
        longest = options.get("max_completion_tokens") or option("max_tokens")
        if not isinstance(longest, int) or longest < 1:
            raise ConfigurationError(f"max_tokens must be 1 or more, got {longest!r}")
        if not 0 <= option("temperature") <= 10:
            raise ConfigurationError(
                f"temperature must be between 0 and 10, got {option('temperature')!r}"
            )
        self.request = Request(
            prompt=prompt_tokens(self.tokenizer, [_as_dict(message) for message in messages]),
            temperature=float(option("temperature")),
            max_tokens=longest,
            seed=random.getrandbits(64) if seed is None else seed,
            choices=tuple(
                tuple(self.tokenizer.encode(choice, add_special_tokens=False))
                for choice in _choices(options.get("extra_body") or {})
            ),
            top_logprobs=int(option("top_logprobs")) if self.logprobs else 0,
            stop=self._stops if self.stop else None,
        )

    def _stops(self, tokens: list[int]) -> bool:
        text = self.tokenizer.decode(tokens)
        return any(stop in text for stop in self.stop)

    def result(self, sample: Sample) -> ChatResult:
        """The sample as ChatOpenAI would return it."""
        text = self.tokenizer.decode(sample.content, skip_special_tokens=True)
        for stop in self.stop:
            text = text.partition(stop)[0]
        prompt, completion = len(self.request.prompt), len(sample.tokens)
        metadata: dict[str, Any] = {
            "model_name": self.name,
            "finish_reason": "stop" if sample.ended or sample.stopped else "length",
            "logprobs": {"content": self._logprobs(sample)} if self.logprobs else None,
            "token_usage": {
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "total_tokens": prompt + completion,
            },
        }
        message = AIMessage(
            text,
            response_metadata=metadata,
            usage_metadata={
                "input_tokens": prompt,
                "output_tokens": completion,
                "total_tokens": prompt + completion,
            },
        )
        generation = ChatGeneration(
            message=message, generation_info={"finish_reason": metadata["finish_reason"]}
        )
        usage = {"model_name": self.name, "token_usage": metadata["token_usage"]}
        return ChatResult(generations=[generation], llm_output=usage)

    def _logprobs(self, sample: Sample) -> list[dict[str, Any]]:
        def entry(token: int, logprob: float) -> dict[str, Any]:
            text = self.tokenizer.decode([token])
            return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

        tops = sample.top or [[]] * len(sample.tokens)
        return [
            {**entry(token, logprob), "top_logprobs": [entry(*pair) for pair in top]}
            for token, logprob, top in zip(sample.tokens, sample.logprobs, tops, strict=True)
        ]


def _as_dict(message: BaseMessage) -> dict[str, str]:
    if message.type not in ROLES:
        raise ConfigurationError(
            f"the small model knows system, user and assistant messages, not {message.type!r}"
        )
    return {"role": ROLES[message.type], "content": str(message.text)}


def _choices(extra_body: dict[str, Any]) -> list[str]:
    constraint = dict(extra_body.get("structured_outputs") or {})
    choices = list(constraint.pop("choice", []))
    unknown = [*constraint, *(key for key in extra_body if key != "structured_outputs")]
    if unknown:
        raise ConfigurationError(
            f"of extra_body TinyChatModel knows structured_outputs.choice, not {unknown}"
        )
    return choices


def make(folder: Path = MODEL_FOLDER, **options: Any) -> TinyChatModel:
    """Returns the small model, the bundled one unless told otherwise."""
    return TinyChatModel(folder=folder, **options)
