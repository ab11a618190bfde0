import itertools
import json
import random
import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import HumanMessage
from transformers import AutoModelForCausalLM, AutoTokenizer

from examples.tiny_lm import train as train_module
from examples.tiny_lm.llama import CONTEXT, build_model
from examples.tiny_lm.prompts import PROMPTS, critique_messages, refine_messages, solve_messages
from examples.tiny_lm.questions import random_problem
from examples.tiny_lm.skills import (
    checks_example,
    look_up_example,
    simulated_example,
    solve_example,
    sums_example,
)
from examples.tiny_lm.text import IGNORE, LENGTHS, Encoder, build_tokenizer, prompt_tokens
from examples.tiny_lm.train import DRILL, Config, keep_options, loss_on, train
from mpdf_langgraph.agents import Agent
from mpdf_langgraph.answers.math_answer import MathAnswer
from mpdf_langgraph.errors import ConfigurationError


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(CONTEXT)


@pytest.fixture(scope="module")
def encoder(tokenizer):
    return Encoder(tokenizer)


any_example = st.builds(
    lambda kind, seed: simulated_example(
        random_problem(random.Random(seed), kind), random.Random(seed)
    ),
    st.sampled_from(["hidden", "plain"]),
    st.integers(0, 10**9),
)


def config(path, **changes):
    rounds = dict.fromkeys(DRILL, 1)
    return Config(
        out=path,
        size="1M",
        rounds=rounds,
        examples_per_round=24,
        tokens_per_batch=1024,
        warmup=2,
        validate_every=100,
        validation_questions=2,
        **changes,
    )


@settings(max_examples=100)
@given(example=any_example)
def test_tokens_and_text_are_the_same_thing(tokenizer, encoder, example):
    text = tokenizer.apply_chat_template(example.messages, tokenize=False)
    assert tokenizer.decode(encoder.encode(example).tokens) == text


@settings(max_examples=100)
@given(example=any_example)
def test_targets_are_exactly_the_learnt_assistant_messages(tokenizer, encoder, example):
    encoded = encoder.encode(example)
    turns = [m["content"] for m in example.messages if m["role"] == "assistant"]
    wanted = [text for text, learn in zip(turns, example.learn, strict=True) if learn]
    targets = [token for token in encoded.labels if token != IGNORE]
    assert tokenizer.decode(targets) == "".join(f"{text}<|end|>" for text in wanted)
    for token, label, weight in zip(encoded.tokens, encoded.labels, encoded.weights, strict=True):
        assert label in (token, IGNORE)
        assert (weight > 0) == (label != IGNORE)


@settings(max_examples=100)
@given(example=any_example)
def test_every_sentence_and_answer_has_its_verdict(encoder, example):
    found = [label for label in encoder.encode(example).right if label != IGNORE]
    assert found == [int(label) for turn in example.right for label in turn]


@settings(max_examples=100)
@given(example=any_example)
def test_prompt_is_the_beginning_of_the_training_text(tokenizer, encoder, example):
    prompt = prompt_tokens(tokenizer, example.messages[:-1])
    assert encoder.encode(example).tokens[: len(prompt)] == prompt


def test_plugin_and_training_write_the_same_conversations():
    agent = Agent("agent-1", model_for_prompts(), prompts=PROMPTS)
    schema = MathAnswer()
    own, peers = (
        "Ann: 3 * Kim(guess 14) = Ann(42).\n#### 42",
        ["Ann: 3 * Kim(12) = Ann(36).\n#### 36", "#### 3"],
    )
    for notes in ("", "Kim has 12 coins."):
        first = agent.conversation("How many?", schema=schema, history=[], notes=notes)
        refined = agent.refine_turn(
            "How many?", schema=schema, own=own, peers=dict(zip("ab", peers, strict=True))
        )
        judged = agent.critique_turn("How many?", own)
        assert plain(first) == solve_messages("How many?", notes)
        assert plain([*first, *refined]) == refine_messages("How many?", notes, own, peers)
        assert plain([*first, *judged]) == critique_messages(plain(first), "How many?", own)


def model_for_prompts():
    from langchain_core.language_models import FakeListChatModel

    return FakeListChatModel(responses=["#### 1"])


def plain(messages):
    roles = {"system": "system", "human": "user", "ai": "assistant"}
    return [{"role": roles[m.type], "content": m.text} for m in messages]


def test_a_name_is_one_token_wherever_it_stands_in_a_prompt(tokenizer):
    for before in ("", "Lee has 3 coins. "):
        messages = [{"role": "user", "content": f"{before}Kim has 12 coins."}]
        assert "ĠKim" in tokenizer.convert_ids_to_tokens(prompt_tokens(tokenizer, messages))


def test_look_ups_are_right():
    rng = random.Random(0)
    for _ in range(50):
        *prompt, reply = look_up_example(rng).messages
        facts = " ".join(message["content"] for message in prompt)
        for name, value in re.findall(r"(\w+)\((\d+)\)", reply["content"]):
            assert re.search(rf"\b{name} has {value} ", facts)


def test_sums_are_right_and_within_the_problems_range():
    rng = random.Random(0)
    for _ in range(200):
        *_, reply = sums_example(rng).messages
        for text, result in re.findall(r"([\d*+-]+)=(\d+)", reply["content"]):
            assert eval(text) == int(result)
            assert 1 <= int(result) <= 999


def test_checks_of_sums_say_the_truth():
    rng = random.Random(0)
    verdicts = []
    for _ in range(100):
        turns = [message["content"] for message in checks_example(rng).messages]
        for asked, stated, checked in zip(turns[::4], turns[1::4], turns[3::4], strict=True):
            text, result = re.fullmatch(r"(.+)=(\d+)", stated).groups()
            assert asked == f"Compute {text}."
            truth = eval(text)
            verdicts.append("yes" if int(result) == truth else "no")
            assert (
                checked == f"{text}={truth}\n{truth}-{result}={truth - int(result)}\n{verdicts[-1]}"
            )
    assert 0.4 < verdicts.count("yes") / len(verdicts) < 0.6


def test_yes_no_and_digits_are_single_tokens(tokenizer):
    for text in ("yes", "no", *"0123456789"):
        assert len(tokenizer.encode(text)) == 1
    assert len(tokenizer.encode("407")) == 3


def test_batches_have_few_shapes_and_hold_every_example(encoder):
    rng = random.Random(0)
    examples = [simulated_example(random_problem(rng, "hidden"), rng) for _ in range(200)]
    batches = encoder.batches(examples, 2688, rng)
    for batch in batches:
        rows, length = batch["tokens"].shape
        assert length in LENGTHS
        assert rows == max(1, 2688 // length)
    targets = sum(int((batch["labels"] != IGNORE).sum()) for batch in batches)
    assert targets == sum(
        label != IGNORE for example in examples for label in encoder.encode(example).labels
    )


def test_learning_rate_warms_up_and_ends_at_zero():
    options = Config()
    total = sum(options.rounds.values())
    assert options.rate(0, 0) < options.rate(0, options.warmup) == options.learning_rate
    final = total - options.rounds["on_policy"]
    assert options.rate(final, 10**6) == pytest.approx(options.on_policy_learning_rate)
    assert options.rate(total, 10**6) == 0
    rates = [options.rate(r, 10**6) for r in range(total + 1)]
    assert rates == sorted(rates, reverse=True)


def test_phases_follow_each_other():
    options = Config(rounds={"look_up": 2, "sums": 1, "simulated": 0, "on_policy": 1})
    assert [options.phase(i) for i in range(4)] == ["look_up", "look_up", "sums", "on_policy"]


def test_a_model_learns_one_batch_by_heart(tokenizer, encoder):
    rng = random.Random(0)
    examples = [solve_example(random_problem(rng, "hidden"), rng) for _ in range(4)]
    [batch] = encoder.batches(examples, 4 * 256, rng)
    model = build_model(tokenizer, "1M", seed=0)
    probe = torch.nn.Linear(model.config.hidden_size, 1)
    optimizer = torch.optim.AdamW([*model.parameters(), *probe.parameters()], lr=3e-3)
    losses = []
    for _ in range(60):
        loss, parts = loss_on(model, probe, batch, probe_weight=0.1)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(parts["loss"])
    assert losses[-1] < losses[0] / 5


@pytest.mark.parametrize("has", [True, False])
def test_it_computes_in_bfloat16_only_where_that_is_fast(tokenizer, encoder, monkeypatch, has):
    monkeypatch.setattr(train_module, "_has_bfloat16", lambda _: has)
    rng = random.Random(0)
    (batch, *_) = encoder.batches([look_up_example(rng) for _ in range(4)], 1024, rng)
    model = build_model(tokenizer, "1M", seed=0)
    found = []
    model.lm_head.register_forward_hook(lambda *given: found.append(given[-1].dtype))
    loss_on(model, torch.nn.Linear(model.config.hidden_size, 1), batch, probe_weight=0.1)
    assert found == [torch.bfloat16 if has else torch.float32]


def test_a_run_is_not_resumed_with_other_options(tmp_path):
    begun = config(tmp_path)
    for same in (begun, replace(begun, resume=True, threads=3)):
        keep_options(same)
    with pytest.raises(ConfigurationError, match="seed was 0 and is 7"):
        keep_options(replace(begun, seed=7))


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, monkeypatch):
    threads = torch.get_num_threads()
    whole = train(config(tmp_path / "whole"))

    import examples.tiny_lm.train as module

    save = torch.save
    saved = itertools.count(1)

    def save_and_stop(*args, **kwargs):
        save(*args, **kwargs)
        if next(saved) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(module.torch, "save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        train(config(tmp_path / "parts"))
    monkeypatch.undo()
    # What was written aside but not yet moved into place does not count.
    resumed = train(config(tmp_path / "parts", resume=True))
    torch.set_num_threads(threads)

    volatile = {"sampling_s", "training_s", "validation_s"}
    logs = [
        [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("whole", "parts")
    ]
    first, second = (
        [{k: v for k, v in row.items() if k not in volatile} for row in log] for log in logs
    )
    assert first == second
    assert resumed["loss"] == whole["loss"]
    weights = [
        AutoModelForCausalLM.from_pretrained(tmp_path / name / "model").state_dict()
        for name in ("whole", "parts")
    ]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_the_saved_folder_is_an_ordinary_one(tmp_path):
    threads = torch.get_num_threads()
    train(config(tmp_path))
    torch.set_num_threads(threads)
    folder = tmp_path / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    assert model.config.architectures == ["LlamaForCausalLM"]
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert sum(file.stat().st_size for file in folder.iterdir()) < 16e6
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert text == "<|user|> Hi<|end|><|assistant|>"
    assert (tmp_path / "log.png").exists()

    from examples.tiny_lm.chat_model import make

    assert make(folder, max_tokens=3).invoke([HumanMessage("Hi")]).usage_metadata
