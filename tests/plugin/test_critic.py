"""Where confidences come from, and where they never do."""

import asyncio
import itertools
import math
from typing import Any

import numpy as np
import pytest
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver

from mpdf_langgraph import Agent, create_deliberation
from mpdf_langgraph.critic import FAILURES_TO_GIVE_UP, SelfCritic, SelfLogprobCritic, make_critic
from mpdf_langgraph.errors import ConfigurationError, DeliberationError
from mpdf_langgraph.router import FunctionRouter
from mpdf_langgraph.verdicts import reasoned_yes_probability
from tests.support.running import ON, final_state
from tests.support.scripted import (
    WRITTEN,
    Request,
    Scripted,
    StatusError,
    checked,
    counted,
    says,
    totals,
    verdict,
    yes,
)

Q = {"question": "What is 2 + 2?"}
NAN = float("nan")


def responses(team: list[Any], critic: Any, **options: Any) -> dict[str, Any]:
    """The responses of one deliberation, and its result under "result"."""
    usual = {"router": "always-persist", "stop_when_settled": False, "max_rounds": 1}
    values = final_state(create_deliberation(team, critic=critic, **{**usual, **options}), Q)
    return {"result": values["deliberation"], **values["responses"]}


#: A router that could read all measurements of a critique.
READS_SCORES = FunctionRouter(lambda seen: ["PERSIST"] * len(seen))


def critique(model: Any, critic: Any, **options: Any) -> dict[str, Any]:
    """The critique of the proposal of an agent alone."""
    found: dict[str, Any] = responses([model], critic, **options)["agent-1@0"]["critique"]
    return found


# --- the ladder of the self-critic ----------------------------------------------------------


_counter = itertools.count()


def endpoint(*, choice: bool = True, logprobs: bool = True, json: bool = True) -> Scripted:
    """A model behind an endpoint that can do only some of what a critic may ask."""

    def reply(request: Request) -> Any:
        body = request.kwargs.get("extra_body", {})
        if "structured_outputs" in body and not choice:
            return StatusError(400, "structured_outputs is not known here")
        if "response_format" in body and not json:
            return StatusError(400, "response_format is not known here")
        if request.kind == "critique":
            return yes(0.8) if logprobs else "yes"
        if request.kind == "json":
            return '{"probability": 0.3}'
        return f"{next(_counter)}. Answer: {request.number}"

    return Scripted(reply=reply)


@pytest.mark.parametrize(
    ("able", "source", "confidence", "asked"),
    [
        ({}, "self", 0.8, ["critique"]),
        ({"choice": False}, "self", 0.8, ["critique"] * 2),
        ({"logprobs": False}, "self_json", 0.3, ["critique"] * 2 + ["json"]),
        ({"choice": False, "logprobs": False}, "self_json", 0.3, ["critique"] * 2 + ["json"]),
        ({"logprobs": False, "json": False}, "agreement", None, ["critique"] * 2 + ["json"]),
    ],
)
def test_self_critic_takes_the_first_way_that_works(
    able: dict[str, bool], source: str, confidence: float, asked: list[str]
) -> None:
    model = endpoint(**able)
    found = responses([model], "self", router="always-refine")
    first, second = (found[f"agent-1@{i}"]["critique"] for i in (0, 1))
    assert (first["source"], first["confidence"]) == (source, pytest.approx(confidence))
    assert first["scores"] == ({} if confidence is None else {source: pytest.approx(confidence)})
    assert model.kinds()[1 : 1 + len(asked)] == asked
    assert first["usage"]["calls"] == len(asked)
    assert second["source"] == source
    if source != "agreement":  # the way that worked is remembered
        assert second["usage"]["calls"] == 1
        assert found["result"]["failures"] == []


def test_the_verdict_is_asked_for_as_one_constrained_token() -> None:
    model = endpoint()
    critique(model, "self")
    asked = model.requests[1]
    assert asked.kwargs["temperature"] == 0.0
    assert asked.kwargs["max_tokens"] == 1
    assert asked.kwargs["logprobs"] is True
    assert asked.kwargs["top_logprobs"] == 20
    choices = asked.kwargs["extra_body"]["structured_outputs"]["choice"]
    assert {choice.casefold() for choice in choices} == {"yes", "no"}
    # In the conversation that produced the response.
    assert asked.messages[:-2] == model.requests[0].messages
    assert asked.messages[-2].text.endswith("Answer: 1")


def test_the_ladder_is_remembered_per_model() -> None:
    able, unable = endpoint(), endpoint(logprobs=False)
    critic = make_critic("self")
    found = responses([able, unable], critic, router="always-refine")
    assert [found[f"agent-{i}@1"]["critique"]["source"] for i in (1, 2)] == ["self", "self_json"]
    assert able.kinds() == ["propose", "critique", "refine", "critique"]
    assert unable.kinds() == ["propose", "critique", "critique", "json", "refine", "json"]


def test_one_odd_first_verdict_does_not_step_down_for_good() -> None:
    odd = ["What is 1 + 1?", "What is 2 + 1?", "What is 3 + 1?"]

    def reply(request: Request) -> Any:
        if request.kind == "critique":
            strange = any(question in request.text for question in odd)
            return verdict([("So", 0.9), ("The", 0.1)]) if strange else yes(0.9)
        return '{"probability": 0.3}' if request.kind == "json" else "Answer: 4"

    def sources(model: Scripted, questions: list[str]) -> list[str]:
        graph = create_deliberation([model], critic="self", max_rounds=0)
        compiled = graph.compile(checkpointer=InMemorySaver())
        found = []
        for i, question in enumerate(questions):
            config = {"configurable": {"thread_id": str(i)}}
            compiled.invoke({"question": question}, config)
            responses = compiled.get_state(config).values["responses"]
            found.append(responses["agent-1@0"]["critique"]["source"])
        return found

    assert sources(Scripted(reply=reply), [odd[0], Q["question"]]) == ["self_json", "self"]
    often = Scripted(reply=reply)
    assert sources(often, [*odd, Q["question"]]) == ["self_json"] * 4
    assert often.kinds()[-2:] == ["propose", "json"]  # the third time it is remembered


def sources_of(judge: Scripted, count: int) -> list[str]:
    """Where the confidences in the proposals of so many questions come from."""
    critic = SelfCritic(judge=judge)
    return [critique(says("Answer: 4"), critic)["source"] for _ in range(count)]


def test_a_verdict_out_of_range_is_none() -> None:
    judge = Scripted(reply=lambda request: '{"probability": 95}')
    with pytest.warns(UserWarning, match="the critic's model gives no log-probabilities") as told:
        assert sources_of(judge, 5) == ["agreement"] * 5
    assert len(told) == 1
    assert judge.kinds() == ["critique", "critique", "json"]  # then it is left alone


def test_a_model_that_tells_nothing_is_asked_three_times_in_all() -> None:
    team = [says(f"{n}. Answer: {n}", critique="yes") for n in range(3)]
    with pytest.warns(
        UserWarning, match="no log-probabilities and no readable probability"
    ) as all_:
        responses(team, "self+logprob", router="always-refine", max_rounds=2)
    named = sorted(str(told.message).split("'")[3] for told in all_)
    assert named == ["agent-1", "agent-2", "agent-3"]
    for text in ("critic=None", 'critic="logprob"', "another chat model", "a callable"):
        assert text in str(all_[0].message)
    assert all(model.kinds().count("json") == 1 for model in team)
    assert all(model.kinds().count("critique") == 2 for model in team)
    assert sum(len(model.requests) for model in team) == 3 * (3 + 3)  # 3 answers, one ladder


def test_without_log_probabilities_only_json_is_asked_for_from_then_on() -> None:
    replies = iter([StatusError(503), '{"probability": 0.3}', "0.4", "none", "60%"])

    def reply(request: Request) -> Any:
        return next(replies) if request.kind == "json" else "Answer: 4"

    judge = Scripted(reply=reply)
    critic = SelfCritic(judge=judge)
    agent = Agent("agent-1", says("Answer: 4"), retries=0)
    found = [critique(agent, critic) for _ in range(5)]
    assert [one["source"] for one in found] == [
        "none",
        *["self_json"] * 2,
        "agreement",
        "self_json",
    ]
    assert judge.kinds() == ["critique", "critique", *["json"] * 5]


def test_a_model_that_refuses_json_is_asked_again_for_a_while() -> None:
    model = endpoint(logprobs=False, json=False)
    critic = SelfCritic()
    for _ in range(FAILURES_TO_GIVE_UP - 1):
        critique(model, critic)
    with pytest.warns(UserWarning, match="gives no verdict"):
        critique(model, critic)
    assert critique(model, critic)["usage"]["calls"] == 0
    asked = [kind for kind in model.kinds() if kind != "propose"]
    assert asked == ["critique", "critique", *["json"] * FAILURES_TO_GIVE_UP]


def test_one_reply_without_a_verdict_does_not_end_the_asking() -> None:
    replies = iter(["0.9", "0.9", "none", "0.9", "0.9", "none", "none", "0.9"])

    def reply(request: Request) -> Any:
        if request.kind == "critique":
            return verdict([("So", 0.9)])
        return f'{{"probability": {next(replies)}}}'

    found = sources_of(Scripted(reply=reply), 8)
    assert [source == "agreement" for source in found] == [n in (2, 5, 6) for n in range(8)]


def test_no_call_is_set_aside_for_a_critic_that_will_not_ask() -> None:
    team = [
        Agent(name, says(f"{name}. Answer: 4") | StrOutputParser()) for name in ("ann", "bo", "cy")
    ]
    found = responses(team, "self+logprob", max_calls=3)["result"]
    assert set(found["votes"].values()) == {"4"}
    assert found["failures"] == []
    critic = SelfCritic()
    model = endpoint(logprobs=False, json=False)
    agent = Agent("ann", model)
    assert critic.max_calls(agent) == 1
    for _ in range(FAILURES_TO_GIVE_UP - 1):
        critique(model, critic)
    with pytest.warns(UserWarning, match="'agent-1' gives no verdict"):
        critique(model, critic)
    assert critic.max_calls(agent) == 0
    asked = len(model.requests)
    assert critique(model, critic)["source"] == "agreement"
    assert len(model.requests) == asked + 1  # the proposal
    assert SelfCritic(judge=model).max_calls(team[0]) == 1


def test_a_passing_failure_does_not_step_down() -> None:
    def reply(request: Request) -> Any:
        if request.kind == "propose":
            return "Answer: 4"
        return StatusError(503) if request.number == 2 else yes(0.7)

    model = Scripted(reply=reply)
    found = responses([Agent("agent-1", model, retries=0)], "self", router="always-refine")
    assert found["agent-1@0"]["critique"]["confidence"] is None
    assert found["agent-1@0"]["critique"]["source"] == "none"
    assert found["agent-1@0"]["critique"]["usage"]["calls"] == 1
    [failure, *_] = found["result"]["failures"]
    assert failure == "agent-1@0 critique: StatusError: HTTP status 503"
    assert all("json" not in kind for kind in model.kinds())
    assert "structured_outputs" in model.requests[-1].kwargs["extra_body"]


def test_extra_body_of_the_model_is_kept() -> None:
    model = endpoint()
    bound = model.bind(extra_body={"priority": 3}).bind(temperature=0.5)
    critique(bound, "self")
    assert model.requests[1].kwargs["extra_body"].keys() == {"priority", "structured_outputs"}


def test_chains_cannot_judge_themselves() -> None:
    found = critique(RunnableLambda(lambda _: "Answer: 4"), "self")
    assert (found["source"], found["confidence"], found["usage"]["calls"]) == ("none", None, 0)


@pytest.mark.parametrize("critic", ["self", "self+logprob", "self-reasoning"])
def test_who_cannot_be_asked_does_not_outrank_those_who_were(critic: str) -> None:
    sure = verdict([("yes", 0.9), ("no", 0.1)])
    judged = [says(f"{n}. Answer: 4", critique=v) for n, v in enumerate((WRITTEN, sure))]
    team = [RunnableLambda(lambda _: "Answer: 4"), *judged]
    found = responses(team, critic)
    asked, *others = (found[f"agent-{n}@0"]["critique"] for n in (1, 2, 3))
    assert (asked["source"], asked["confidence"], asked["scores"]) == ("none", None, {})
    assert all(other["confidence"] < 1 for other in others)
    assert found["result"]["confidence"] == max(other["confidence"] for other in others)


def test_a_model_that_the_critic_cannot_ask_is_told() -> None:
    model = says("Answer: 4", critique=yes(0.8))
    for hidden, by in (
        (model.with_retry(), "with_retry"),
        (model.bind(top_p=0.5).with_fallbacks([model]).with_config(tags=["x"]), "with_fallbacks"),
    ):
        with pytest.warns(UserWarning, match=rf"'agent-1'.*inside {by}\(\).*retries=2") as told:
            create_deliberation([hidden], critic="self")
        assert told[0].filename == __file__
        create_deliberation([hidden], critic="logprob")
        create_deliberation([hidden], critic=model)
    create_deliberation([(RunnableLambda(str) | model).with_retry()], critic="self")


def test_verdict_that_does_not_fit_the_budget_is_not_asked_for() -> None:
    model = endpoint(choice=False)
    found = responses([model], "self", max_calls=2)
    assert found["agent-1@0"]["critique"]["source"] == "none"
    assert len(model.requests) == 2
    assert any("budget" in failure for failure in found["result"]["failures"])


# --- a check in writing before the verdict ---------------------------------------------------


@pytest.mark.parametrize("judged_by", ["itself", "a judge"])
def test_the_check_is_written_in_the_conversation_and_its_verdict_read(judged_by: str) -> None:
    agent, judge = says("Answer: 4", critique=WRITTEN), says("?", critique=WRITTEN)
    critic = SelfCritic(reasoning_tokens=300, judge=judge if judged_by == "a judge" else None)
    found = critique(agent, critic)
    assert found["source"] == "self_reasoning"
    assert found["scores"] == {"self_reasoning": pytest.approx(reasoned_yes_probability(WRITTEN))}
    assert found["confidence"] == found["scores"]["self_reasoning"]
    assert found["usage"]["calls"] == 1
    asked = (judge if judged_by == "a judge" else agent).requests[-1]
    assert asked.last.startswith("Check that solution")
    assert asked.kwargs["max_tokens"] == 300
    assert asked.kwargs["logprobs"] is True
    assert asked.kwargs["temperature"] == 0.0
    assert "extra_body" not in asked.kwargs
    if judged_by == "itself":
        assert asked.messages[:-2] == agent.requests[0].messages


def test_a_check_that_is_cut_leaves_agreement_and_says_so() -> None:
    model = says("Answer: 4", critique=checked("2 + 2", [("2", 1.0)]))
    found = responses([model], "self-reasoning", router="always-refine")
    for response in ("agent-1@0", "agent-1@1"):
        assert found[response]["critique"]["source"] == "agreement"
        assert found[response]["critique"]["usage"]["calls"] == 1
    assert all("may have been cut" in failure for failure in found["result"]["failures"])
    assert len(found["result"]["failures"]) == 2


def test_the_budget_sets_the_longest_check_aside() -> None:
    model = says("Answer: 4", critique=WRITTEN, max_tokens=10)
    assert critique(model, "self", max_tokens=900)["source"] == "self"
    with pytest.raises(DeliberationError, match="may take"):
        critique(model, "self-reasoning", max_tokens=900)
    short = critique(model, SelfCritic(reasoning_tokens=100), max_tokens=900)
    assert short["source"] == "self_reasoning"


def test_sequence_probability_and_a_check_in_writing_side_by_side() -> None:
    critic = SelfLogprobCritic(verdict=SelfCritic(reasoning_tokens=64))
    assert critic.max_tokens == 64
    model = says("Answer: 4", critique=WRITTEN, logprob=-0.25)
    found = critique(model, critic, router=READS_SCORES)
    assert found["scores"].keys() == {"logprob", "logprob_raw", "self_reasoning"}


@pytest.mark.parametrize("tokens", [-1, 1.5, True, "many"])
def test_the_length_of_a_check_is_a_whole_number(tokens: Any) -> None:
    with pytest.raises(ConfigurationError, match="reasoning_tokens"):
        SelfCritic(reasoning_tokens=tokens)


# --- sequence probability -------------------------------------------------------------------


def test_logprob_critic_is_free() -> None:
    model = says("Answer: 4", logprob=-0.25)
    found = critique(model, "logprob")
    tokens = totals([model])["completion_tokens"]
    assert found["confidence"] == pytest.approx(math.exp(-0.25))
    assert found["scores"] == {
        "logprob": pytest.approx(math.exp(-0.25)),
        "logprob_raw": pytest.approx(math.exp(-0.25 * tokens)),
    }
    assert found["source"] == "logprob"
    assert len(model.requests) == 1


def test_both_scores_are_recorded_and_the_sequence_decides() -> None:
    model = says("Answer: 4", critique=yes(0.2), logprob=-0.25)
    found = critique(model, "self+logprob", router=READS_SCORES)
    assert found["confidence"] == pytest.approx(math.exp(-0.25))
    assert found["source"] == "logprob"
    assert found["scores"].keys() == {"logprob", "logprob_raw", "self"}
    assert found["scores"]["self"] == pytest.approx(0.2)
    assert found["usage"]["calls"] == 1


def test_without_log_probabilities_the_verdict_decides() -> None:
    found = critique(says("Answer: 4", critique=yes(0.2)), "self+logprob")
    assert (found["source"], found["confidence"]) == ("self", pytest.approx(0.2))


def test_agreement_stands_in_where_nothing_else_is_known() -> None:
    team = [says("a. Answer: 4"), says("b. Answer: 4"), says("c. Answer: 5"), says(" Answer: ")]
    found = responses(team, "logprob", router="always-persist")
    shares = [found[f"agent-{i}@0"]["critique"]["confidence"] for i in (1, 2, 3)]
    assert shares == pytest.approx([0.5, 0.5, 0.25])
    assert found["agent-1@0"]["critique"]["scores"] == {"agreement": 0.5}
    assert found["agent-1@0"]["critique"]["source"] == "agreement"


def test_confidence_is_never_read_from_the_agents_words() -> None:
    boast = 'I am 99% confident. Confidence: 99%. {"probability": 0.99} yes yes. Answer: 4'
    with pytest.warns(UserWarning, match="no readable probability"):
        found = responses([says(boast, critique="yes, 99% sure")], "self+logprob")["agent-1@0"]
    assert found["profile"]["claimed_confidence"] == 0.99
    assert found["critique"]["confidence"] != 0.99
    assert found["critique"]["source"] == "agreement"
    assert 0.99 not in found["critique"]["scores"].values()


# --- other critics --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("returned", "confidence", "source"),
    [
        (0.25, 0.25, "judge"),
        (1, 1.0, "judge"),
        (None, None, "judge"),
        ({"confidence": 0.5, "source": "mine", "scores": {"a": 0.1}}, 0.5, "mine"),
        ({"confidence": None}, None, "judge"),
        (1.5, None, "none"),
        (NAN, None, "none"),
        ("high", None, "none"),
        (True, None, "none"),
        (np.float32(0.25), 0.25, "judge"),
        (np.int64(1), 1.0, "judge"),
        (np.float32("nan"), None, "none"),
        (np.bool_(True), None, "none"),
        ({"confidence": np.float16(0.5), "scores": {"a": np.float32(0.5)}}, 0.5, "judge"),
        ({"confidence": 0.5, "source": "agreement"}, 0.5, "function:agreement"),
        ({"confidence": 0.5, "scores": {"a": 7}}, None, "none"),
        ({"confidence": 0.5, "scores": None}, 0.5, "judge"),
        (ValueError("out of order"), None, "none"),
    ],
)
@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("awaited", [False, True])
def test_callable_critic(
    returned: Any, confidence: float | None, source: str, asynchronous: bool, awaited: bool
) -> None:
    seen: list[Any] = []

    def judge(question: str, response: Any) -> Any:
        seen.append((question, response["answer"]))
        if isinstance(returned, Exception):
            raise returned
        return returned

    async def later(question: str, response: Any) -> Any:
        await asyncio.sleep(0)
        return judge(question, response)

    later.__name__ = "judge"
    team = [says("Answer: 4")]
    graph = create_deliberation(
        team, critic=later if asynchronous else judge, router="always-persist"
    ).compile(checkpointer=InMemorySaver())
    if awaited:
        result = asyncio.run(graph.ainvoke(Q, ON))["deliberation"]
    else:
        result = graph.invoke(Q, ON)["deliberation"]
    assert seen == [(Q["question"], "4")]
    assert result["confidence"] == confidence
    found = graph.get_state(ON).values["responses"]["agent-1@0"]["critique"]
    assert found["source"] == source
    assert len(result["failures"]) == (1 if source == "none" else 0)


def test_callable_critic_with_an_async_call() -> None:
    class Judge:
        async def __call__(self, question: str, response: Any) -> float:
            await asyncio.sleep(0)
            return 0.25

    graph = create_deliberation([says("Answer: 4")], critic=Judge()).compile()
    assert asyncio.run(graph.ainvoke(Q))["deliberation"]["confidence"] == 0.25
    assert graph.invoke(Q)["deliberation"]["confidence"] == 0.25


@pytest.mark.parametrize("agents", [1, 2])  # the graph runs one in the caller's thread
async def test_an_async_critic_works_where_an_event_loop_runs_already(agents: int) -> None:
    helper = says("0.5")

    async def judge(question: str, response: Any) -> float:
        return float((await helper.ainvoke(response["text"])).text)

    found = responses([says(f"{i}. Answer: 4") for i in range(agents)], judge)
    for i in range(agents):
        assert found[f"agent-{i + 1}@0"]["critique"]["confidence"] == 0.5
    assert counted(found["result"]["usage"]["critic"]) == totals([helper])


@pytest.mark.parametrize("name", ["agreement", "none", "logprob", "self", "self_json"])
def test_a_callable_critic_is_not_taken_for_one_of_the_package(name: str) -> None:
    def judge(question: str, response: Any) -> float:
        return 0.125

    judge.__name__ = name
    critic = make_critic(judge)
    found = responses([says("a. Answer: 4"), says("b. Answer: 4")], critic)
    for agent in ("agent-1", "agent-2"):
        told = found[f"{agent}@0"]["critique"]
        assert (told["confidence"], told["source"]) == (0.125, f"function:{name}")
        assert told["scores"] == {f"function:{name}": 0.125}


def test_models_asked_by_a_callable_critic_are_counted() -> None:
    helper = says("0.5")
    found = critique(says("Answer: 4"), lambda q, r: float(helper.invoke(r["text"]).text))
    assert found["confidence"] == 0.5
    assert counted(found["usage"]) == totals([helper])


@pytest.mark.parametrize("bound", [False, True])
def test_another_model_judges_without_the_private_context(bound: bool) -> None:
    judge, author = says("?", critique=yes(0.35)), says("Answer: 4")
    team = [Agent("author", author, system_prompt="secret role")]
    graph = create_deliberation(team, critic=judge.bind(seed=1) if bound else judge).compile()
    messages = [("user", "earlier"), ("ai", "secret history"), ("user", Q["question"])]
    out = graph.invoke({"messages": messages, "contexts": {"author": "secret notes"}})
    assert out["deliberation"]["confidence"] == pytest.approx(0.35)
    assert counted(out["deliberation"]["usage"]["critic"]) == totals([judge])
    [request] = judge.requests
    assert [str(m.text) for m in request.messages[:2]] == [Q["question"], "Answer: 4"]
    assert "secret" not in request.text
    assert author.kinds() == ["propose"]
    assert "secret notes" in author.requests[0].text


def test_unknown_critics_are_named() -> None:
    for spec in ("selff", 3, RunnableLambda(lambda _: 0.5), {"confidence": 1}):
        with pytest.raises(ConfigurationError, match=r"critic=.*load_profile_critic\(folder\)"):
            make_critic(spec)
    assert make_critic(None) is None
