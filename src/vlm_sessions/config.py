"""Settings: every environment variable that the product reads, in this one place.

``Settings.from_env`` takes one snapshot at start-up; nothing reads ``os.environ`` afterwards, but
for the user's state directory when none was set. A ``VLM_`` variable that is not listed here is
refused with the nearest name, so that a misspelt limit never silently keeps its default.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    ValidationError,
    field_validator,
    model_validator,
)

from vlm_sessions.errors import ConfigError

PREFIX = "VLM_"

# Between the supervisor and TorchServe's worker, which Java stands between: a private directory of
# sockets. Not a setting; the supervisor makes it and nobody else sets it.
RUN_DIR_VARIABLE = "_VLM_SESSIONS_RUN_DIR"
LOG_SOCKET = "log.sock"
ABORTS_SOCKET = "aborts.sock"
DRAINED_MARK = "drained"

# Names that SageMaker and its containers use for settings of ours. A VLM_ variable wins over them.
SAGEMAKER_NAMES: Mapping[str, str] = {
    "SAGEMAKER_BIND_TO_PORT": "port",
    "SAGEMAKER_SESSIONS_EXPIRATION": "session_idle_seconds",
    "SAGEMAKER_SESSIONS_PATH": "state_dir",
    "SAGEMAKER_MAX_PAYLOAD_IN_MB": "max_payload_mb",
    "SAGEMAKER_CONTAINER_LOG_LEVEL": "log_level",
}

# The command line's client has it, which may run in the same shell as the service.
API_KEY_VARIABLE = "VLM_API_KEY"

# The platform sets it for a container that can listen elsewhere, as the image's label says.
_ON_SAGEMAKER = "SAGEMAKER_BIND_TO_PORT"

# SAGEMAKER_CONTAINER_LOG_LEVEL may be one of Python's numbers.
_LOG_NUMBERS = {"10": "debug", "20": "info", "30": "warning", "40": "error", "50": "error"}


def _log_level(value: object) -> object:
    text = str(value).strip().lower()
    return {"warn": "warning", "critical": "error"}.get(text, _LOG_NUMBERS.get(text, text))


def _comma_list(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _mib(value: object) -> object:
    text = str(value).strip().lower()
    return int(text) if text.isdecimal() else text


HostMiB = Annotated[Literal["auto"] | NonNegativeInt, BeforeValidator(_mib)]
Names = Annotated[tuple[str, ...], BeforeValidator(_comma_list)]


class Settings(BaseModel):
    """All settings, frozen. Field ``x`` is read from the environment variable ``VLM_X``."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    # Where it listens, and what it keeps
    host: str = Field("127.0.0.1", description="Address that the edge listens on.")
    port: int = Field(8080, ge=1, le=65535, description="Port that the edge listens on.")
    state_dir: Path | None = Field(
        None,
        description="Directory of the journal. Default: one for each port, in the user's home.",
    )

    # The model
    model: str | None = Field(
        None,
        description="A checkpoint directory or hub id. Default: what SageMaker put into "
        "/opt/ml/model, else the packaged built-in model.",
    )
    model_store: Path | None = Field(
        None,
        description="Directory with the packed handler and built-in model, taken as it is. "
        "Default: the checkout's, packed anew when its sources have changed.",
    )
    image_tiles: Literal["many", "one"] = Field(
        "many",
        description="For models that cut pictures into tiles. many: by each picture's size; one: "
        "the picture as a whole, which LLaVA-OneVision knows from conversations about several.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where the model runs.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Of weights and KV cache. auto: float32 on CPU, bfloat16 on CUDA."
    )
    kernels: Literal["auto", "torch", "reference"] = Field(
        "auto",
        description="What computes the text model. auto: what is fastest for the device; torch: "
        "the same, without the kernels in C for CPUs; reference: transformers' own code and plain "
        "attention, several times slower.",
    )
    threads: int = Field(
        0,
        ge=0,
        description="Torch threads of the engine; 0: one for each physical core that it may use, "
        "less one for the other processes.",
    )

    # The engine and its caches
    block_size: int = Field(16, ge=1, le=256, description="Tokens in a KV block.")
    kv_cache_mb: int = Field(
        0,
        ge=0,
        description="MiB of KV blocks; 0: on a GPU what is left of VLM_MEMORY_SHARE, on a CPU a "
        "quarter of the free memory, 4096 at most.",
    )
    paged_kernel: Literal["auto", "triton", "varlen", "none"] = Field(
        "auto",
        description="What attends to KV blocks on a GPU: a kernel in Triton, torch's own (blocks "
        "of 256 tokens), or none: contexts are gathered. auto: the first that computes right.",
    )
    cuda_graphs: bool = Field(
        True, description="Decode on a GPU by replaying graphs of its kernels."
    )
    kv_dtype: Literal["auto", "fp8"] = Field(
        "auto",
        description="What keys and values are stored as. auto: as VLM_DTYPE says; fp8: in 8 bits "
        "(e4m3), so that the same memory holds twice or four times as many tokens.",
    )
    memory_share: float = Field(
        0.9, gt=0, le=1, description="Part of a GPU's memory that the engine may take in all."
    )
    host_kv_mb: HostMiB = Field(
        "auto",
        description="MiB of KV blocks on the host, for what the device has no room for. auto: on a "
        "GPU a quarter of the host's free memory, 65536 at most, pinned; on a CPU none, since it "
        "would be the same memory.",
    )
    host_feature_mb: HostMiB = Field(
        "auto",
        description="MiB of image features on the host. auto: on a GPU a twentieth of the host's "
        "free memory, 8192 at most; on a CPU none.",
    )
    eviction: Literal["cost", "lru"] = Field(
        "cost",
        description="What goes first when a cache is full. cost: what costs least time to get "
        "back, times how likely it is to be wanted; lru: the least recently used.",
    )
    feature_cache_mb: int = Field(256, ge=0, description="MiB of image features on the device.")
    pixel_cache_mb: int = Field(64, ge=0, description="MiB of pixel tensors kept by the engine.")
    max_batch_tokens: int = Field(1024, ge=16, description="Tokens computed in one step, at most.")
    prefill_share: float = Field(
        0.5,
        ge=0,
        description="While answers are being written, computing prompts may lengthen a step by "
        "this share, less what encoding an image takes of it; 0: by any.",
    )
    max_running: int = Field(64, ge=1, description="Turns computed at the same time, at most.")
    prefill_on_open: bool = Field(
        True, description="Encode the image and compute its KV when a session opens."
    )

    # Sessions
    session_idle_seconds: int = Field(
        1200, ge=1, description="A session ends after this long without use; each use renews it."
    )
    session_max_seconds: int = Field(
        86_400,
        ge=1,
        description="A session ends after this long, however busy it is. Unset, it is never below "
        "VLM_SESSION_IDLE_SECONDS.",
    )
    tombstone_seconds: int = Field(
        3600, ge=0, description="For this long an ended session answers 410 rather than 404."
    )
    max_sessions: int = Field(10_000, ge=1, description="Open sessions, at most.")
    max_queued_per_session: int = Field(
        4, ge=0, description="Prompts waiting behind a running one."
    )
    max_queued: int = Field(256, ge=1, description="Prompts in the service, waiting or running.")
    max_wait_seconds: float = Field(
        30.0,
        ge=0,
        description="A prompt whose first token would come later than this, with those that wait "
        "before it, is refused at once, an opening at half of it; 0: none is.",
    )

    # Who may come in
    api_keys_file: Path | None = Field(
        None,
        description="File of API keys, a line `NAME:SHA256` for each (`vlm-sessions keys new`). "
        "Requests then need one, but for /ping. Default: none is asked for. Not on SageMaker, "
        "where IAM guards the door.",
    )
    max_sessions_per_key: int = Field(
        0,
        ge=0,
        description="Open sessions of one client, at most; 0: no limit of its own. Without "
        "VLM_API_KEYS_FILE all are one client.",
    )
    max_queued_per_key: int = Field(
        0,
        ge=0,
        description="Prompts of one client, waiting or running, with the sessions that it is just "
        "opening; 0: no limit of its own.",
    )

    # Limits of a request
    max_payload_mb: int = Field(
        25, ge=1, le=1024, description="Body of a request, and its images with fetched ones, MiB."
    )
    max_image_mb: int = Field(20, ge=1, description="Encoded bytes of one image, MiB.")
    # Pillow refuses more than 178,956,970 pixels by itself.
    max_image_megapixels: int = Field(50, ge=1, le=178, description="Size of one decoded image.")
    max_images_per_session: int = Field(
        16, ge=1, description="Images of one session, those of its prompts included."
    )
    max_prompt_chars: int = Field(100_000, ge=1, description="Text of one request.")
    context_overflow: Literal["error", "drop_oldest"] = Field(
        "error",
        description="What happens to a prompt that no longer fits the model's context with its "
        "session: an error, or the oldest turns without images are left out of what the model is "
        "given.",
    )
    default_max_new_tokens: int = Field(
        256, ge=1, description="Longest answer to a request that names no limit, in tokens."
    )
    limit_max_new_tokens: int = Field(4096, ge=1, description="The most that a request may name.")
    prompt_timeout_seconds: float = Field(
        55.0, gt=0, description="A single reply's deadline; SageMaker cuts at 60 s."
    )
    stream_timeout_seconds: float = Field(
        470.0, gt=0, description="A streamed reply's deadline; SageMaker cuts at 480 s."
    )

    # Images by URL
    fetch_timeout_seconds: float = Field(
        10.0, gt=0, description="For one image, redirects included."
    )
    fetch_allow: Names = Field(
        (),
        description="Host names and CIDR blocks that may be fetched although they are private, "
        "comma-separated.",
    )

    # Operation
    drain_seconds: float = Field(
        25.0,
        ge=0,
        description="After SIGTERM, running answers may take this long; SageMaker kills 30 s "
        "after it.",
    )
    drain_notice_seconds: float = Field(
        0.0,
        ge=0,
        description="The first part of it, in which /ping fails already and nothing is refused "
        "yet, so that routers turn away first.",
    )
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], BeforeValidator(_log_level)
    ] = Field("info", description="Least severe log lines that are written.")
    log_content: bool = Field(False, description="Also log prompts and answers. Off: never.")

    @model_validator(mode="before")
    @classmethod
    def _maximum_follows_idle(cls, values: dict[str, object]) -> dict[str, object]:
        # SAGEMAKER_SESSIONS_EXPIRATION knows no maximum: a long one alone must not end start-up.
        idle = str(values.get("session_idle_seconds", ""))
        if "session_max_seconds" in values or not idle.isdecimal():
            return values
        default: int = cls.model_fields["session_max_seconds"].default
        return {**values, "session_max_seconds": max(default, int(idle))}

    @field_validator("fetch_allow")
    @classmethod
    def _networks(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        # A mistyped block would otherwise pass for a host of that name, which there is none.
        for name in names:
            if "/" in name:
                try:
                    ipaddress.ip_network(name, strict=False)
                except ValueError as exc:
                    raise ValueError(
                        f"{name!r} is neither a host name nor a block such as 10.0.0.0/8"
                    ) from exc
        return names

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if self.session_max_seconds < self.session_idle_seconds:
            raise ValueError("VLM_SESSION_MAX_SECONDS must not be below VLM_SESSION_IDLE_SECONDS")
        if self.default_max_new_tokens > self.limit_max_new_tokens:
            raise ValueError("VLM_DEFAULT_MAX_NEW_TOKENS must not exceed VLM_LIMIT_MAX_NEW_TOKENS")
        if self.drain_notice_seconds > self.drain_seconds:
            raise ValueError("VLM_DRAIN_NOTICE_SECONDS must not exceed VLM_DRAIN_SECONDS")
        return self

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """Read a snapshot of ``environ``. Empty values count as unset.

        Raises:
            ConfigError: a ``VLM_`` name is unknown, or a value does not validate.
        """
        values: dict[str, str] = {}
        for name, field in SAGEMAKER_NAMES.items():
            if environ.get(name):
                values[field] = environ[name]
        for name, value in environ.items():
            if not name.startswith(PREFIX) or not value or name == API_KEY_VARIABLE:
                continue
            field = name.removeprefix(PREFIX).lower()
            if field not in cls.model_fields:
                raise ConfigError(f"{name} is not a setting.{_nearest(name, cls)}")
            values[field] = value
        if "api_keys_file" in values and environ.get(_ON_SAGEMAKER):
            raise ConfigError(
                f"VLM_API_KEYS_FILE has no place on SageMaker ({_ON_SAGEMAKER} is set): IAM guards "
                "its endpoints and hands no key on, so that all would be refused. Unset it."
            )
        try:
            return cls.model_validate(values)
        except ValidationError as exc:
            problems = (
                f"{PREFIX}{str(e['loc'][0]).upper()}: {e['msg']}" if e["loc"] else e["msg"]
                for e in exc.errors(include_url=False)
            )
            raise ConfigError("; ".join(problems)) from exc

    def to_env(self) -> dict[str, str]:
        """The environment that ``from_env`` turns back into these settings; defaults left out."""
        env: dict[str, str] = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if value == type(self).model_fields[name].default or value is None:
                continue
            env[PREFIX + name.upper()] = ",".join(value) if isinstance(value, tuple) else str(value)
        return env

    def resolved_state_dir(self) -> Path:
        """The journal's directory: the one that was set, else one for each port.

        Raises:
            ConfigError: none was set, and the user has no home, as in many containers.
        """
        if self.state_dir is not None:
            return self.state_dir
        base = os.environ.get("XDG_STATE_HOME")
        try:
            state = Path(base) if base else Path.home() / ".local" / "state"
        except RuntimeError as exc:
            raise ConfigError(
                "This user has no home directory to keep the journal in. Set VLM_STATE_DIR to a "
                "directory that it may write."
            ) from exc
        return state / "vlm-sessions" / f"port-{self.port}"


def _nearest(name: str, settings: type[Settings]) -> str:
    known = [PREFIX + field.upper() for field in settings.model_fields]
    close = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {close[0]}?" if close else ""
