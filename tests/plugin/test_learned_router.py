"""The learned router: equal to the network it came from, and what it refuses."""

import asyncio
import hashlib
import json
import math
import os
import random
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mpdf_langgraph import (
    Agent,
    Calibration,
    ChoiceAnswer,
    Episode,
    LogOdds,
    MathAnswer,
    StructuredAnswer,
    create_deliberation,
    load_router,
)
from mpdf_langgraph.errors import ConfigurationError, RouterError
from mpdf_langgraph.learned_consensus import LearnedConsensus, Shared
from mpdf_langgraph.learned_router import LearnedRouter
from mpdf_langgraph.observation import FEATURE_VERSION, FEATURES, Situation, feature, observe
from mpdf_langgraph.router import Router, choose_consensus, competences
from mpdf_langgraph.state import ACTIONS, Observation
from tests.support.running import run_python
from tests.support.scripted import Request, Scripted
from training.learn.policy import Policy, export

# The folder of the tests says that greedy actions were measured, and many tests look at drawn ones.
pytestmark = pytest.mark.filterwarnings("ignore:router .* passed its gate with:UserWarning")

F = len(FEATURES)
ALL = [True, True, True]


def fitted() -> Policy:
    """A policy whose every part matters: biases, fitted statistics, log-odds of a few units."""
    torch.manual_seed(3)
    policy = Policy()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.copy_(torch.randn_like(parameter) / parameter.shape[-1] ** 0.5)
    there = torch.ones(50, 3, dtype=torch.bool)
    policy.fit_normalisation(torch.rand(50, F), torch.rand(50, 3, F) * 0.8, there)
    return policy.requires_grad_(False)


POLICY = fitted()


def manifest(model: bytes, **changes: Any) -> dict[str, Any]:
    digest = hashlib.sha256(model).hexdigest()
    plain = {
        "format": 1,
        "feature_version": FEATURE_VERSION,
        "name": "test-router",
        "version": digest[:12],
        "temperature": 1.0,
        "floor": 0.0,
        "competence": {"ann": 0.75, "bob": 0.25},
        "gate": "pass",
        "evidence": {"anything": [1, 2]},
        "training": {},
        "sha256": {"policy.onnx": digest},
    }
    return {**plain, **changes}


def write(folder: Path, model: bytes, **changes: Any) -> Path:
    """Write a router whose hash is right, and whose manifest has `changes`."""
    folder.mkdir(exist_ok=True)
    (folder / "policy.onnx").write_bytes(model)
    (folder / "router.json").write_text(json.dumps(manifest(model, **changes)))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("model") / "policy.onnx"
    export(POLICY, path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, model: bytes) -> Path:
    return write(tmp_path_factory.mktemp("routers") / "good", model)


@pytest.fixture(scope="module")
def router(folder: Path) -> LearnedRouter:
    with warnings.catch_warnings(action="ignore"):  # as `pytestmark`, which fixtures do not see
        return load_router(folder, greedy=False)


vectors = st.integers(0, 2**32).map(random.Random).map(
    lambda rng: [rng.uniform(-1, 1) for _ in range(F)]
)  # fmt: skip
observations = st.builds(Observation, own=vectors, peers=st.lists(vectors, max_size=7))
masks = st.tuples(st.just(True), st.booleans(), st.booleans()).map(list)
#: Teams of any sizes, mixed in one batch.
cases = st.lists(st.tuples(observations, masks), min_size=1, max_size=6)
Case = list[tuple[Observation, list[bool]]]


def by_torch(observation: Observation, mask: list[bool]) -> list[float]:
    """Return the log-probabilities, computed without a batch and without padding."""
    peers = torch.tensor(observation["peers"]).reshape(1, -1, F)
    with torch.no_grad():
        logs = POLICY(
            torch.tensor([observation["own"]]),
            peers,
            torch.ones(1, peers.shape[1], dtype=torch.bool),
            torch.tensor([mask]),
        )
    return logs[0].double().tolist()


def decide(router: Router, case: Case) -> list[list[float]]:
    return [list(row) for row in router.decide([o for o, _ in case], [m for _, m in case])]


# --- what it decides ------------------------------------------------------------------------


@given(cases)
def test_it_equals_the_network(router: LearnedRouter, case: Case) -> None:
    for row, (observation, mask) in zip(decide(router, case), case, strict=True):
        expected = [math.exp(p) for p in by_torch(observation, mask)]
        assert row == pytest.approx(expected, abs=1e-5)
        assert math.fsum(row) == pytest.approx(1.0, abs=1e-12)
        assert all(p == 0.0 for p, allowed in zip(row, mask, strict=True) if not allowed)
        assert all(type(p) is float for p in row)


@given(observations, masks, st.permutations(range(7)), cases)
def test_neither_peers_order_nor_the_others_in_the_batch_matter(
    router: LearnedRouter, observation: Observation, mask: list[bool], order: list[int], rest: Case
) -> None:
    peers = observation["peers"]
    shuffled = Observation(
        own=observation["own"], peers=[peers[i] for i in order if i < len(peers)]
    )
    alone = decide(router, [(observation, mask)])[0]
    assert decide(router, [*rest, (shuffled, mask)])[-1] == pytest.approx(alone, abs=1e-5)


@given(cases, st.floats(0.05, 20.0), st.floats(0.0, 1 / 3))
def test_temperature_and_floor(folder: Path, case: Case, temperature: float, floor: float) -> None:
    warm = load_router(folder, greedy=False, temperature=temperature, floor=floor)
    for row, (observation, mask) in zip(decide(warm, case), case, strict=True):
        logs = np.array([p for p, ok in zip(by_torch(observation, mask), mask, strict=True) if ok])
        powers = np.exp((logs - logs.max()) / temperature)
        expected = iter(floor + (1 - floor * len(logs)) * powers / powers.sum())
        for p, allowed in zip(row, mask, strict=True):
            assert p == pytest.approx(next(expected), abs=2e-4) if allowed else p == 0.0


@given(cases)
def test_greedy(folder: Path, router: LearnedRouter, case: Case) -> None:
    soft, sharp = decide(router, case), decide(load_router(folder), case)
    for row, greedy in zip(soft, sharp, strict=True):
        assert sorted(greedy) == [0.0, 0.0, 1.0]
        assert row[greedy.index(1.0)] == max(row)
    floored = decide(load_router(folder, floor=0.1), case)
    for greedy, row, (_, mask) in zip(sharp, floored, case, strict=True):
        assert row.index(max(row)) == greedy.index(1.0)
        assert min(p for p, ok in zip(row, mask, strict=True) if ok) == pytest.approx(
            0.1 if sum(mask) > 1 else 1.0
        )


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e300])
def test_extreme_temperatures(folder: Path, temperature: float) -> None:
    extreme = load_router(folder, greedy=False, temperature=temperature)
    for team in range(8):
        rng = random.Random(team)
        features = [[rng.uniform(-1, 1) for _ in range(F)] for _ in range(team + 1)]
        observation = Observation(own=features[0], peers=features[1:])
        for mask in (ALL, [True, False, True], [True, True, False], [True, False, False]):
            (row,) = decide(extreme, [(observation, mask)])
            logs = by_torch(observation, mask)
            sharp = [float(p == max(logs)) for p in logs]
            flat = [ok / sum(mask) for ok in mask]
            assert row == pytest.approx(sharp if temperature < 1 else flat)


def test_equally_likely_actions_go_to_the_cheapest(model: bytes, tmp_path: Path) -> None:
    flat = with_tensor(model, "head.2.weight", 0.0)
    flat = with_tensor(flat, "head.2.bias", 0.0)
    router = load_router(write(tmp_path, flat))
    alone = Observation(own=[0.0] * F, peers=[])
    case: Case = [(alone, ALL), (alone, [False, True, True])]
    assert decide(router, case) == [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]


def test_nobody_to_decide_for(router: LearnedRouter) -> None:
    assert router.decide([], []) == []


NAME = list(FEATURES)[4]


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf, 1e300, None])
@pytest.mark.parametrize("place", ["own", "peer"])
def test_features_that_are_not_finite(router: LearnedRouter, wrong: Any, place: str) -> None:
    fine, broken = [0.5] * F, [0.5] * F
    broken[4] = wrong
    observation = Observation(
        own=broken if place == "own" else fine, peers=[fine, broken if place == "peer" else fine]
    )
    other = Observation(own=fine, peers=[])
    with pytest.raises(RouterError, match=f"must be finite, and are not: {NAME}$"):
        router.decide([other, observation], [ALL, ALL])


@pytest.mark.parametrize(
    ("given_", "given_masks"),
    [
        ([Observation(own=[0.5] * (F - 1), peers=[])], [ALL]),
        ([Observation(own=[0.5] * F, peers=[[0.5] * (F + 1)])], [ALL]),
        ([Observation(own=[0.5] * F, peers=[[0.5] * F, [0.5]])], [ALL]),
        ([Observation(own=["much"] * F, peers=[])], [ALL]),  # type: ignore[list-item]
        ([Observation(own=[0.5] * F, peers=[])], [ALL, ALL]),
        ([Observation(own=[0.5] * F, peers=[])], [[True, True]]),
    ],
)
def test_observations_of_another_size(
    router: LearnedRouter, given_: list[Observation], given_masks: Any
) -> None:
    with pytest.raises(RouterError, match=rf"{F} features of an agent and of each peer, and 3"):
        router.decide(given_, given_masks)


# --- what it loads --------------------------------------------------------------------------


def test_what_the_folder_says(folder: Path, model: bytes) -> None:
    router = load_router(str(folder))
    digest = hashlib.sha256(model).hexdigest()[:12]
    assert isinstance(router, Router)
    assert (router.name, router.version) == ("test-router", digest)
    assert router.competence == {"ann": 0.75, "bob": 0.25}
    assert (router.temperature, router.greedy, router.floor) == (1.0, True, 0.0)
    assert load_router(folder, temperature=2, greedy=False, floor=0.1).version == (
        f"{digest}+temperature=2+greedy=False+floor=0.1"
    )


def test_the_mode_is_the_one_that_was_measured(model: bytes, tmp_path: Path) -> None:
    measured = write(tmp_path / "drawn", model, gate="pass", mode="drawn")
    with pytest.warns(UserWarning, match="passed its gate with drawn actions.*greedy=False"):
        load_router(measured)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_router(measured, greedy=False)
        load_router(write(tmp_path / "greedy", model, gate="pass"))
    with pytest.raises(ConfigurationError, match="a temperature is for drawn actions"):
        load_router(measured, temperature=0.5)


def test_the_calibration_comes_with_it(model: bytes, tmp_path: Path) -> None:
    """A router of form 1 was fitted on raw confidences, whatever its folder says for readers."""
    curves = {
        "proposed": {"slope": 2.0, "shift": -9.0},
        "refined": {"slope": 1.5, "shift": -1.0},
    }
    new = write(tmp_path / "new", model, format=2, calibration={"logprob": curves})
    assert load_router(new).calibration.model_dump() == {"logprob": curves}
    old = write(tmp_path / "old", model, calibration={"slope": 2.0, "shift": -9.0})
    assert load_router(old).calibration == Calibration({})


def test_temperature_and_floor_of_the_folder(model: bytes, tmp_path: Path) -> None:
    write(tmp_path, model, temperature=0.5, floor=0.05)
    router = load_router(tmp_path)
    assert (router.temperature, router.floor) == (0.5, 0.05)
    assert load_router(tmp_path, floor=0).floor == 0


@pytest.mark.parametrize("gate", ["fail", "unknown"])
def test_a_router_that_was_not_shown_to_help_warns(model: bytes, tmp_path: Path, gate: str) -> None:
    write(tmp_path, model, gate=gate)
    with pytest.warns(UserWarning, match=rf"gate: {gate}.*evaluate.py.*\"threshold\"") as caught:
        load_router(tmp_path)
    assert [one.filename for one in caught] == [__file__]


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0},
        {"temperature": -1.0},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"temperature": "1"},
        {"floor": -0.1},
        {"floor": 0.34},
        {"floor": math.nan},
        {"floor": "0.1"},
    ],
)
def test_wrong_options(folder: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        load_router(folder, **options)


def with_consensus(folder: Path, model: bytes, content: bytes, **changes: Any) -> Path:
    write(folder, model)
    (folder / "consensus.json").write_bytes(content)
    digests = {"consensus.json": hashlib.sha256(content).hexdigest()}
    digests["policy.onnx"] = hashlib.sha256(model).hexdigest()
    return write(folder, model, **{"format": 2, "calibration": {}, "sha256": digests} | changes)


CONSENSUS = LearnedConsensus(
    shared=Shared(**dict.fromkeys(Shared.model_fields, 0.25)),
    agents=("ann", "bob"),
    votes=(1.0, -1.0),
    pairs=((0.0, 0.5), (0.5, 0.0)),
)


def test_the_consensus_comes_with_it(model: bytes, tmp_path: Path) -> None:
    content = CONSENSUS.model_dump_json().encode()
    loaded = load_router(with_consensus(tmp_path / "a", model, content))
    assert (loaded.consensus, loaded.rule) == (CONSENSUS, None)
    loaded = load_router(with_consensus(tmp_path / "b", model, content, consensus="learned"))
    assert loaded.rule == "learned"
    assert choose_consensus(None, loaded) == ("learned", CONSENSUS)
    assert choose_consensus("majority", loaded)[0] == "majority"
    assert choose_consensus("log-odds", loaded)[1] == LogOdds(CONSENSUS.agreement)
    assert load_router(write(tmp_path / "c", model)).consensus is None


def test_an_altered_consensus_is_refused(model: bytes, tmp_path: Path) -> None:
    content = CONSENSUS.model_dump_json().encode()
    folder = with_consensus(tmp_path / "a", model, content)
    (folder / "consensus.json").write_bytes(content.replace(b"-1.0", b"-2.0"))
    with pytest.raises(RouterError, match="is not the file that"):
        load_router(folder)
    (folder / "consensus.json").unlink()
    with pytest.raises(RouterError, match=r"consensus\.json cannot be read"):
        load_router(folder)
    with pytest.raises(RouterError, match=r"consensus\.json: agents"):
        load_router(with_consensus(tmp_path / "b", model, content.replace(b'"bob"', b'"ann", 3')))
    with pytest.raises(RouterError, match="sha256 lists none"):
        load_router(write(tmp_path / "c", model, consensus="learned"))


def test_the_warning_says_what_to_run_instead(model: bytes, tmp_path: Path) -> None:
    folder = write(tmp_path / "a", model, gate="fail", advice="Run: ask agent ann alone.")
    with pytest.warns(UserWarning, match=r"gate: fail\)\. Run: ask agent ann alone\. Measure"):
        load_router(folder)


@pytest.mark.parametrize("why", ["the interval reaches 0", "", None, 5])
def test_the_warning_of_a_measured_router_says_why(model: bytes, tmp_path: Path, why: Any) -> None:
    evidence = {"why": "not estimated", "evaluation": {"why": why}}
    folder = write(tmp_path, model, gate="unknown", evidence=evidence)
    with pytest.warns(UserWarning, match="has not been shown") as told:
        load_router(folder)
    text = str(told[0].message)
    measured = why == "the interval reaches 0"
    assert ("has measured it: the interval reaches 0." in text) == measured
    assert ("Measure it" in text) != measured


def test_missing_files(folder: Path, model: bytes, tmp_path: Path) -> None:
    for missing in (tmp_path / "none", tmp_path, folder / "policy.onnx"):
        with pytest.raises(RouterError, match=r"router\.json cannot be read .*fit_router\.py"):
            load_router(missing)
    (write(tmp_path, model) / "policy.onnx").unlink()
    with pytest.raises(RouterError, match=r"policy\.onnx cannot be read \(No such file"):
        load_router(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda model: model[: len(model) // 2],
        lambda model: b"",
        lambda model: model + b"\0",
        lambda model: model[:30_000] + bytes([model[30_000] ^ 1]) + model[30_001:],
    ],
)
def test_a_torn_or_altered_network(
    model: bytes, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    write(tmp_path, model)
    (tmp_path / "policy.onnx").write_bytes(damage(model))
    with pytest.raises(RouterError, match="torn or was altered"):
        load_router(tmp_path)


@pytest.mark.parametrize("torn", [b"", b"not a network", b"\x08\x0a"])
def test_a_file_that_is_no_network_at_all(torn: bytes, tmp_path: Path) -> None:
    with pytest.raises(RouterError, match="is not a usable network"):
        load_router(write(tmp_path, torn))


def with_tensor(model: bytes, name: str, value: float) -> bytes:
    """Return the network with every number of one tensor set to `value`."""
    proto = onnx.load_from_string(model)
    (tensor,) = [t for t in proto.graph.initializer if t.name == name]
    array = np.full_like(onnx.numpy_helper.to_array(tensor), value)
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, name))
    return bytes(proto.SerializeToString())


@pytest.mark.parametrize("name", ["head.2.bias", "own_scale.mean", "null_peer"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_network_of_numbers_that_are_not_finite(
    model: bytes, tmp_path: Path, name: str, value: float
) -> None:
    broken = with_tensor(model, name, value)
    if (name, value) == ("own_scale.mean", math.inf):
        load_router(write(tmp_path, broken))  # cut to finite numbers: no harm
        return
    with pytest.raises(RouterError, match="did not return log-probabilities"):
        load_router(write(tmp_path, broken))


def rename_input(proto: Any) -> None:
    proto.graph.input[0].name = "self"
    for node in proto.graph.node:
        node.input[:] = ["self" if name == "own" else name for name in node.input]


def fewer_features(proto: Any) -> None:
    for value in proto.graph.input[:2]:
        value.type.tensor_type.shape.dim[-1].dim_value = F - 1


def fixed_batch(proto: Any) -> None:
    for value in [*proto.graph.input, *proto.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_value = 2


def another_output(proto: Any) -> None:
    proto.graph.output[0].name = "logits"
    for node in proto.graph.node:
        node.output[:] = ["logits" if name == "log_probabilities" else name for name in node.output]


@pytest.mark.parametrize("change", [rename_input, fewer_features, fixed_batch, another_output])
def test_a_network_of_another_shape(
    model: bytes, tmp_path: Path, change: Callable[[Any], None]
) -> None:
    proto = onnx.load_from_string(model)
    change(proto)
    with pytest.raises(RouterError, match=r"has inputs .* expected|not a usable network"):
        load_router(write(tmp_path, proto.SerializeToString()))


def test_an_output_that_is_no_distribution(model: bytes, tmp_path: Path) -> None:
    proto = onnx.load_from_string(model)
    (last,) = [node for node in proto.graph.node if node.op_type == "LogSoftmax"]
    last.op_type = "Sigmoid"
    last.ClearField("attribute")
    with pytest.raises(RouterError, match="did not return log-probabilities"):
        load_router(write(tmp_path, proto.SerializeToString()))


@pytest.mark.parametrize("when", ["always", "with many rows"])
def test_a_network_that_wants_much_memory(model: bytes, tmp_path: Path, when: str) -> None:
    """It fills 2.8 GB with ones before it answers."""
    proto = onnx.load_from_string(model)
    helper, numbers = onnx.helper, onnx.TensorProto
    size = helper.make_tensor("size", numbers.INT64, [1], [700_000_000])
    shape = [helper.make_node("Constant", [], ["much"], value=size)]
    if when != "always":  # not a constant that loading could fold
        one = helper.make_tensor("one", numbers.INT64, [1], [1])
        shape = [
            helper.make_node("Constant", [], ["most"], value=size),
            helper.make_node("Constant", [], ["one"], value=one),
            helper.make_node("Shape", ["own"], ["rows"], start=0, end=1),
            helper.make_node("Div", ["rows", "rows"], ["unit"]),
            helper.make_node("Mul", ["unit", "most"], ["much"]),
        ]
    ones = helper.make_tensor("ones", numbers.FLOAT, [1], [1.0])
    fill = helper.make_node("ConstantOfShape", ["much"], ["filled"], value=ones)
    most = helper.make_node("ReduceMax", ["filled"], ["top"], keepdims=0)
    name = proto.graph.output[0].name
    last = next(node for node in proto.graph.node if name in node.output)
    last.output[list(last.output).index(name)] = "before"
    proto.graph.node.extend(
        [*shape, fill, most, helper.make_node("Mul", ["before", "top"], [name])]
    )
    folder = write(tmp_path / "much", proto.SerializeToString())
    with pytest.raises(RouterError, match=r"not a usable network|network failed"):
        load_router(folder)


def test_numbers_kept_in_another_file_are_refused(model: bytes, tmp_path: Path) -> None:
    """What was hashed is all that is read."""
    proto = onnx.load_from_string(model)
    (tensor,) = [t for t in proto.graph.initializer if t.name == "head.2.bias"]
    (tmp_path / "elsewhere").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="elsewhere")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        with pytest.raises(RouterError, match="not a usable network"):
            load_router(write(tmp_path, proto.SerializeToString()))


# --- router.json ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"format": 2}, r"calibration: Field required"),
        ({"format": 2, "calibration": {"slope": 1.0, "shift": 0.0}}, r"calibration\.slope"),
        ({"format": 2, "calibration": None}, r"calibration: .*\(got None\)"),
        (
            {"format": 2, "calibration": {"x": {"proposed": {"slope": -1.0, "shift": 0.0}}}},
            r"calibration\.x\.proposed\.slope: .* \(got -1\.0\)",
        ),
        ({"format": 3}, r"format is 3, .* needs 1 or 2"),
        ({"format": None}, r"format is None"),
        ({"feature_version": FEATURE_VERSION + 1}, rf"feature_version is {FEATURE_VERSION + 1}"),
        ({"feature_version": "1"}, r"feature_version is '1'"),
        ({"temperature": 0.0}, "temperature: .*greater than 0"),
        ({"temperature": math.nan}, "temperature: .*finite"),
        ({"temperature": "1"}, "temperature: .*number"),
        ({"floor": 0.5}, "floor: "),
        ({"competence": {"ann": 1.5}}, r"competence\.ann: .*less than or equal to 1"),
        ({"competence": {"ann": math.nan}}, r"competence\.ann: .*finite"),
        ({"gate": "passed"}, "gate: .*'pass', 'fail' or 'unknown'"),
        ({"name": ""}, "name: "),
        ({"sha256": "abc"}, "sha256: "),
        ({"sha256": {}}, "expected None"),
    ],
)
def test_wrong_manifests(model: bytes, tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(RouterError, match=told):
        load_router(write(tmp_path, model, **changes))


@pytest.mark.parametrize("key", manifest(b""))
def test_what_a_manifest_needs(model: bytes, tmp_path: Path, key: str) -> None:
    told = manifest(model)
    del told[key]
    (write(tmp_path, model) / "router.json").write_text(json.dumps(told))
    if key in {"evidence", "training"}:
        assert load_router(tmp_path).name == "test-router"
        return
    with pytest.raises(RouterError, match=key):
        load_router(tmp_path)


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[1]", b'"x"', b"\xff", b"[" * 10**5, b"1" * 10**5, b"[" * 900 + b"]" * 900],
)
def test_what_is_no_manifest(model: bytes, tmp_path: Path, text: bytes) -> None:
    (write(tmp_path, model) / "router.json").write_bytes(text)
    with pytest.raises(RouterError, match=r"router\.json") as caught:
        load_router(tmp_path)
    assert len(str(caught.value)) < 1000


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(key=st.sampled_from(sorted(manifest(b""))), value=anything)
def test_any_manifest_loads_or_says_why_not(
    tmp_path_factory: pytest.TempPathFactory, model: bytes, key: str, value: Any
) -> None:
    written = write(tmp_path_factory.getbasetemp() / "any", model, **{key: value})
    try:
        router = load_router(written)
    except RouterError as error:
        assert key in str(error)  # noqa: PT017 -- most of what is drawn is refused, not all
        return
    assert router.decide([Observation(own=[0.5] * F, peers=[])], [ALL])


# --- where it runs --------------------------------------------------------------------------


def test_it_needs_no_torch_and_sends_and_leaves_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process and a home directory of its own, every warning an error."""
    code = (
        "import os, sys\n"
        "from mpdf_langgraph import load_router\n"
        f"router = load_router({str(folder)!r})\n"
        f"print(router.decide([dict(own=[0.5] * {F}, peers=[])], [[True] * 3]))\n"
        "print(sorted({'torch', 'onnx', 'transformers'} & set(sys.modules)))\n"
        "print(os.environ['ORT_DISABLE_TELEMETRY'])\n"
    )
    for name in [k for k in os.environ if k == "ORT_DISABLE_TELEMETRY" or k.startswith("XDG_")]:
        monkeypatch.delenv(name)
    done = run_python("-W", "error", "-c", code, HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    row, heavy, telemetry = done.stdout.splitlines()
    assert math.fsum(json.loads(row)[0]) == pytest.approx(1.0)
    assert (heavy, telemetry) == ("[]", "1")
    assert [*tmp_path.rglob("*")] == []


def test_without_onnxruntime(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigurationError, match=r'pip install "mpdf-langgraph\[router\]"'):
        load_router(folder)


def wavering(name: str) -> Scripted:
    """Another answer at every call, and another than the others' at first."""

    def reply(request: Request) -> str:
        return f"{name} {request.number}, perhaps #### {(len(name) + request.number) % 4}"

    return Scripted(reply=reply, logprob=-0.1 * len(name))


@pytest.mark.filterwarnings("error")
def test_another_critic_than_that_of_the_traces_is_told(model: bytes, tmp_path: Path) -> None:
    team = [Agent("ann", wavering("a")), Agent("bob", wavering("bb"))]
    fitted_with = {
        "one": {"critic": "self"}, "two": {"critic": ["logprob", "self"]}, "none": {},
        "odd": {"critic": 5},
    }  # fmt: skip
    routers = {
        name: load_router(write(tmp_path / name, model, training=training))
        for name, training in fitted_with.items()
    }
    for critic in ("logprob", None):
        with pytest.warns(UserWarning, match="was fitted with the critic self, and runs with"):
            create_deliberation(team, router=routers["one"], critic=critic)
    for name, critic in (("one", "self"), ("two", "logprob"), ("none", None), ("odd", "self")):
        create_deliberation(team, router=routers[name], critic=critic)


@pytest.mark.filterwarnings("error")
def test_another_rule_or_answer_than_in_the_fit_is_told(model: bytes, tmp_path: Path) -> None:
    team = [Agent("ann", wavering("a")), Agent("bob", wavering("bb"))]
    fitted = write(tmp_path / "a", model, consensus="majority", training={"answer": "math"})
    router = load_router(fitted)
    with pytest.warns(UserWarning, match="with consensus='majority'.*votes by 'confidence'") as on:
        create_deliberation(team, router=router, consensus="confidence", answer=MathAnswer())
    with pytest.warns(UserWarning, match=r"compared as 'math'.*compares them as 'choice'"):
        create_deliberation(team, router=router, answer=ChoiceAnswer(5))
    assert [one.filename for one in on] == [__file__]
    for options in ({"consensus": "majority"}, {}):
        create_deliberation(team, router=router, answer=MathAnswer(), **options)
    create_deliberation(team, router=router, answer=StructuredAnswer({"type": "object"}))
    unknown = load_router(write(tmp_path / "b", model, training={"answer": 5}))
    create_deliberation(team, router=unknown, consensus="majority")


@pytest.mark.parametrize("asynchronous", [False, True])
def test_it_drops_into_the_graph(
    folder: Path, router: LearnedRouter, tmp_path: Path, asynchronous: bool
) -> None:
    graph = create_deliberation(
        [
            Agent("ann", wavering("a")),
            Agent("bob", wavering("bb"), competence=0.6),
            wavering("ccc"),
        ],
        router=load_router(folder, greedy=False, temperature=3.0, floor=0.02),
        critic="logprob",
        answer=MathAnswer(),
        max_rounds=4,
        stop_when_settled=False,
        traces=tmp_path,
    ).compile()
    question = {"question": "What is 1 + 1?"}
    out = asyncio.run(graph.ainvoke(question)) if asynchronous else graph.invoke(question)
    assert out["messages"][-1].text
    (segment,) = tmp_path.glob("*.jsonl")
    episode = Episode.from_json(segment.read_bytes().strip())
    assert episode.options["router"] == {
        "name": "test-router",
        "version": f"{router.version.partition('+')[0]}+temperature=3.0+greedy=False+floor=0.02",
    }
    # Its own where given, else what the router knows, else one half: and so in the record.
    assert competences(episode.agents) == {"ann": 0.75, "bob": 0.6, "agent-3": 0.5}
    assert len(episode.turns) == 12
    assert all(turn["mask"] == ALL for turn in episode.turns[:3])
    for turn in episode.turns:
        assert (
            feature(turn["observation"]["own"], "competence")
            == (competences(episode.agents)[turn["agent"]])
        )
        mask = turn["mask"]
        logs = by_torch(turn["observation"], mask)
        powers = [math.exp((p - max(logs)) / 3) * ok for p, ok in zip(logs, mask, strict=True)]
        rest = 1 - 0.02 * sum(mask)
        expected = [
            (0.02 + rest * p / sum(powers)) * ok for p, ok in zip(powers, mask, strict=True)
        ]
        assert turn["probabilities"] == pytest.approx(expected, abs=1e-4)
        rebuilt = observe(
            Situation(
                held={
                    t["agent"]: episode.responses.get(t["before"] or "")
                    for t in episode.turns
                    if t["round"] == turn["round"]
                },
                previous=episode.tallies[turn["round"] - 2]["votes"] if turn["round"] > 1 else {},
                competence=competences(episode.agents),
                round=turn["round"],
                max_rounds=4,
            )
        )
        assert rebuilt[turn["agent"]] == turn["observation"]
    assert len({tuple(turn["probabilities"]) for turn in episode.turns}) >= 3


def test_agents_of_one_round_may_be_many(router: LearnedRouter) -> None:
    """The paper's teams have 3 agents. Nothing is fixed to that number."""
    rng = random.Random(0)
    vectors = [[rng.uniform(-1, 1) for _ in range(F)] for _ in range(40)]
    given_ = [Observation(own=v, peers=[w for w in vectors if w is not v]) for v in vectors]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = router.decide(given_, [ALL] * 40)
    assert len(rows) == 40
    assert {len(row) for row in rows} == {len(ACTIONS)}
