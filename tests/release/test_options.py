"""build_and_push.sh refuses what makes no sense before it looks for docker or AWS."""

from __future__ import annotations

import pytest

from tests.release.checkout import Checkout


def test_help_tells_every_option_that_the_script_knows(checkout: Checkout) -> None:
    ended = checkout.run("--help")
    script = (checkout.path / "build_and_push.sh").read_text()
    parsed = [
        word.rstrip(")")
        for line in script[script.index("parse_options() {") :].splitlines()
        if (word := line.strip()).startswith("--") and word.endswith(")") and "=" not in word
    ]

    assert ended.code == 0
    assert len(parsed) == 12
    assert all(f"\n  {option} " in ended.stdout for option in parsed)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--repo", "x"], "There is no option '--repo'."),
        (["vlm-sessions"], "There is no option 'vlm-sessions'."),
        (["--dry-run=yes"], "There is no option 'yes'."),
        (["--tag"], "--tag needs a value."),
        (["--tag", ""], "--tag is"),
        (["--tag", "--dry-run"], "--tag is"),
        (["--tag", "a b"], "'a b' is not."),
        (["--tag=" + "x" * 129], "at most 128 letters"),
        (["--repository", "Team/Name"], "--repository is a name in lower case"),
        (["--repository", "team/name:tag"], "--repository is a name in lower case"),
        (["--region", "Ireland"], "such as eu-west-1; 'Ireland' is not."),
        (["--account", "1234"], "--account is the 12 digits of an AWS account; '1234' is not."),
        (["--registry", "https://host:5000"], "such as 127.0.0.1:5000; 'https://host:5000' is not"),
        (["--registry", "host.example/path"], "--registry is a host"),
        (["--registry", "host"], "--registry is a host with its domain or port"),
        (["--base-image", ""], "--base-image is an image's name"),
        (["--base-image=debian bookworm"], "such as debian:bookworm-slim"),
        (["--torch", "rocm"], "--torch is cpu or cuda; 'rocm' is not."),
        (["--torch-index", "wheels"], "--torch-index is the URL of a package index"),
        (["--platform", "amd64"], "--platform is one platform, such as linux/amd64"),
        (["--platform", "linux/amd64,linux/arm64"], "--platform is one platform"),
        (["--registry", "localhost", "--region", "eu-west-1"], "leave one out"),
        (["--account", "123456789012", "--registry", "localhost"], "leave one out"),
    ],
)
def test_a_wrong_option_is_named_with_what_it_should_be(
    checkout: Checkout, arguments: list[str], complaint: str
) -> None:
    ended = checkout.run(*arguments)

    assert ended.code == 2
    assert complaint in ended.stderr
    assert "--help" in ended.stderr
    assert ended.stdout == ""
