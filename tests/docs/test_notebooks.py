"""The notebooks do what they show, and carry no outputs of somebody's machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.docs import notebooks
from tests.docs.conftest import ROOT, ReadmeService
from tests.release.moto import ACCOUNT, REGION, client, repositories

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LOCALLY = ROOT / "notebooks" / "01_sessions_locally.ipynb"
ON_SAGEMAKER = ROOT / "notebooks" / "02_deploy_on_sagemaker.ipynb"
ROLE_TEMPLATE = ROOT / "notebooks" / "sagemaker-role.yaml"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path: Path) -> None:
    cells = [cell for cell in notebooks.read(path).cells if cell.cell_type == "code"]
    assert cells
    assert not any(cell.outputs or cell.execution_count for cell in cells)


def test_the_first_notebook_talks_to_a_running_service_and_shows_what_is_cached(
    readme_service: ReadmeService,
) -> None:
    printed = notebooks.run(LOCALLY, {"URL": f"http://{readme_service.address}"}, {})
    assert "What is in the top left?     a red circle" in printed
    assert "How big is it?               large" in printed
    assert "first piece after" in printed
    assert "ms = " in printed
    assert "closed" in printed.splitlines()[-1]


def test_the_second_notebook_makes_an_endpoint_talks_to_it_and_leaves_nothing(
    readme_service: ReadmeService,
) -> None:
    aws = readme_service.environ
    role = create_role(aws)
    # No image can be pushed to moto's registry: the script says what it would do. The repository,
    # which it would have created, is there.
    client(aws, "ecr").create_repository(repositoryName="vlm-sessions")
    parameters = {
        "ROLE_ARN": role,
        "BUILD_OPTIONS": ["--dry-run"],
        "INSTANCE_TYPE": "ml.g4dn.xlarge",  # moto knows none that is newer
    }
    printed = notebooks.run(ON_SAGEMAKER, parameters, aws)
    for line in (
        f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/vlm-sessions:",
        f"s3://vlm-sessions-{ACCOUNT}-{REGION}/models/llava/config.json",
        "InService",
        "What is in the top left? a red circle",
        "How big is it? large",
        'data: {"text":"',
        "event: done",
        "closed ts-seq-",
        '410 {"error":{"code":"session_closed"',
    ):
        assert line in printed
    assert client(aws, "sagemaker").list_endpoints()["Endpoints"] == []
    assert client(aws, "sagemaker").list_models()["Models"] == []
    assert client(aws, "s3").list_buckets()["Buckets"] == []
    assert repositories(aws) == []


def create_role(aws: Mapping[str, str]) -> str:
    """By the template, as the notebook says; what its output says."""
    cloudformation = client(aws, "cloudformation")
    cloudformation.create_stack(
        StackName="vlm-sessions-role",
        TemplateBody=ROLE_TEMPLATE.read_text(),
        Capabilities=["CAPABILITY_IAM"],
    )
    (stack,) = cloudformation.describe_stacks(StackName="vlm-sessions-role")["Stacks"]
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    return str(stack["Outputs"][0]["OutputValue"])
