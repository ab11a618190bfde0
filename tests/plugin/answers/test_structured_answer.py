"""JSON objects as answers: read leniently, compared, voted on, and asked for."""

import json
import pickle
from collections.abc import Callable
from typing import Any, Literal, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.language_models import FakeListChatModel
from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    RootModel,
    computed_field,
    field_validator,
    model_validator,
)

from mpdf_langgraph import (
    Agent,
    ConfigurationError,
    ModelOutputError,
    StructuredAnswer,
    create_deliberation,
    vllm_chat_model,
)
from mpdf_langgraph.answers.schema import assign_clusters
from mpdf_langgraph.nodes.outcome import NO_ANSWER


class Trip(BaseModel):
    city: str
    nights: int = Field(ge=1)
    means: Literal["train", "car"] = "train"
    stops: list[str] = []


TRIP = StructuredAnswer(Trip)
SAME_SCHEMA = {
    "title": "Trip",
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "nights": {"type": "integer", "minimum": 1},
        "means": {"enum": ["train", "car"]},
        "stops": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["city", "nights"],
    "additionalProperties": False,
}
PLAIN = StructuredAnswer(SAME_SCHEMA)


@pytest.mark.parametrize("schema", [TRIP, PLAIN], ids=["pydantic", "JSON schema"])
@pytest.mark.parametrize(
    "text",
    [
        '{"city": "Oslo", "nights": 3, "means": "car"}',
        'Sure:\n```json\n{"city": "Oslo", "nights": 3, "means": "car"}\n```\nEnjoy!',
        '```\n{"nights": 3, "means": "car", "city": "Oslo"}\n```',
        "{'city': 'Oslo', 'nights': 3, 'means': 'car'}",
        '{"city": "Oslo", "nights": 3, "means": "car",}',
        '{"city": "Oslo", // the capital\n "nights": 3, "means": "car"}',
        '{"City": "Oslo", "NIGHTS": 3, "Means": "car"}',
        '{city: "Oslo", nights: 3, means: "car"}',
        '{"city": "Oslo", "nights": "3", "means": "car"}',
        '{"city": "Oslo", "nights": 3.0, "means": "Car"}',
        '{"city": "Oslo", "nights": 3, "means": "car", "why": "nice {fjord}"}',
        '<think>{"city": "Rome", "nights": 9}</think>{"city": "Oslo", "nights": 3, "means": "car"}',
        '{"city": "Rome", "nights": 9}, or rather {"city": "Oslo", "nights": 3, "means": "car"}.',
        'For {x}: {"city": "Oslo", "nights": 3, "means": "car"} and {y}',
    ],
)
def test_objects_are_read_leniently(schema: StructuredAnswer, text: str) -> None:
    answer = schema.parse(text)
    assert answer is not None
    loaded = schema.load(answer)
    values = loaded.model_dump() if isinstance(loaded, Trip) else loaded
    assert (values["city"], values["nights"], values["means"]) == ("Oslo", 3, "car")
    assert schema.parse(answer) == answer


@pytest.mark.parametrize("schema", [TRIP, PLAIN], ids=["pydantic", "JSON schema"])
@pytest.mark.parametrize(
    "text",
    [
        "",
        "Oslo, three nights",
        "{}",
        '{"city": "Oslo"}',
        '{"city": "Oslo", "nights": 0}',
        '{"city": "Oslo", "nights": "some"}',
        '{"city": "Oslo", "nights": 3, "means": "ship"}',
        '{"city": "Oslo", "nights": 3',
        '[{"nights": 3}]',
        '<think>{"city": "Oslo", "nights": 3}',
        '{"city": "Oslo", "nights": NaN}',
        '{"city":' * 5000,
    ],
)
def test_what_does_not_fit_is_no_answer(schema: StructuredAnswer, text: str) -> None:
    assert schema.parse(text) is None


def test_answers_are_compared_field_by_field() -> None:
    one, other = '{"city":"Oslo","nights":3}', '{"nights":3.0,"city":"oslo.","means":"train"}'
    assert TRIP.equivalent(one, other)
    assert TRIP.equivalent(other, one)
    assert not TRIP.equivalent(one, '{"city":"Oslo","nights":4}')
    assert not TRIP.equivalent(one, '{"city":"Oslo","nights":3,"stops":["Hamar"]}')
    assert not TRIP.equivalent(one, "nonsense")
    assert assign_clusters([one, None, other], [], TRIP.equivalent)[0] == [0, None, 0]


def test_a_vote_on_every_field() -> None:
    votes = [
        ('{"city":"Oslo","nights":3}', 0.5),
        ('{"city":"Oslo","nights":4}', 0.4),
        ('{"city":"Rome","nights":4}', 0.3),
    ]
    together = StructuredAnswer(Trip, by_field=True).combine(votes)
    assert together is not None
    assert TRIP.load(together) == Trip(city="Oslo", nights=4)
    whole = TRIP.combine(votes)
    assert whole is not None
    assert TRIP.load(whole) == Trip(city="Oslo", nights=3)
    assert TRIP.combine([]) is None


class Found(BaseModel):
    city: str | None
    n: int


@pytest.mark.parametrize("schema", [Found, Found.model_json_schema()], ids=["pydantic", "JSON"])
def test_null_may_win_a_field(schema: Any) -> None:
    votes = [
        ('{"city":null,"n":1}', 1.0),
        ('{"city":null,"n":2}', 1.0),
        ('{"city":"x","n":2}', 1.5),
    ]
    assert StructuredAnswer(schema, by_field=True).combine(votes) == '{"city":null,"n":2}'


def test_a_field_that_most_left_out_is_left_out_beside_a_null() -> None:
    properties = {**Found.model_json_schema()["properties"], "note": {"type": "string"}}
    schema = StructuredAnswer({"properties": properties, "required": ["city"]}, by_field=True)
    votes = [
        ('{"city":null,"n":1}', 1.0),
        ('{"city":null,"n":2}', 1.0),
        ('{"city":"x","n":2,"note":"y"}', 1.5),
    ]
    assert schema.combine(votes) == '{"city":null,"n":2}'


def test_fields_that_do_not_fit_together_give_the_heaviest_whole() -> None:
    schema = StructuredAnswer(
        {"anyOf": [{"properties": {"a": {"const": k}, "b": {"const": k}}} for k in (1, 2)]},
        by_field=True,
    )
    votes = [('{"a":1,"b":1}', 1.0), ('{"a":2,"b":2}', 0.6), ('{"a":2,"b":2}', 0.5)]
    assert schema.combine(votes) == '{"a":2,"b":2}'


@pytest.mark.parametrize(
    ("schema", "match"),
    [
        (5, "pydantic model or a JSON schema"),
        (int, "pydantic model or a JSON schema"),
        ({"a": int}, "This is no JSON: Object of type type"),
        ({"type": "array"}, "type object"),
        ({"$ref": "#/$defs/L", "$defs": {"L": {"type": "array"}}}, "type object"),
        ({"anyOf": [{"type": "array"}, {"type": "string"}]}, "type object"),
        ({"enum": ["a", "b"]}, "type object"),
        ({"$ref": "#"}, "type object"),
        (RootModel[list[int]], r"RootModel\[list\[int\]\] is none"),
        (RootModel[Literal["a", "b"]], "type object"),
        (RootModel[int | None], "type object"),
        (RootModel[Callable[[], int]], "the JSON schema of RootModel.* failed"),
        ({"properties": {"a": {"if": {}}}}, "if cannot be checked"),
        ({"properties": {"a": 5}}, "expected an object"),
        ({"properties": ["a"]}, "properties must be an object of schemas, got"),
        ({"$defs": 5}, "defs must be an object of schemas"),
        ({"anyOf": 5}, "anyOf must be a list that is not empty, got 5"),
        ({"anyOf": []}, "anyOf must be a list that is not empty"),
        ({"properties": {"a": {"prefixItems": {}}}}, r"at \$.a: prefixItems must be a list"),
        ({"properties": {"a": {"enum": 5}}}, "enum must be a list"),
        ({"properties": {"a": {"type": "int"}}}, "type must be one of string, integer, .* 'int'"),
        ({"properties": {"a": {"type": ["string", 5]}}}, "type must be one of"),
        ({"properties": {"a": {"type": []}}}, "type must be one of"),
        ({"properties": {"a": {"pattern": "["}}}, "pattern must be a regular expression of Python"),
        ({"properties": {"a": {"minimum": "1"}}}, "minimum must be a number, got '1'"),
        ({"properties": {"a": {"exclusiveMaximum": True}}}, "exclusiveMaximum must be a number"),
        ({"properties": {"a": {"maxLength": [5]}}}, "maxLength must be a number"),
        ({"properties": {"a": {"maximum": float("nan")}}}, "This is no JSON"),
        ({"properties": {"a": {"multipleOf": 0}}}, "multipleOf must be a number above 0"),
        ({"properties": {"a": {"uniqueItems": "yes"}}}, "uniqueItems must be true or false"),
        ({"required": 5}, "required must be a list of names"),
        ({"required": [5]}, "required must be a list of names"),
        ({"properties": {"a": {"$ref": 5}}}, "ref must be a text"),
        ({"properties": {"a": {"$ref": "#/$defs/B"}}}, "#/.defs/B is not defined"),
        ({"title": "T", "properties": {"a": {"$ref": "#/title"}}}, "#/title is not defined"),
    ],
)
def test_other_schemas_are_refused(schema: Any, match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        StructuredAnswer(schema)


@pytest.mark.parametrize(
    "schema", [RootModel[Trip], RootModel[Trip | int], RootModel[dict[str, int]]]
)
def test_a_root_model_that_may_be_an_object_is_read(schema: type[BaseModel]) -> None:
    structured = StructuredAnswer(schema)
    text = '{"city": "Oslo", "nights": 3}' if "Trip" in schema.__name__ else '{"Oslo": 3}'
    answer = structured.parse(text)
    assert answer is not None
    assert structured.load(answer) == schema.model_validate_json(text)


class Measured(BaseModel):
    a: float
    name: str = Field("x", pattern=r"^\p{L}+$")  # Python's own expressions have no such class


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"properties": {"a": {"type": "number", "multipleOf": 0.5}}}, '{"a": 1e999}'),
        ({"properties": {"a": {"type": "number", "multipleOf": 0.5}}}, '{"a": "1e999"}'),
        ({"properties": {"a": {"type": "integer", "multipleOf": 2}}}, f'{{"a": {"4" * 400}}}'),
        ({"properties": {"a": {"type": "number"}}}, '{"a": 1e999}'),
        ({"properties": {"a": {"type": "number"}}}, '{"a": "-1e999"}'),
        ({}, '{"a": [1e999]}'),
        (Measured, '{"a": 1e999}'),
        (Measured, '{"a": "inf"}'),
        (Measured, '{"a": "1,000", "name": "y"}'),
    ],
)
def test_an_odd_number_is_no_answer(schema: Any, text: str) -> None:
    assert StructuredAnswer(schema).parse(text) is None


def test_the_schema_is_told_and_travels() -> None:
    assert json.dumps(TRIP.response_schema) in TRIP.instructions
    again = pickle.loads(pickle.dumps(TRIP))
    assert again.parse('{"city": "Oslo", "nights": 3}') == TRIP.parse(
        '{"city": "Oslo", "nights": 3}'
    )
    with pytest.raises(ModelOutputError, match="does not fit"):
        TRIP.load('{"city": "Oslo"}')


def test_nested_references_are_followed() -> None:
    class Route(BaseModel):
        trips: list[Trip]

    given_as = '{"Trips": [{"City": "Oslo", "nights": "2"}]}'
    model, plain = StructuredAnswer(Route), StructuredAnswer(Route.model_json_schema())
    for schema in (model, plain):
        answer = schema.parse(given_as)
        assert answer is not None
        assert json.loads(answer)["trips"][0]["nights"] == 2


class Share(BaseModel):
    percent: float

    @field_validator("percent")
    @classmethod
    def as_percent(cls, value: float) -> float:
        return value * 100


class Written(BaseModel):
    city: str = Field("Rome", serialization_alias="cityName")


class Read(BaseModel):
    city: str = Field(validation_alias="place")


class OneOfTwo(BaseModel):
    city: str = Field(validation_alias=AliasChoices("town", "place"))


class Doubled(BaseModel):
    model_config = ConfigDict(extra="forbid")
    n: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def double(self) -> int:
        return 2 * self.n


class Journey(BaseModel):
    share: Share
    stops: list[Written] = []
    hidden: int = Field(3, exclude=True)


class Moved(BaseModel):
    n: int

    @model_validator(mode="before")
    @classmethod
    def move(cls, value: dict[str, Any]) -> dict[str, Any]:
        value["n"] = value.pop("m", value.get("n", 0)) + 1
        return value


@pytest.mark.parametrize("by_field", [False, True])
@pytest.mark.parametrize(
    ("model", "text", "answer"),
    [
        (Share, '{"Percent": 0.5}', '{"percent":0.5}'),
        (Written, '{"city": "Oslo"}', '{"city":"Oslo"}'),
        (Read, '{"place": "Oslo"}', '{"place":"Oslo"}'),
        (OneOfTwo, '{"place": "Oslo"}', '{"place":"Oslo"}'),
        (Doubled, '{"n": "1,000"}', '{"n":1000}'),
        (
            Journey,
            '{"share": {"percent": 0.5}, "stops": [{"city": "Oslo"}], "hidden": 9}',
            '{"hidden":9,"share":{"percent":0.5},"stops":[{"city":"Oslo"}]}',
        ),
        (Moved, '{"m": 4}', '{"m":4}'),
    ],
)
def test_an_answer_loads_as_what_was_said(
    model: type[BaseModel], text: str, answer: str, by_field: bool
) -> None:
    structured = StructuredAnswer(model, by_field=by_field)
    assert structured.parse(text) == answer
    assert structured.parse(answer) == answer
    said = json.loads(text.replace("Percent", "percent").replace('"1,000"', "1000"))
    loaded = model.model_validate(said)
    assert structured.load(answer) == loaded
    together = cast(str, structured.combine([(answer, 1.0), (answer, 1.0)]))
    assert structured.load(together) == loaded


def test_answers_are_compared_as_what_they_load_as() -> None:
    class Tagged(BaseModel):
        tags: set[str]

    towns = StructuredAnswer(OneOfTwo)
    assert towns.equivalent('{"town":"Oslo"}', '{"place":"OSLO."}')
    assert not towns.equivalent('{"town":"Oslo"}', '{"place":"Rome"}')
    assert StructuredAnswer(Share).equivalent('{"percent":0.5}', '{"percent":"0.50"}')
    tags = StructuredAnswer(Tagged)
    words = ["red", "green", "blue", "black", "white"]
    one, other = (cast(str, tags.parse(json.dumps({"tags": w}))) for w in (words, words[::-1]))
    assert tags.equivalent(one, other)
    assert TRIP.equivalent("{'city': 'Oslo'}", '{"city": "oslo"}')  # which do not fit


def test_a_validator_that_fails_is_named() -> None:
    class Broken(BaseModel):
        n: int

        @field_validator("n")
        @classmethod
        def look_up(cls, value: int) -> int:
            return {1: 10}[value]

    broken = StructuredAnswer(Broken, by_field=True)
    assert broken.parse('{"n": 1}') == '{"n":1}'
    for failing in (broken.parse, broken.load):
        with pytest.raises(ConfigurationError, match=r"structured\(Broken\) failed: KeyError: 2"):
            failing('{"n": 2}')


texts = st.text() | st.lists(
    st.sampled_from(["{", "}", '"', "city", ":", ",", "'", "3", "\\", "[", "]", "```json\n", "//"]),
    max_size=30,
).map("".join)


@given(texts)
def test_parse_never_raises(text: str) -> None:
    answer = TRIP.parse(text)
    assert answer is None or TRIP.parse(answer) == answer


def test_a_server_that_can_is_held_to_the_schema() -> None:
    llm = vllm_chat_model("http://localhost:1/v1", "m", extra_body={"top_k": 5})
    agent = Agent("ann", llm, sampling={"extra_body": {"min_p": 0.1}})
    arguments: dict[str, Any] = {
        "refine": False, "retries": 0, "bound": 0, "deadline": None, "config": {},
    }  # fmt: skip
    call = agent.call([], **arguments, response_schema=TRIP.response_schema)
    body = call.runnable.kwargs["extra_body"]  # type: ignore[attr-defined]
    assert body == {"top_k": 5, "min_p": 0.1, "structured_outputs": {"json": TRIP.response_schema}}
    assert agent.call([], **arguments).runnable.kwargs == {"extra_body": {"min_p": 0.1}}  # type: ignore[attr-defined]


def test_a_team_votes_field_by_field() -> None:
    """Nobody gives the winning object as a whole."""
    said = ('{"a": 1, "b": 2}', '{"a": 1, "b": 3}', '{"a": 4, "b": 3}')
    properties = {name: {"type": "integer"} for name in "abc"}
    outcomes = {}
    for by_field in (False, True):
        schema = StructuredAnswer({"type": "object", "properties": properties}, by_field=by_field)
        team = [FakeListChatModel(responses=[text]) for text in said]
        graph = create_deliberation(
            team, answer=schema, critic=None, consensus="majority", max_rounds=0
        ).compile()
        out = graph.invoke({"question": "Which?"})
        outcomes[by_field] = out["deliberation"]["answer"]
        if by_field:
            assert schema.load(out["messages"][-1].content) == {"a": 1, "b": 3}
    assert outcomes[False] == '{"a":1,"b":2}'
    assert outcomes[True] == '{"a":1,"b":3}'


def test_a_rule_that_elects_nothing_is_not_overruled_by_a_vote_on_fields() -> None:
    schema = StructuredAnswer({"properties": {"a": {"type": "integer"}}}, by_field=True)
    team = [FakeListChatModel(responses=[f'{{"a": {k}}}']) for k in (1, 2)]
    graph = create_deliberation(
        team, answer=schema, critic=None, consensus=lambda votes: None, max_rounds=0
    ).compile()
    out = graph.invoke({"question": "Which?"})
    assert out["deliberation"]["answer"] is None
    assert out["messages"][-1].content == NO_ANSWER
