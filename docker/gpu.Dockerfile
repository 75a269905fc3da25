# PDPC for A100 and A800 nodes (sm_80). NOT YET BUILT: written from package metadata, without a Docker engine.
#
#   docker build -f docker/gpu.Dockerfile -t pdpc:gpu .
#   docker build -f docker/gpu.Dockerfile -t pdpc:gpu . --build-arg CUDA_VERSION=12.8.1 --build-arg TORCH_VERSION=2.11.0 \
#       --build-arg TORCH_INDEX_URL=https://download.pytorch.org/whl/cu128
#   docker run --rm --gpus all --network host --ipc host --ulimit memlock=-1 --ulimit stack=67108864 \
#       --ulimit nofile=65536:65536 --device /dev/infiniband --cap-add IPC_LOCK -v /data:/data \
#       pdpc:gpu pdpc train experiment=...
#
# CUDA 13.0: torch 2.13.0 on PyPI is built for it, and an extension such as flash-attn must be compiled with the same
# major version. The driver must be 580 or newer, or a data-centre driver covered by forward compatibility. For an older
# driver use CUDA 12.8, as in the second line: torch 2.11 is the last release with wheels for it.
# flash-attn: the attention backend that model.attention=auto prefers on CUDA in 16 bits. There is no official wheel for
# torch >= 2.10, so it is compiled from its source on PyPI. FLASH_ATTN="" leaves it out, and torch's own kernel is used.
# For mirrors see REGISTRY, PIP_INDEX_URL, TORCH_INDEX_URL, PYTHON_MIRROR and HF_ENDPOINT in docker/README.md.

ARG REGISTRY=docker.io
ARG CUDA_VERSION=13.0.2
FROM ${REGISTRY}/nvidia/cuda:${CUDA_VERSION}-devel-ubuntu22.04 AS build

ARG PIP_INDEX_URL
ARG PYTHON_MIRROR=https://github.com/astral-sh/python-build-standalone/releases/download
ARG UV_VERSION=0.13.8
ARG PYTHON_VERSION=3.11.14

SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# Ubuntu packages are not pinned: mirrors drop older versions within a release
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        build-essential ca-certificates git python3-pip \
    && rm -rf /var/lib/apt/lists/*

# Ubuntu 22.04 has Python 3.10 and a release candidate of 3.11: uv installs a final 3.11 with its headers
RUN python3 -m pip install --no-cache-dir "uv==${UV_VERSION}" \
    && UV_PYTHON_INSTALL_MIRROR="${PYTHON_MIRROR}" uv python install --no-bin --install-dir /opt/python "${PYTHON_VERSION}" \
    && UV_PYTHON_INSTALL_DIR=/opt/python uv venv --seed --managed-python --python "${PYTHON_VERSION}" /opt/venv

ENV PATH=/opt/venv/bin:${PATH} \
    TORCH_CUDA_ARCH_LIST=8.0 \
    DS_BUILD_OPS=0

# torch brings the triton that it was built with
ARG TORCH_VERSION=2.13.0
ARG TORCH_INDEX_URL
ARG FLASH_ATTN=2.8.3.post2
WORKDIR /opt/build
COPY constraints.txt ./
RUN grep -Ev '^(torch|triton)==' constraints.txt > pinned.txt \
    && echo "torch==${TORCH_VERSION}" >> pinned.txt \
    && if [ -n "${FLASH_ATTN}" ]; then echo "flash-attn==${FLASH_ATTN}" >> pinned.txt; fi \
    && pip install --no-cache-dir --constraint pinned.txt ${TORCH_INDEX_URL:+--index-url "${TORCH_INDEX_URL}"} torch

ARG MAX_JOBS=4
RUN mkdir wheels \
    && if [ -n "${FLASH_ATTN}" ]; then \
        pip install --no-cache-dir --constraint pinned.txt ninja packaging psutil setuptools wheel \
        && FLASH_ATTENTION_FORCE_BUILD=TRUE FLASH_ATTN_CUDA_ARCHS=80 MAX_JOBS="${MAX_JOBS}" \
            pip wheel --no-cache-dir --no-build-isolation --no-deps --wheel-dir wheels "flash-attn==${FLASH_ATTN}"; \
    fi

# the extra `gpu` is flash-attn and Liger's kernels; without flash-attn only the latter
COPY . .
RUN if [ -n "${FLASH_ATTN}" ]; then \
        pip install --no-cache-dir --constraint pinned.txt --find-links wheels '.[gpu,tensorboard]'; \
    else \
        pip install --no-cache-dir --constraint pinned.txt '.[tensorboard]' liger-kernel; \
    fi \
    && pip uninstall --yes pdpc \
    && python -c 'import liger_kernel'


FROM ${REGISTRY}/nvidia/cuda:${CUDA_VERSION}-runtime-ubuntu22.04 AS final
ARG HF_ENDPOINT=https://huggingface.co

SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# gcc: Triton and torch.compile build small launchers on the node; ibverbs: NCCL over InfiniBand and RoCE
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        ca-certificates g++ git ibverbs-providers libibverbs1 librdmacm1 numactl openssh-client pdsh \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --no-log-init --create-home --uid 1000 pdpc \
    && install --directory --owner pdpc /data /opt/pdpc /opt/pdpc/runs

COPY --from=build /opt/python /opt/python
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:${PATH} \
    HF_ENDPOINT=${HF_ENDPOINT} \
    PYTHONUNBUFFERED=1

WORKDIR /opt/pdpc
COPY . .
COPY --from=build /opt/build/pinned.txt /opt/pinned.txt
RUN pip install --no-cache-dir --no-deps --no-build-isolation --constraint /opt/pinned.txt --editable .

USER 1000
CMD ["pdpc", "--help"]
