# The image that runs a node: `docker build -t session-orchestrator .`; docs/container.md says how to put an application in.
# Nothing here depends on the processor. Pin the base by its digest where you build for others:
#   --build-arg PYTHON_IMAGE=python:3.11-slim-trixie@sha256:…
ARG PYTHON_IMAGE=python:3.11-slim-trixie

# --- what is installed, and from what: every file by its hash, and the project itself without a network --------------
FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build

COPY requirements/build.txt requirements/
RUN python -m venv backend \
    && backend/bin/python -m pip install --only-binary=:all: --require-hashes --requirement requirements/build.txt

COPY requirements/runtime.txt requirements/
RUN python -m pip install --prefix=/install --ignore-installed --no-warn-script-location \
    --only-binary=:all: --require-hashes --requirement requirements/runtime.txt

COPY pyproject.toml README.md LICENSE ./
COPY actors actors
COPY orchestrator orchestrator
COPY requirements/inventory.py requirements/
RUN --network=none backend/bin/python -m pip wheel --no-deps --no-build-isolation --wheel-dir=wheels . \
    && python -m pip install --prefix=/install --ignore-installed --no-warn-script-location --no-index --no-deps wheels/*.whl \
    && mkdir -p /install/share/session-orchestrator \
    && python requirements/inventory.py /install/lib/python3.*/site-packages > /install/share/session-orchestrator/sbom.cdx.json

# --- what runs ------------------------------------------------------------------------------------------------------
FROM ${PYTHON_IMAGE} AS runtime
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="Session Orchestrator" \
      org.opencontainers.image.description="Runs agent sessions that take minutes to days to exactly one recorded end." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"

RUN useradd --uid 10001 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin orchestrator
COPY --from=build /install /usr/local
WORKDIR /app

# Nothing is written anywhere: the root file system may be read-only. A container's log is read line by line.
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    ORCHESTRATOR_HOST=0.0.0.0
USER 10001:10001
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["orchestrator", "health"]
ENTRYPOINT ["orchestrator"]
CMD ["serve"]
