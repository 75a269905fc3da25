"""The timed variants compute the same values."""

from argparse import Namespace

import pytest
import torch

from benchmarks.hot_path import PARTS

SIZES = Namespace(tokens=64, width=64, vocabulary=128, layers=2)


@pytest.mark.parametrize("part", PARTS)
def test_variants_agree(part):
    make, names = PARTS[part]
    means = [make(SIZES, torch.float32, name)() for name in names]
    assert means == pytest.approx([means[0]] * len(names), rel=1e-5)
