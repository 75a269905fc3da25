"""Nothing heavy happens on import."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ["torch", "deepspeed", "numba", "transformers", "datasets", "hydra"]


def python(code):
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_reading_an_order_takes_numpy_and_nothing_else():
    code = (
        "import sys, curriculum.order.order, curriculum.order.sampler; print(*{n.split('.')[0] for n in sys.modules})"
    )
    loaded = set(python(code).split())
    assert "numpy" in loaded
    assert {*HEAVY, "pyarrow", "tokenizers", "scipy"} & loaded == set()


@pytest.mark.parametrize("module", ["curriculum.scores.scores", "curriculum.arrange.arrange", "curriculum.preference"])
def test_importing_the_curriculum_brings_in_nothing_heavy(module):
    loaded = python(f"import sys, {module}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))").split()
    assert "numpy" in loaded
    assert set(HEAVY) & set(loaded) == set()


def test_importing_the_curriculum_takes_well_below_a_second():
    # Time on the processor, so that a busy machine does not count; the best of three, so that a cold disk does not.
    code = "import time; start = time.process_time(); import curriculum; print(time.process_time() - start)"
    assert min(float(python(code)) for _ in range(3)) < 0.7


def test_the_face_of_the_package_is_there():
    names = python(
        "import curriculum; print(*curriculum.__all__); [getattr(curriculum, n) for n in curriculum.__all__]"
    )
    assert {"CurriculumSampler", "Order", "Scores", "Tokens", "plan"} <= set(names.split())


def test_a_plan_does_not_need_the_kernels_until_it_is_asked_for():
    code = (
        "import sys, curriculum, numpy; assert 'numba' not in sys.modules; print(curriculum.plan([[1, 1]], 4, [2, 2]))"
    )
    assert python(code).strip() == "[[2 2]]"
