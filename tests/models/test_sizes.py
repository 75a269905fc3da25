"""Parameter counts of configs/model: by formula, as built, and as stated in each file."""

import re

import pytest
import torch

from models import DecoderConfig
from models.config import ParameterCounts
from models.decoder import Decoder
from train.config.compose import compose
from train.config.groups import CONFIGS
from train.settings import TrainSettings

GPT2_VOCABULARY = 50_257
COUNTS = {
    "demo_weak": ParameterCounts(3_219_456, 32_768, 36_864, 320, 3_219_456),
    "demo_strong": ParameterCounts(6_438_912, 147_456, 405_504, 896, 6_438_912),
    "demo": ParameterCounts(6_438_912, 196_608, 540_672, 1_152, 6_438_912),
    "100m": ParameterCounts(38_633_472, 28_311_552, 56_623_104, 19_200, 38_633_472),
    "350m": ParameterCounts(51_511_296, 100_663_296, 202_899_456, 50_176, 51_511_296),
    "700m": ParameterCounts(77_266_944, 226_492_416, 452_984_832, 75_264, 77_266_944),
    "1.3b": ParameterCounts(103_022_592, 402_653_184, 811_597_824, 100_352, 103_022_592),
    "3b": ParameterCounts(128_778_240, 838_860_800, 1_698_693_120, 166_400, 128_778_240),
    "7b": ParameterCounts(206_045_184, 2_147_483_648, 4_328_521_728, 266_240, 206_045_184),
}
TOTALS = {
    "demo_weak": 6_508_864,
    "demo_strong": 13_431_680,
    "demo": 13_616_256,
    "100m": 162_220_800,
    "350m": 406_635_520,
    "700m": 834_086_400,
    "1.3b": 1_420_396_544,
    "3b": 2_795_276_800,
    "7b": 6_888_361_984,
}
SHAPES = {"1.3b": (2048, 24), "3b": (2560, 32), "7b": (4096, 32)}


def config_of(size: str) -> DecoderConfig:
    words = [f"model={size}", "output=o", "arm=a", "data.tokens=t", "data.order=o"]
    settings = compose("train", TrainSettings, words)
    return settings.model.decoder_config(GPT2_VOCABULARY, 2048, end_of_text=50_256)


def built(config: DecoderConfig) -> ParameterCounts:
    """Count a decoder's parameters by module, without allocating any."""
    with torch.device("meta"):
        decoder = Decoder(config)
    sums = dict.fromkeys(("embedding", "attention", "ffn", "norm", "head"), 0)
    for name, parameter in decoder.named_parameters():  # a tied head is named once, as the embedding
        (kind,) = (kind for kind in sums if re.search(rf"(^|\.|_){kind}\.", name))
        sums[kind] += parameter.numel()
    return ParameterCounts(**sums)


def test_every_size_is_held() -> None:
    assert {path.stem for path in (CONFIGS / "model").glob("*.yaml")} == set(COUNTS) == set(TOTALS)


@pytest.mark.parametrize("size", COUNTS)
def test_the_formula_counts_what_is_built(size: str) -> None:
    config = config_of(size)
    assert config.vocab_size == 50_304
    assert config.parameters() == built(config) == COUNTS[size]
    assert config.parameter_count() == COUNTS[size].total == TOTALS[size]
    assert config.parameter_count(embeddings=False) == COUNTS[size].body
    if size in SHAPES:
        assert (config.width, config.layers) == SHAPES[size]


@pytest.mark.parametrize("size", COUNTS)
def test_the_file_names_the_exact_numbers(size: str) -> None:
    comment = (CONFIGS / "model" / f"{size}.yaml").read_text()
    counts = COUNTS[size]
    assert f": {counts.total:,}, of which {counts.body:,} without" in comment
    for kind in ("embedding", "attention", "ffn", "norm", "head"):
        assert f"{kind} {getattr(counts, kind):,}" in comment


def test_the_page_names_the_exact_numbers() -> None:
    page = (CONFIGS.parent / "docs" / "models.md").read_text("utf-8")
    for size, counts in COUNTS.items():
        row = next(line for line in page.splitlines() if line.startswith(f"| `{size}` |"))
        found = [int(cell.replace(",", "")) for cell in row.strip("| ").split(" | ")[3:]]
        assert found == [counts.total, counts.body, counts.head, counts.attention, counts.ffn, counts.norm]


@pytest.mark.parametrize("changes", [{"tie_embeddings": True}, {"kv_heads": 1}, {"explicit_head_size": 24}])
def test_the_formula_knows_every_shape(changes: dict[str, int]) -> None:
    shape = {"vocab_size": 50, "layers": 3, "width": 64, "heads": 4, "kv_heads": 2, "ffn": 96, "max_seq_len": 32}
    config = DecoderConfig(**(shape | changes))
    assert config.parameters() == built(config)


def test_operations_follow_the_published_convention() -> None:
    """llm-foundry prints 59.86 % of 312 TFLOP/s for 20,513 tokens/s of its 1b: 24 layers, width 2048, tied 50,368."""
    config = DecoderConfig(
        vocab_size=50_368, layers=24, width=2048, heads=16, kv_heads=16, ffn=16384 // 3, max_seq_len=2048,
        tie_embeddings=True,
    )  # fmt: skip
    share = 20_513 * config.operations_per_token(2048) / 312e12
    assert share == pytest.approx(0.5986, abs=0.003)  # theirs counts position embeddings too
    saved = config.operations_per_token(2048) - config.operations_per_token(2048, causal=True)
    assert saved == 6 * 24 * 2048 * 2048
