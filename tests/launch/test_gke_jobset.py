"""`launch/gke_jobset.yaml` is what the JobSet API takes, and fits together."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from deemo_jax import cli, verbs
from deemo_jax.exits import BAD_USAGE, LOST, PREEMPTED
from tests.launch.conftest import LAUNCH

SCHEMA = json.loads((Path(__file__).parent / "jobset_v1alpha2.json").read_text())
JOBSET = yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())


def job_of(jobset: Any) -> Any:
    [replicated] = jobset["spec"]["replicatedJobs"]
    return replicated["template"]["spec"]


def pod_of(jobset: Any) -> Any:
    return job_of(jobset)["template"]["spec"]


def test_it_is_a_jobset():
    jsonschema.validate(JOBSET, SCHEMA)


def planted(change) -> Any:
    jobset = copy.deepcopy(JOBSET)
    change(jobset)
    return jobset


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x["spec"]["failurePolicy"].update(maxRestart=3),
        lambda x: x["spec"]["failurePolicy"]["rules"][0].update(action="Fail"),
        lambda x: job_of(x).update(parallelism="8"),
        lambda x: job_of(x).update(podFailurePolicy={"rules": [{"onExitCodes": {}}]}),
        lambda x: pod_of(x)["containers"][0].update(arguments=[]),
        lambda x: pod_of(x)["containers"][0].update(args=[{"--workdir": "x"}]),
        lambda x: pod_of(x).pop("containers"),
    ],
)
def test_the_schema_refuses_a_planted_fault(change):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(planted(change), SCHEMA)


def test_a_process_a_host_with_all_of_its_chips():
    job, pod = job_of(JOBSET), pod_of(JOBSET)
    topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    [container] = pod["containers"]
    chips = container["resources"]["limits"]["google.com/tpu"]
    assert container["resources"]["requests"]["google.com/tpu"] == chips
    hosts = math.prod(map(int, topology.split("x"))) / chips
    assert job["parallelism"] == job["completions"] == hosts
    assert hosts.is_integer()


def test_bad_usage_ends_it_and_what_goes_on_does_not():
    job, [rule] = job_of(JOBSET), JOBSET["spec"]["failurePolicy"]["rules"]
    [on_exit] = job["podFailurePolicy"]["rules"]
    assert on_exit["action"] == "FailJob"
    assert on_exit["onExitCodes"]["operator"] == "In"
    assert BAD_USAGE in on_exit["onExitCodes"]["values"]
    assert not {PREEMPTED, LOST} & {*on_exit["onExitCodes"]["values"]}
    assert (rule["action"], rule["onJobFailureReasons"]) == (
        "FailJobSet",
        ["PodFailurePolicy"],
    )
    # The kubelet must not start one process again by itself; the API asks for `Never`
    # wherever there is a podFailurePolicy.
    assert (job["backoffLimit"], pod_of(JOBSET)["restartPolicy"]) == (0, "Never")
    assert JOBSET["spec"]["failurePolicy"]["maxRestarts"] > 0


def test_what_it_starts_is_a_command_of_deemo():
    pod = pod_of(JOBSET)
    [container] = pod["containers"]
    assert container["command"] == ["deemo", "train"]
    arguments = cli.parse("train", verbs.VERBS["train"], container["args"])
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    [mount] = [path for path in mounts if arguments["workdir"].is_relative_to(path)]
    assert mounts[mount] in [volume["name"] for volume in pod["volumes"]]
