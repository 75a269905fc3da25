# PDPC's tests without a GPU, as CI runs them. NOT YET BUILT: written without a Docker engine.
#
#   docker build -f docker/cpu.Dockerfile -t pdpc:cpu .
#   docker run --rm pdpc:cpu                 the tests
#   docker run --rm pdpc:cpu make demo       the full pipeline
#
# Packages are installed at build time, so that a container needs no network.

ARG REGISTRY=docker.io
FROM ${REGISTRY}/library/python:3.11.14-slim-bookworm

ARG PIP_INDEX_URL
# the index of torch's CPU wheels: the wheel on PyPI includes several GB of CUDA
ARG PIP_EXTRA_INDEX_URL

SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# Debian packages are not pinned: mirrors drop older versions within a release
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends g++ git make \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --no-log-init --create-home --uid 1000 pdpc \
    && install --directory --owner pdpc /opt/pdpc

USER 1000
WORKDIR /opt/pdpc
COPY --chown=1000 . .
RUN make setup && rm -rf ~/.cache/pip

CMD ["make", "test"]
