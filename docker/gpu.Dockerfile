# PDPC for A100 and A800 nodes (sm_80). NOT YET BUILT: written from package metadata, without a Docker engine.
#
#   docker build -f docker/gpu.Dockerfile -t pdpc:gpu .
#   docker run --rm --gpus all --ipc host --ulimit memlock=-1 -v /data:/data pdpc:gpu pdpc train experiment=...
#
# CUDA 13.0: torch 2.13.0 on PyPI is built for it, and an extension such as flash-attn must be compiled with the same
# major version. The driver must be 580 or newer, or a data-centre driver covered by forward compatibility.
# flash-attn: the attention backend that model.attention=auto prefers on CUDA in 16 bits. It is compiled here because no
# official wheel fits torch >= 2.10. FLASH_ATTN="" leaves it out.
# For mirrors see REGISTRY, PIP_INDEX_URL, PYTHON_MIRROR and HF_ENDPOINT in docker/README.md.

ARG REGISTRY=docker.io
ARG CUDA_VERSION=13.0.2
FROM ${REGISTRY}/nvidia/cuda:${CUDA_VERSION}-devel-ubuntu22.04 AS base

ARG PIP_INDEX_URL
ARG PYTHON_MIRROR=https://github.com/astral-sh/python-build-standalone/releases/download
ARG UV_VERSION=0.13.8
ARG PYTHON_VERSION=3.11.14

SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# Ubuntu packages are not pinned: mirrors drop older versions within a release
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        build-essential ca-certificates git ibverbs-providers libaio-dev libibverbs1 numactl openssh-client pdsh python3-pip \
    && rm -rf /var/lib/apt/lists/*

# Ubuntu 22.04 has Python 3.10 and a release candidate of 3.11: uv installs a final 3.11 with its headers
RUN python3 -m pip install --no-cache-dir "uv==${UV_VERSION}" \
    && UV_PYTHON_INSTALL_MIRROR="${PYTHON_MIRROR}" uv python install --no-bin --install-dir /opt/python "${PYTHON_VERSION}" \
    && UV_PYTHON_INSTALL_DIR=/opt/python uv venv --seed --managed-python --python "${PYTHON_VERSION}" /opt/venv

ENV PATH=/opt/venv/bin:${PATH} \
    TORCH_CUDA_ARCH_LIST=8.0 \
    DS_BUILD_OPS=0 \
    PYTHONUNBUFFERED=1

WORKDIR /opt/pdpc
COPY constraints.txt ./
RUN pip install --no-cache-dir --constraint constraints.txt torch


FROM base AS flash
ARG PIP_INDEX_URL
ARG FLASH_ATTN=2.8.3.post2
ARG MAX_JOBS=4
RUN mkdir /wheels \
    && if [ -n "${FLASH_ATTN}" ]; then \
        pip install --no-cache-dir --constraint constraints.txt ninja packaging psutil setuptools wheel \
        && FLASH_ATTENTION_FORCE_BUILD=TRUE FLASH_ATTN_CUDA_ARCHS=80 MAX_JOBS="${MAX_JOBS}" \
            pip wheel --no-cache-dir --no-build-isolation --no-deps --wheel-dir /wheels "flash-attn==${FLASH_ATTN}"; \
    fi


FROM base AS final
ARG PIP_INDEX_URL
ARG HF_ENDPOINT=https://huggingface.co
ENV HF_ENDPOINT=${HF_ENDPOINT}

COPY . .
COPY --from=flash /wheels /tmp/wheels
RUN pip install --no-cache-dir --constraint constraints.txt --editable '.[tensorboard]' \
    && find /tmp/wheels -name '*.whl' -exec pip install --no-cache-dir --constraint constraints.txt {} + \
    && rm -rf /tmp/wheels \
    && useradd --no-log-init --create-home --uid 1000 pdpc \
    && install --directory --owner pdpc /data /opt/pdpc/runs

USER 1000
CMD ["pdpc", "--help"]
