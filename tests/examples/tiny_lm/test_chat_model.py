import asyncio
import math
import threading

import pytest
import torch
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from examples.tiny_lm.chat_model import GATHER_SECONDS, MODEL_FOLDER, engine_for, make
from examples.tiny_lm.generate import Request, sample
from examples.tiny_lm.questions import make_questions
from examples.tiny_lm.text import prompt_tokens
from mpdf_langgraph.errors import ConfigurationError, EndpointError, MPDFError

QUESTIONS = [question["question"] for question in make_questions("hidden", "train", 8)]
YES_NO = {"structured_outputs": {"choice": ["yes", "no"]}}


@pytest.fixture
def model(folder):
    return make(folder, max_tokens=24)


def conversation(question):
    return [
        SystemMessage("Kim has 12 coins."),
        HumanMessage(question),
        AIMessage("#### 3"),
        HumanMessage("Is that right?"),
    ]


def content(message):
    return message.response_metadata["logprobs"]["content"]


def test_result_looks_like_an_openai_one(model):
    message = model.invoke(conversation(QUESTIONS[0]))
    assert isinstance(message, AIMessage)
    metadata = message.response_metadata
    assert metadata["model_name"] == "tiny-lm"
    assert metadata["finish_reason"] in ("stop", "length")
    usage = message.usage_metadata
    assert usage["output_tokens"] == len(content(message)) <= 24
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert metadata["token_usage"]["prompt_tokens"] == usage["input_tokens"]
    assert all(math.isfinite(entry["logprob"]) for entry in content(message))
    assert all(entry["logprob"] <= 0 for entry in content(message))


def test_usage_counts_the_chat_template(model, folder):
    engine = engine_for(folder.resolve())
    text = "<|system|> Kim has 12 coins.<|end|><|user|> Hi<|end|><|assistant|>"
    message = model.invoke([SystemMessage("Kim has 12 coins."), HumanMessage("Hi")])
    assert message.usage_metadata["input_tokens"] == len(engine.tokenizer.encode(text))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logprobs_are_those_of_a_direct_forward_pass(folder, temperature):
    engine = engine_for(folder.resolve())
    requests = [
        Request(
            prompt_tokens(engine.tokenizer, [{"role": "user", "content": question}]),
            temperature,
            max_tokens=20,
            seed=i,
        )
        for i, question in enumerate(QUESTIONS)
    ]
    for request, result in zip(requests, sample(engine.model, requests), strict=True):
        tokens = torch.tensor([[*request.prompt, *result.tokens]])
        with torch.inference_mode():
            table = engine.model(tokens).logits[0].log_softmax(-1)
        start = len(request.prompt) - 1
        for step, (token, logprob) in enumerate(zip(result.tokens, result.logprobs, strict=True)):
            assert logprob == pytest.approx(table[start + step, token].item(), abs=1e-4)
            if temperature == 0:
                assert logprob == pytest.approx(table[start + step].max().item(), abs=1e-4)


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"temperature": 1.0, "seed": 7}])
async def test_batched_calls_equal_single_ones(model, options):
    alone = [model.invoke(question, **options) for question in QUESTIONS]
    together = await asyncio.gather(*(model.ainvoke(q, **options) for q in QUESTIONS))
    assert [m.content for m in together] == [m.content for m in alone]
    for one, other in zip(alone, together, strict=True):
        assert one.usage_metadata == other.usage_metadata
        assert [e["logprob"] for e in content(one)] == pytest.approx(
            [e["logprob"] for e in content(other)], abs=1e-4
        )


async def test_options_are_per_call_within_a_batch(model):
    lengths = [1, 5, 11, 17]
    replies = await asyncio.gather(
        *(model.ainvoke(QUESTIONS[0], max_tokens=n, temperature=n / 10) for n in lengths)
    )
    for length, message in zip(lengths, replies, strict=True):
        assert message.usage_metadata["output_tokens"] <= length


def test_without_a_seed_samples_differ(model):
    assert len({model.invoke(QUESTIONS[0]).content for _ in range(4)}) > 1


def test_choice_is_constrained_and_logprobs_stay_raw(model):
    for question in QUESTIONS:
        message = model.bind(
            extra_body=YES_NO, temperature=0.0, max_tokens=1, logprobs=True, top_logprobs=20
        ).invoke(conversation(question))
        assert message.content in ("yes", "no")
        [entry] = content(message)
        assert len(entry["top_logprobs"]) == 20
        # A random model puts next to nothing on the two: constrained values would be near 0.
        assert entry["logprob"] < -2
    free = model.bind(extra_body=YES_NO).invoke(conversation(QUESTIONS[0]))
    assert free.content in ("yes", "no")
    assert free.response_metadata["finish_reason"] == "stop"


def test_top_logprobs_are_sorted_and_hold_the_greedy_token(model):
    message = model.invoke(QUESTIONS[0], temperature=0.0, top_logprobs=5)
    for entry in content(message):
        values = [top["logprob"] for top in entry["top_logprobs"]]
        assert values == sorted(values, reverse=True)
        assert entry["token"] == entry["top_logprobs"][0]["token"]


def test_logprobs_can_be_switched_off(model):
    assert model.invoke("Hi", logprobs=False).response_metadata["logprobs"] is None


def test_stop_cuts_the_text(model):
    whole = model.invoke(QUESTIONS[0], temperature=0.0)
    piece = whole.content[3:6]
    cut = model.invoke(QUESTIONS[0], temperature=0.0, stop=[piece])
    assert cut.content == whole.content.partition(piece)[0]
    assert cut.response_metadata["finish_reason"] == "stop"
    assert cut.usage_metadata["output_tokens"] <= whole.usage_metadata["output_tokens"]


def test_too_long_a_prompt_says_so(model):
    with pytest.raises(EndpointError, match="exceed the context of 1024 tokens"):
        model.invoke("x" * 1020)
    with pytest.raises(MPDFError, match="max_tokens=1024"):
        model.invoke("Hi", max_tokens=1024)


def test_a_missing_folder_says_what_to_do(tmp_path):
    with pytest.raises(ConfigurationError, match=r"train\.py"):
        make(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n": 3}, "no option n"),
        ({"max_tokens": 0}, "1 or more"),
        ({"temperature": -1.0}, "between 0 and 10"),
        ({"extra_body": {"structured_outputs": {"regex": ".*"}}}, "regex"),
        ({"extra_body": {"guided_choice": ["yes"]}}, "guided_choice"),
    ],
)
def test_wrong_options_are_refused(model, options, words):
    with pytest.raises(ConfigurationError, match=words):
        model.invoke("Hi", **options)


def test_other_roles_are_refused(model):
    with pytest.raises(ConfigurationError, match="tool"):
        model.invoke([HumanMessage("Hi"), ToolMessage("x", tool_call_id="1")])


async def test_a_cancelled_call_does_not_hurt_the_others(model):
    calls = [asyncio.ensure_future(model.ainvoke(question)) for question in QUESTIONS]
    await asyncio.sleep(GATHER_SECONDS)
    calls[0].cancel()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert all(isinstance(result, AIMessage) for result in results[1:])


async def test_a_failing_batch_fails_its_calls_only(model, folder, monkeypatch):
    engine = engine_for(folder.resolve())
    with monkeypatch.context() as patch:
        patch.setattr(engine, "model", None)
        with pytest.raises(AttributeError):
            await model.ainvoke("Hi")
    assert (await model.ainvoke("Hi")).usage_metadata["output_tokens"] > 0


def test_threads_share_batches(model, folder, monkeypatch):
    engine = engine_for(folder.resolve())
    sizes = []
    gather = engine._gather

    def watched():
        batch = gather()
        sizes.append(len(batch))
        return batch

    monkeypatch.setattr(engine, "_gather", watched)
    threads = [threading.Thread(target=model.invoke, args=(q,)) for q in QUESTIONS * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(sizes, default=0) > 1  # the first batch may have met the unwatched method


@pytest.mark.skipif(not MODEL_FOLDER.exists(), reason="no bundled model")
def test_bundled_model_solves_with_the_facts_at_hand():
    model = make()
    questions = make_questions("hidden", "validation", 30)
    messages = [
        [SystemMessage(" ".join(q["contexts"].values())), HumanMessage(q["question"])]
        if q["contexts"]
        else [HumanMessage(q["question"])]
        for q in questions
    ]
    replies = model.batch(messages, temperature=0.0)
    right = [
        reply.content.endswith(f"#### {q['reference']}")
        for reply, q in zip(replies, questions, strict=True)
    ]
    assert sum(right) >= 27
