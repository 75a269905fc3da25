"""What a user of transformers does with exports: load, compute, encode, save again. Runs with version 4 or 5.

    python load_exports.py FOLDER

FOLDER/exports/NAME is an export and FOLDER/ids.json a list of rows of ids. Writes FOLDER/logits.safetensors (a tensor
per export), FOLDER/found.json and FOLDER/saved/NAME. Imports nothing of PDPC.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

TEXT = "Tomorrow , we'll see: naïve words.<|endoftext|> <extra>"


def main(folder: Path) -> None:
    ids = torch.tensor(json.loads((folder / "ids.json").read_text()))
    logits, found = {}, {"transformers": transformers.__version__}
    for export in sorted((folder / "exports").iterdir()):
        model = transformers.AutoModelForCausalLM.from_pretrained(export, dtype="auto").eval()
        facts = {"dtype": str(model.dtype), "class": type(model).__name__}
        facts["ends"] = [model.generation_config.bos_token_id, model.generation_config.eos_token_id]
        model.save_pretrained(folder / "saved" / export.name)
        with torch.no_grad():
            logits[export.name] = model.float()(ids, use_cache=False).logits
        if (export / "tokenizer.json").exists():
            tokenizer = transformers.AutoTokenizer.from_pretrained(export)
            encoded = tokenizer(TEXT)["input_ids"]
            special = sorted(map(str, tokenizer.all_special_tokens))
            facts |= {"encoded": encoded, "decoded": tokenizer.decode(encoded), "special": special}
            facts["template"] = tokenizer.chat_template
            tokenizer.save_pretrained(folder / "saved" / export.name)
        found[export.name] = facts
    save_file(logits, folder / "logits.safetensors")
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
