# The serving container. See README, "As a container".
#
# Layers, from what changes least to what changes most: Debian's packages, torch, the other
# requirements, our wheel, the packed model, labels. What only builds lives in stages of its own and
# is mounted where it is needed, so that nothing of it is in the image.
#
# Optional build secrets, for a machine behind a mirror: `pipconf`, a pip.conf; `ca`, the
# certificates that pip trusts. Neither is kept.

# Debian's or Ubuntu's kind, with Python 3.11 or newer, its own or installable: also nvidia/cuda of
# Ubuntu 24.04, or one of AWS's deep-learning images.
ARG BASE_IMAGE=debian:bookworm-slim

FROM ${BASE_IMAGE} AS base
# The last stage names another user.
# hadolint ignore=DL3002
USER 0
RUN set -eu; \
    export DEBIAN_FRONTEND=noninteractive; \
    fail() { echo "BASE_IMAGE $1" >&2; exit 1; }; \
    check_python() { \
      python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
        || fail "has $(python3 --version), and 3.11 is needed: take debian:bookworm-slim or Ubuntu 24.04."; \
    }; \
    command -v apt-get >/dev/null \
      || fail "must be of Debian's or Ubuntu's kind: HAProxy comes from its apt-get."; \
    python=python3; \
    if command -v python3 >/dev/null; then check_python; python=; fi; \
    apt-get update -q; \
    apt-get install -qy --no-install-recommends haproxy $python; \
    rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/log/apt /var/log/dpkg.log; \
    check_python; \
    python3 -m venv --without-pip /opt/vlm-sessions/venv; \
    # Group 0 may write: so may root without its capabilities, and any uid that Docker is told.
    useradd --uid 10001 --gid 0 --no-create-home --home-dir /var/lib/vlm-sessions \
      --shell /usr/sbin/nologin vlm-sessions; \
    install -d -m 2770 -o 10001 -g 0 /var/lib/vlm-sessions
WORKDIR /opt/vlm-sessions


FROM base AS build
RUN set -eu; \
    export DEBIAN_FRONTEND=noninteractive; \
    python3 -c 'import ensurepip' 2>/dev/null \
      || { apt-get update -q; apt-get install -qy --no-install-recommends python3-venv; \
           rm -rf /var/lib/apt/lists/*; }; \
    python3 -m venv /mnt/build
COPY scripts/image/pip-install /mnt/build/bin/
COPY requirements/build.txt requirements/constraints.txt /mnt/build/requirements/
RUN --mount=type=secret,id=pipconf --mount=type=secret,id=ca \
    /mnt/build/bin/pip-install /mnt/build \
      -r /mnt/build/requirements/build.txt -c /mnt/build/requirements/constraints.txt


# Kernels in C, for every processor that the image may meet.
FROM base AS native
RUN set -eu; \
    export DEBIAN_FRONTEND=noninteractive; \
    apt-get update -q; \
    apt-get install -qy --no-install-recommends gcc libc6-dev; \
    rm -rf /var/lib/apt/lists/*
COPY src/vlm_sessions/model/native /native
RUN python3 /native/build.py


FROM build AS wheel
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY src src
COPY --from=native /native/built src/vlm_sessions/model/native/built
RUN /mnt/build/bin/python -m pip --disable-pip-version-check wheel --quiet --no-deps \
      --no-build-isolation --no-index --wheel-dir /wheels .


FROM base
ARG TORCH=auto
ARG TORCH_INDEX=
RUN --mount=type=bind,from=build,source=/mnt/build,target=/mnt/build \
    --mount=type=bind,source=requirements/torch.txt,target=/mnt/torch.txt \
    --mount=type=bind,source=scripts/image/install-torch,target=/mnt/install-torch \
    --mount=type=bind,source=scripts/image/check_torch.py,target=/mnt/check_torch.py \
    --mount=type=secret,id=pipconf --mount=type=secret,id=ca \
    /mnt/install-torch "${TORCH}" "${TORCH_INDEX}"
RUN --mount=type=bind,from=build,source=/mnt/build,target=/mnt/build \
    --mount=type=bind,source=requirements/serve.txt,target=/mnt/serve.txt \
    --mount=type=bind,source=scripts/image/install-requirements,target=/mnt/install-requirements \
    --mount=type=bind,source=scripts/image/unpack_netty.py,target=/mnt/unpack_netty.py \
    --mount=type=secret,id=pipconf --mount=type=secret,id=ca \
    /mnt/install-requirements
COPY scripts/image/healthcheck.py /opt/vlm-sessions/
RUN --mount=type=bind,from=build,source=/mnt/build,target=/mnt/build \
    --mount=type=bind,from=wheel,source=/wheels,target=/mnt/wheels \
    /mnt/build/bin/pip-install /opt/vlm-sessions/venv \
      --no-deps --no-index --find-links /mnt/wheels vlm-sessions
RUN --mount=type=bind,source=handlers,target=/mnt/handlers \
    --mount=type=bind,source=demo/model,target=/mnt/checkpoint \
    --mount=type=bind,source=scripts/image/pack_model.py,target=/mnt/pack_model.py \
    /opt/vlm-sessions/venv/bin/python /mnt/pack_model.py /mnt /opt/vlm-sessions/model_store

ENV PATH=/opt/vlm-sessions/venv/bin:$PATH \
    VLM_HOST=0.0.0.0 \
    # By SageMaker's name: VLM_STATE_DIR would win over a user's.
    SAGEMAKER_SESSIONS_PATH=/var/lib/vlm-sessions \
    VLM_MODEL_STORE=/opt/vlm-sessions/model_store \
    # With the state is kept what libraries keep in a home: a model that came from the hub.
    HOME=/var/lib/vlm-sessions \
    # What `--gpus all` is to bring into a base that is not made for it.
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
VOLUME /var/lib/vlm-sessions
EXPOSE 8080
STOPSIGNAL SIGTERM
USER 10001
ENTRYPOINT ["vlm-sessions"]
CMD ["serve"]
# Ten minutes for a large model to load; a service that answers earlier is healthy earlier.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10m --retries=3 \
  CMD ["/opt/vlm-sessions/venv/bin/python", "-I", "-S", "/opt/vlm-sessions/healthcheck.py"]

# AWS's own images say that they serve several models.
LABEL com.amazonaws.sagemaker.capabilities.accept-bind-to-port=true \
      com.amazonaws.sagemaker.capabilities.multi-models=false \
      org.opencontainers.image.title=vlm-sessions \
      org.opencontainers.image.description="A serving container for vision-language models that keeps an image where the model needs it." \
      org.opencontainers.image.licenses=Apache-2.0
ARG VERSION=
ARG REVISION=
ARG CREATED=
LABEL org.opencontainers.image.version=${VERSION} \
      org.opencontainers.image.revision=${REVISION} \
      org.opencontainers.image.created=${CREATED}
