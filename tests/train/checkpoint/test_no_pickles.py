"""No reader may execute its input: no package uses pickle, marshal, eval, exec, unsafe YAML or torch.load."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PACKAGES = ("models", "curriculum", "train", "launch", "benchmarks")
MODULES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "jsonpickle"}
CALLS = {"eval", "exec", "compile", "__import__"}
ATTRIBUTES = {
    "load": {"torch", "yaml", "pickle", "marshal", "dill", "joblib"},
    "unsafe_load": {"yaml"},
    "full_load": {"yaml"},
    "load_all": {"yaml"},
    "unsafe_load_all": {"yaml"},
    "UnsafeLoader": {"yaml"},
    "FullLoader": {"yaml"},
    "Loader": {"yaml"},
    "system": {"os"},
    "popen": {"os"},
    "read_pickle": {"pd", "pandas", "pl", "polars"},
    "instantiate": {"hydra", "utils", "hydra.utils"},
    "call": {"hydra", "hydra.utils"},
    "get_method": {"hydra", "utils", "hydra.utils"},
    "get_class": {"hydra", "utils", "hydra.utils"},
    "register_new_resolver": {"OmegaConf"},
    "all_gather_object": {"dist"},
    "gather_object": {"dist"},
    "broadcast_object_list": {"dist"},
}


def forbidden(source: str) -> list[str]:
    """Return the names in a module that could execute data."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom):
            found += [node.module for _ in [0] if node.module and node.module.split(".")[0] in MODULES]
            found += [a.name for a in node.names if node.module in ATTRIBUTES.get(a.name, ())]
        elif isinstance(node, ast.Attribute) and node.attr.endswith("Loader"):
            found += [node.attr for _ in [0] if getattr(node.value, "id", "") in ATTRIBUTES.get(node.attr, ())]
        elif isinstance(node, ast.Call):
            function = node.func
            if isinstance(function, ast.Name) and function.id in CALLS:
                found.append(function.id)
            elif isinstance(function, ast.Attribute):
                value = function.value
                owner = value.attr if isinstance(value, ast.Attribute) else getattr(value, "id", "")
                if owner in ATTRIBUTES.get(function.attr, ()):
                    found.append(f"{owner}.{function.attr}")
            for keyword in node.keywords:
                value = getattr(keyword.value, "value", None)
                if (keyword.arg, value) in {
                    ("allow_pickle", True),
                    ("trust_remote_code", True),
                    ("weights_only", False),
                    ("shell", True),
                }:
                    found.append(f"{keyword.arg}={value}")
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_no_package_can_execute_its_input(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    bad = {str(path.relative_to(ROOT)): found for path in files if (found := forbidden(path.read_text("utf-8")))}
    assert not bad


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "import torch; torch.load('x')",
        "import numpy as np; np.load('x', allow_pickle=True)",
        "import yaml; yaml.load(x, Loader=y)",
        "eval('1')",
        "from hydra.utils import instantiate",
        "import hydra; hydra.utils.instantiate(x)",
        "OmegaConf.register_new_resolver('x', y)",
        "yaml.parse(x, Loader=yaml.UnsafeLoader)",
        "os.system('x')",
        "subprocess.run('x', shell=True)",
        "torch.load(x, weights_only=False)",
        "exec('1')",
        "import marshal",
        "from torch import load",
        "dist.all_gather_object(a, b)",
        "AutoModel.from_pretrained(x, trust_remote_code=True)",
    ],
)
def test_the_check_detects_them(line):
    assert forbidden(line)
