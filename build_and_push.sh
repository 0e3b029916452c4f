#!/usr/bin/env bash
# Builds the image, pushes it to Amazon ECR or to any other registry, and prints its URI.
# Kept to what bash 3.2 knows, which is macOS's.
set -euo pipefail

usage() {
  cat <<'END'
Usage: build_and_push.sh [options]

Builds the image of this checkout, tags it with its version and its git commit, pushes it, and prints
its URI as the last line; all else goes to stderr. Without --registry it goes to Amazon ECR, where
the repository is created if it is missing.

  --repository NAME    repository to push to (vlm-sessions)
  --tag TAG            in place of the version
  --region REGION      ECR's region (AWS_REGION, AWS_DEFAULT_REGION, or what the aws CLI is set to)
  --account ACCOUNT    whose ECR, 12 digits (that of the credentials)
  --registry HOST      push to this registry, without AWS; log in to it first with docker login
  --base-image IMAGE   what to build on (the Dockerfile's debian:bookworm-slim)
  --torch cpu|cuda     refuse to build with the other build of torch (take what pip's index gives)
  --torch-index URL    where to take torch from, e.g. PyTorch's index of CPU builds
  --platform P         e.g. linux/amd64 or linux/arm64 (that of the docker daemon)
  --build-option ARG   handed to docker build as it is; may be given several times
  --dry-run            print the commands and run none of them; AWS is asked for the account at most
  --help               this text

DOCKER_HOST, DOCKER_CONTEXT and AWS's environment variables work as ever.
END
}

REPOSITORY=vlm-sessions
TAG=
REGION=
ACCOUNT=
REGISTRY=
BUILD_OPTIONS=()
DRY_RUN=false
USES_ECR=true
VERSION=
COMMIT=
URIS=() # the image's names in its registry; the first is the one that is printed

say() { printf '%s\n' "$*" >&2; }

die() {
  say "build_and_push.sh: $*"
  exit 1
}

wrong_usage() {
  say "build_and_push.sh: $*"
  say "See build_and_push.sh --help."
  exit 2
}

one_line() { tr -s '\n' ' ' <<<"$*" | sed 's/^ *//; s/ *$//'; }

quoted() { printf ' %q' "$@"; }

# run COMMAND…: shows a command, and runs it unless this is a dry run.
run() {
  say "+$(quoted "$@")"
  $DRY_RUN || "$@" >&2
}

# --- options ----------------------------------------------------------------------------------------

# value_of OPTION REGEX WHAT_IT_IS [VALUE]: the value, if there is one and it is well formed.
value_of() {
  [ $# -eq 4 ] || wrong_usage "$1 needs a value."
  [[ $4 =~ ^($2)$ ]] || wrong_usage "$1 is $3; '$4' is not."
  printf '%s' "$4"
}

parse_options() {
  local word='[a-z0-9]+([._-]+[a-z0-9]+)*' value
  # Docker takes a first part without dot or port for a repository on Docker Hub.
  local host='localhost|[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+|[A-Za-z0-9.-]+:[0-9]+'
  while [ $# -gt 0 ]; do
    case $1 in
      --*=*)
        set -- "${1%%=*}" "${1#*=}" "${@:2}"
        continue
        ;;
      --help)
        usage
        exit 0
        ;;
      --dry-run)
        DRY_RUN=true
        shift
        continue
        ;;
      --repository)
        REPOSITORY=$(value_of "$1" "$word(/$word)*" "a name in lower case, such as team/vlm-sessions" "${@:2:1}")
        ;;
      --tag)
        TAG=$(value_of "$1" '[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}' "at most 128 letters, digits, '_', '.', '-'" "${@:2:1}")
        ;;
      --region)
        REGION=$(value_of "$1" '[a-z]+(-[a-z]+)+-[0-9]+' "a region's name, such as eu-west-1" "${@:2:1}")
        ;;
      --account)
        ACCOUNT=$(value_of "$1" '[0-9]{12}' "the 12 digits of an AWS account" "${@:2:1}")
        ;;
      --registry)
        REGISTRY=$(value_of "$1" "$host" "a host with its domain or port and no more, such as 127.0.0.1:5000" "${@:2:1}")
        USES_ECR=false
        ;;
      --base-image)
        value=$(value_of "$1" '[A-Za-z0-9][A-Za-z0-9_./:@-]*' "an image's name, such as debian:bookworm-slim" "${@:2:1}")
        BUILD_OPTIONS+=(--build-arg "BASE_IMAGE=$value")
        ;;
      --torch)
        value=$(value_of "$1" 'cpu|cuda' "cpu or cuda" "${@:2:1}")
        BUILD_OPTIONS+=(--build-arg "TORCH=$value")
        ;;
      --torch-index)
        value=$(value_of "$1" 'https?://[^[:space:]]+' "the URL of a package index" "${@:2:1}")
        BUILD_OPTIONS+=(--build-arg "TORCH_INDEX=$value")
        ;;
      --platform)
        value=$(value_of "$1" 'linux/[a-z0-9]+(/[a-z0-9]+)?' "one platform, such as linux/amd64" "${@:2:1}")
        BUILD_OPTIONS+=(--platform "$value")
        ;;
      --build-option)
        value=$(value_of "$1" '.+' "an option of docker build" "${@:2:1}")
        BUILD_OPTIONS+=("$value")
        ;;
      *) wrong_usage "There is no option '$1'." ;;
    esac
    shift 2
  done
  $USES_ECR || [ -z "$REGION$ACCOUNT" ] ||
    wrong_usage "--region and --account are ECR's, and --registry is without AWS: leave one out."
}

# --- what is there ----------------------------------------------------------------------------------

need_docker() {
  local answer
  command -v docker >/dev/null ||
    die "docker is missing. Debian, Ubuntu: sudo apt-get install docker.io; else https://docs.docker.com/engine/install/"
  answer=$(docker version 2>&1 >/dev/null) ||
    die "docker does not reach its daemon: $(one_line "$answer")
Start it (sudo systemctl start docker), join its group (sudo usermod -aG docker $(id -un), then log in anew), or set DOCKER_HOST."
  has_buildx || has_buildkit_within ||
    die "This docker has no BuildKit: from version 23 on it needs buildx. Install docker-buildx-plugin (Docker's packages) or docker-buildx (Debian, Ubuntu)."
}

has_buildx() { docker buildx version >/dev/null 2>&1; }

# Before version 23 the client has a BuildKit of its own.
has_buildkit_within() {
  local version
  version=$(docker version --format '{{.Client.Version}}')
  [ "${version%%.*}" -lt 23 ]
}

# Sets REGION, ACCOUNT and REGISTRY.
find_ecr() {
  local domain=amazonaws.com
  if ! $DRY_RUN || [ -z "$REGION" ] || [ -z "$ACCOUNT" ]; then ask_aws; fi
  [[ $REGION != cn-* ]] || domain=amazonaws.com.cn
  REGISTRY=$ACCOUNT.dkr.ecr.$REGION.$domain
}

# Asks also where everything is given: wrong credentials are better known before the build.
ask_aws() {
  local caller
  command -v aws >/dev/null ||
    die "The aws CLI is missing: https://docs.aws.amazon.com/cli/latest/userguide/getting-started-install.html (to push elsewhere: --registry HOST)"
  REGION=${REGION:-${AWS_REGION:-${AWS_DEFAULT_REGION:-$(aws configure get region || true)}}}
  [ -n "$REGION" ] || die "No region is set. Give --region, set AWS_REGION, or run aws configure."
  caller=$(aws sts get-caller-identity --region "$REGION" --query Account --output text 2>&1) ||
    die "AWS cannot be asked who you are: $(one_line "$caller")
Run aws configure or aws sso login, name a profile in AWS_PROFILE, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
  ACCOUNT=${ACCOUNT:-$caller}
}

# --- what is done -----------------------------------------------------------------------------------

# Sets VERSION, COMMIT and URIS. What is not committed goes into the image too, which must then not
# bear the name of a version or a commit.
name_image() {
  VERSION=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' src/vlm_sessions/__init__.py)
  if ! COMMIT=$(git rev-parse --short=12 HEAD 2>&1); then
    say "There is no tag for the commit. git says: $(one_line "$COMMIT")"
    COMMIT=
  elif [ -n "$(git status --porcelain)" ]; then
    say "Not all is committed: the image is tagged as -dirty."
    VERSION+=-dirty
    COMMIT+=-dirty
  fi
  URIS=("$REGISTRY/$REPOSITORY:${TAG:-$VERSION}")
  [ -z "$COMMIT" ] || URIS+=("$REGISTRY/$REPOSITORY:$COMMIT")
}

create_repository() {
  local ecr=(aws ecr --region "$REGION") where=(--registry-id "$ACCOUNT") answer
  if ! $DRY_RUN; then
    if answer=$("${ecr[@]}" describe-repositories "${where[@]}" --repository-names "$REPOSITORY" 2>&1); then
      say "The repository $REPOSITORY exists."
      return
    fi
    [[ $answer == *RepositoryNotFoundException* ]] ||
      die "ECR does not tell whether the repository $REPOSITORY exists: $(one_line "$answer")"
  fi
  run "${ecr[@]}" create-repository "${where[@]}" --repository-name "$REPOSITORY"
}

log_in() {
  local password=(aws ecr get-login-password --region "$REGION")
  local login=(docker login --username AWS --password-stdin "$REGISTRY")
  say "+$(quoted "${password[@]}") |$(quoted "${login[@]}")"
  $DRY_RUN || "${password[@]}" | "${login[@]}" >&2
}

build() {
  local build=(docker build) uri
  if has_buildx; then
    build=(docker buildx build --load)
    # Attestations would make the image an index of manifests, which SageMaker does not take. A
    # buildx that does not know these options makes none.
    if [[ $(docker buildx build --help) == *--provenance* ]]; then
      build+=(--provenance=false --sbom=false)
    fi
  fi
  for uri in "${URIS[@]}"; do build+=(--tag "$uri"); done
  run env DOCKER_BUILDKIT=1 "${build[@]}" --build-arg "VERSION=$VERSION" --build-arg "REVISION=$COMMIT" \
    --build-arg "CREATED=$(date -u +%Y-%m-%dT%H:%M:%SZ)" ${BUILD_OPTIONS[@]+"${BUILD_OPTIONS[@]}"} .
}

main() {
  local uri
  parse_options "$@"
  cd "$(dirname "${BASH_SOURCE[0]}")"
  $DRY_RUN || need_docker
  if $USES_ECR; then
    find_ecr
    # Before the build, which takes minutes: what is not allowed is told at once.
    create_repository
    log_in
  fi
  name_image
  build
  for uri in "${URIS[@]}"; do run docker push "$uri"; done
  printf '%s\n' "${URIS[0]}"
}

main "$@"
