"""Files of a large run: they fit each other and the commands, and the plan is right."""

import re
import shlex
from pathlib import Path

import pytest
import tyro
import yaml

from examples.scale.plan import PlanOptions, plan, round_to_three
from mpdf_langgraph import ConfigurationError, TraceWriter
from tests.support.paths import ROOT
from tests.support.recorded import played_episode
from tests.support.scripted import says
from training.collect.collecting import CollectOptions

SCALE = ROOT / "examples/scale"
JOB = (SCALE / "collect-job.yaml").read_text()
_, ray_job = yaml.safe_load_all(JOB)
deployment, service = yaml.safe_load_all((SCALE / "vllm.yaml").read_text())


def test_the_job_gives_options_that_the_command_has() -> None:
    python, m, module, *words = shlex.split(ray_job["spec"]["entrypoint"])
    assert (python, m, module) == ("python", "-m", "training.collect")
    options = tyro.cli(CollectOptions, args=words)
    group = ray_job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    [container] = group["template"]["spec"]["containers"]
    assert options.cluster.workers == group["replicas"] * int(
        container["resources"]["requests"]["cpu"]
    )
    [port] = service["spec"]["ports"]
    assert options.team.base_url == (f"http://{service['metadata']['name']}:{port['port']}/v1",)


def test_the_service_finds_its_servers() -> None:
    template = deployment["spec"]["template"]
    assert service["spec"]["selector"] == template["metadata"]["labels"]
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]
    [container] = template["spec"]["containers"]
    assert service["spec"]["ports"][0]["targetPort"] in [p["name"] for p in container["ports"]]


def test_every_pod_sees_the_traces() -> None:
    cluster = ray_job["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        [container] = group["template"]["spec"]["containers"]
        assert {"name": "traces", "mountPath": "/traces"} in container["volumeMounts"]


def test_one_version_of_ray() -> None:
    [locked] = re.findall(r"(?m)^ray==(\S+)$", (ROOT / "requirements/locked.txt").read_text())
    [image] = re.findall(r"rayproject/ray:([\d.]+)-", (SCALE / "Dockerfile").read_text())
    assert locked == image == ray_job["spec"]["rayClusterSpec"]["rayVersion"]


def test_a_plan_is_the_mean_times_the_number(tmp_path: Path) -> None:
    writer = TraceWriter(tmp_path / "part-0")
    team = [says("The answer is 1", bytes_per_token=1), says("Answer: 1", bytes_per_token=1)]
    for agents in (team, team[:1]):
        writer.write(played_episode("1 + 0?", "1", agents, critic=None, consensus="majority"))
    writer.close()
    assert sum(len(served.requests) for served in team) == 3
    size = sum(path.stat().st_size for path in tmp_path.rglob("*.jsonl")) / 2
    told = plan(PlanOptions(tmp_path, episodes=2000, gpu_seconds=7.2, gpus=2, price=3.0))
    assert told.startswith("Measured on 2 episodes, planned for 2,000:\n")
    rows = {cells[1]: cells[2:4] for cells in (re.split(r" *\| *", row) for row in told.split("\n"))
            if len(cells) > 3}  # fmt: skip
    assert rows["calls"] == ["1.5 ± 0.5", "3,000"]
    # 15, 9 and 15 bytes were said, a token each.
    assert rows["completion tokens"] == ["19.5 ± 4.5", "39,000"]
    assert rows["disk"] == [f"{size / 1000:,.1f} kB", f"{round_to_three(size * 2e-6)} GB"]
    assert rows["GPU time"] == ["3.60 s", "2 hours"]
    assert rows["days on 2 GPUs"] == ["", "0.0417"]
    assert rows["price of the GPUs"] == ["", "6"]
    assert "give --gpu-seconds" in plan(PlanOptions(tmp_path))


def test_a_plan_needs_a_sample(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="holds 0 episodes"):
        plan(PlanOptions(tmp_path))
