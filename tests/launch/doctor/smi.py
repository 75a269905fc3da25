"""A stand-in for nvidia-smi that answers in its formats."""

from __future__ import annotations

from collections.abc import Sequence

HEADER = """\
+-----------------------------------------------------------------------------------------+
| NVIDIA-SMI 580.65.06              Driver Version: 580.65.06      CUDA Version: {cuda}     |
+-----------------------------------------+------------------------+----------------------+"""
TOPOLOGY = """\
\t\x1b[4mGPU0\tGPU1\tNIC0\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\x1b[0m
GPU0\t X \t{link}\tPXB\t0-31\t0\t\tN/A
GPU1\t{link}\t X \tSYS\t32-63\t1\t\tN/A
NIC0\tPXB\tSYS\t X \t\t\t\t

Legend:
  X    = Self"""


def smi(
    gpus: Sequence[str] = ("0, NVIDIA A100-SXM4-80GB, 81920, 4", "1, NVIDIA A100-SXM4-80GB, 81920, 4"),
    ecc: Sequence[str] = ("0, 0, 0, No", "1, 0, 0, No"),
    link: str = "NV12",
    cuda: str = "13.0",
) -> str:
    """Return a shell script that prints what nvidia-smi prints for these GPUs."""
    return f"""\
case "$1" in
  --query-gpu=*ecc*) cat <<'END'
{chr(10).join(ecc)}
END
  ;;
  --query-gpu=*) cat <<'END'
{chr(10).join(gpus)}
END
  ;;
  topo) cat <<'END'
{TOPOLOGY.format(link=link)}
END
  ;;
  *) cat <<'END'
{HEADER.format(cuda=cuda)}
END
  ;;
esac"""
