"""Settings: one snapshot of the environment, nothing guessed, nothing silently ignored."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from vlm_sessions.config import PREFIX, SAGEMAKER_NAMES, Settings
from vlm_sessions.errors import ConfigError


def test_an_empty_environment_gives_the_defaults() -> None:
    assert Settings.from_env({}) == Settings()


def test_every_setting_has_a_variable_of_its_name() -> None:
    settings = Settings.from_env(
        {"VLM_PORT": "9000", "VLM_MODEL": "org/llava", "VLM_FETCH_TIMEOUT_SECONDS": "2.5"}
    )

    assert settings.port == 9000
    assert settings.model == "org/llava"
    assert settings.fetch_timeout_seconds == 2.5


def test_variables_of_others_are_none_of_our_business() -> None:
    assert Settings.from_env({"PORT": "1", "PATH": "/bin", "vlm_port": "1"}) == Settings()


def test_an_empty_value_counts_as_unset() -> None:
    assert Settings.from_env({"VLM_PORT": "", "VLM_NOT_A_SETTING": ""}) == Settings()


def test_a_misspelt_variable_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"VLM_MAX_SESION is not .* mean VLM_MAX_SESSIONS\?"):
        Settings.from_env({"VLM_MAX_SESION": "3"})


def test_a_variable_like_no_other_is_refused_without_a_guess() -> None:
    with pytest.raises(ConfigError, match=r"VLM_QQQQ is not a setting\.$"):
        Settings.from_env({"VLM_QQQQ": "3"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("VLM_PORT", "0"),
        ("VLM_PORT", "65536"),
        ("VLM_PORT", "http"),
        ("VLM_DEVICE", "tpu"),
        ("VLM_DTYPE", "int8"),
        ("VLM_PROMPT_TIMEOUT_SECONDS", "0"),
        ("VLM_MAX_PAYLOAD_MB", "-1"),
        ("VLM_LOG_LEVEL", "loud"),
        ("VLM_LOG_CONTENT", "perhaps"),
        ("VLM_SESSION_IDLE_SECONDS", "0"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_the_name_of_its_variable(
    name: str, value: str
) -> None:
    with pytest.raises(ConfigError, match=name):
        Settings.from_env({name: value})


def test_all_problems_of_values_are_told_at_once() -> None:
    with pytest.raises(ConfigError, match=r"VLM_PORT: .*; VLM_DEVICE: .*"):
        Settings.from_env({"VLM_PORT": "x", "VLM_DEVICE": "x"})


@pytest.mark.parametrize(
    ("name", "value", "field", "expected"),
    [
        ("SAGEMAKER_BIND_TO_PORT", "9000", "port", 9000),
        ("SAGEMAKER_SESSIONS_EXPIRATION", "60", "session_idle_seconds", 60),
        ("SAGEMAKER_SESSIONS_PATH", "/dev/shm/s", "state_dir", Path("/dev/shm/s")),
        ("SAGEMAKER_MAX_PAYLOAD_IN_MB", "6", "max_payload_mb", 6),
        ("SAGEMAKER_CONTAINER_LOG_LEVEL", "20", "log_level", "info"),
    ],
)
def test_names_of_sagemaker_are_honoured(
    name: str, value: str, field: str, expected: object
) -> None:
    assert getattr(Settings.from_env({name: value}), field) == expected


@pytest.mark.parametrize(("name", "field"), sorted(SAGEMAKER_NAMES.items()))
def test_our_own_names_win_over_those_of_sagemaker(name: str, field: str) -> None:
    theirs = {"log_level": "10", "state_dir": "/theirs"}.get(field, "11")
    ours = {"log_level": "error", "state_dir": "/ours"}.get(field, "12")

    settings = Settings.from_env({name: theirs, PREFIX + field.upper(): ours})

    assert str(getattr(settings, field)) == ours


@pytest.mark.parametrize(
    ("written", "level"),
    [
        ("10", "debug"),
        ("30", "warning"),
        ("WARN", "warning"),
        ("Critical", "error"),
        ("50", "error"),
    ],
)
def test_log_levels_may_be_written_as_python_and_sagemaker_do(written: str, level: str) -> None:
    assert Settings.from_env({"VLM_LOG_LEVEL": written}).log_level == level


def test_a_list_is_separated_by_commas() -> None:
    settings = Settings.from_env({"VLM_FETCH_ALLOW": " images.internal, 10.0.0.0/8,,"})

    assert settings.fetch_allow == ("images.internal", "10.0.0.0/8")


@pytest.mark.parametrize("block", ["10.0.0.0/33", "10.0.0/x", "https://images.internal/"])
def test_a_mistyped_block_is_not_taken_for_a_host(block: str) -> None:
    with pytest.raises(ConfigError, match=r"VLM_FETCH_ALLOW: .*neither a host name nor a block"):
        Settings.from_env({"VLM_FETCH_ALLOW": f"images.internal,{block}"})


def test_limits_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match="VLM_SESSION_MAX_SECONDS must not be below"):
        Settings.from_env({"VLM_SESSION_MAX_SECONDS": "10"})
    with pytest.raises(ConfigError, match="VLM_DEFAULT_MAX_NEW_TOKENS must not exceed"):
        Settings.from_env({"VLM_LIMIT_MAX_NEW_TOKENS": "10"})
    with pytest.raises(ConfigError, match="VLM_DRAIN_NOTICE_SECONDS must not exceed"):
        Settings.from_env({"VLM_DRAIN_NOTICE_SECONDS": "26"})


def test_settings_cannot_be_changed_and_take_no_unknown_ones() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1  # type: ignore[misc]
    with pytest.raises(ValidationError, match="not permitted"):
        Settings.model_validate({"prt": 1})


def test_an_environment_written_for_a_child_is_read_back_as_the_same_settings() -> None:
    settings = Settings(
        port=9000,
        state_dir=Path("/var/lib/vlm"),
        model="org/llava",
        prefill_on_open=False,
        fetch_allow=("images.internal", "10.0.0.0/8"),
        prompt_timeout_seconds=1.5,
        log_content=True,
        log_level="debug",
    )

    assert Settings.from_env(settings.to_env()) == settings
    assert Settings().to_env() == {}


def test_each_port_has_a_state_directory_of_its_own_unless_one_is_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/home/state")

    assert Settings(port=9000).resolved_state_dir() == Path("/home/state/vlm-sessions/port-9000")
    assert Settings(state_dir=Path("/s")).resolved_state_dir() == Path("/s")


def test_a_user_without_a_home_is_asked_for_a_state_directory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nobody(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr("pwd.getpwuid", nobody)
    for name in ("HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)

    with pytest.raises(ConfigError, match=r"no home directory.*VLM_STATE_DIR"):
        Settings().resolved_state_dir()
    assert Settings(state_dir=Path("/s")).resolved_state_dir() == Path("/s")


def test_a_long_idle_time_alone_raises_the_maximum_with_it() -> None:
    settings = Settings.from_env({"SAGEMAKER_SESSIONS_EXPIRATION": "200000"})
    assert settings.session_max_seconds == 200_000
    assert Settings.from_env({"VLM_SESSION_IDLE_SECONDS": "60"}).session_max_seconds == 86_400
