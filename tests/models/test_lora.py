"""Adapters: peft reads ours and we read peft's, with the same logits."""

import json

import pytest
import torch

from models import DecoderConfig
from models.config import Lora
from models.decoder import build
from models.huggingface import export
from models.lora import adapted, merged, read_adapter, shapes, write_adapter

CONFIG = DecoderConfig(vocab_size=48, layers=2, width=16, heads=4, kv_heads=2, ffn=24, max_seq_len=32, end_of_text=None)
IDS_BT = torch.arange(1, 41).view(2, 20)


def drawn(lora):
    """Return a base decoder's weights and a random adapter."""
    generator = torch.Generator().manual_seed(1)
    tensors = {name: torch.randn(shape, generator=generator) * 0.3 for name, shape in shapes(CONFIG, lora).items()}
    return build(CONFIG, 0).state_dict(), tensors


def logits_of(state):
    decoder = build(CONFIG, 0)
    decoder.load_state_dict(state)
    return decoder.logits(IDS_BT).detach()


def theirs(tmp_path, base):
    from transformers import AutoModelForCausalLM

    if not (tmp_path / "base").exists():
        export(tmp_path / "base", CONFIG, base, dtype=torch.float32, tokenizer_folder=None, card=None)
    return AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)


def test_a_new_adapter_changes_nothing_and_trains_alone():
    lora = Lora(3, 6.0, ("q", "down"))
    decoder = adapted(build(CONFIG, 0), lora, seed=2)
    assert torch.equal(decoder.logits(IDS_BT), build(CONFIG, 0).logits(IDS_BT))
    free = {name: p.numel() for name, p in decoder.named_parameters() if p.requires_grad}
    assert {name.rpartition(".")[2] for name in free} == {"lora_A", "lora_B"}
    assert sum(free.values()) == lora.parameter_count(CONFIG)
    every = Lora(3, 6.0, ("q", "k", "v", "o", "gate", "up", "down"))
    assert every.parameter_count(CONFIG) == sum(shape.numel() for shape in shapes(CONFIG, every).values())


def test_peft_reads_our_adapter_and_computes_what_the_merged_model_does(tmp_path):
    peft = pytest.importorskip("peft")
    lora = Lora(3, 6.0, ("q", "o", "gate", "down"))
    base, adapter = drawn(lora)
    write_adapter(tmp_path / "adapter", CONFIG, lora, adapter, "base")
    expected = peft.PeftModel.from_pretrained(theirs(tmp_path, base), tmp_path / "adapter")(IDS_BT).logits.detach()
    torch.testing.assert_close(logits_of(merged(base, adapter, lora)), expected, rtol=1e-4, atol=1e-5)
    decoder = adapted(build(CONFIG, 0), lora, None)
    decoder.load_state_dict({**base, **adapter})
    torch.testing.assert_close(decoder.logits(IDS_BT).detach(), expected, rtol=1e-4, atol=1e-5)
    found, read = read_adapter(tmp_path / "adapter", CONFIG)
    assert found == lora
    assert all(torch.equal(read[name], adapter[name]) for name in adapter)


def test_we_read_what_peft_saves_and_reject_what_is_not_lora(tmp_path):
    peft = pytest.importorskip("peft")
    base, _ = drawn(Lora(1, 1.0, ("q",)))
    wanted = peft.LoraConfig(r=2, lora_alpha=5, target_modules=["v_proj", "up_proj"], init_lora_weights=False)
    model = peft.get_peft_model(theirs(tmp_path, base), wanted)
    model.save_pretrained(tmp_path / "adapter")
    lora, adapter = read_adapter(tmp_path / "adapter", CONFIG)
    assert lora == Lora(2, 5.0, ("v", "up"))
    expected = model(IDS_BT).logits.detach()
    torch.testing.assert_close(logits_of(merged(base, adapter, lora)), expected, rtol=1e-4, atol=1e-5)

    other = DecoderConfig(vocab_size=48, layers=2, width=16, heads=4, kv_heads=4, ffn=24, max_seq_len=32)
    with pytest.raises(ValueError, match=r"v_proj.lora_B.weight is of shape \(8, 2\), not \(16, 2\)"):
        read_adapter(tmp_path / "adapter", other)
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "use_dora": True}))
    with pytest.raises(ValueError, match=r"use_dora=True is not supported"):
        read_adapter(tmp_path / "adapter", CONFIG)
    with pytest.raises(ValueError, match=r"is not an adapter: it needs adapter_config.json"):
        read_adapter(tmp_path / "base", CONFIG)
