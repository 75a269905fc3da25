"""Compose a verb's settings: Hydra handles YAML groups and overrides, dataclasses define keys and types.

Every mistake (unknown key, wrong type, missing value, invalid combination) is a one-paragraph SettingsError that names
the key, the value and the fix, before anything starts.
"""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import FrozenInstanceError, fields, is_dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_origin

from train.config.check import check_files, check_settings, check_words
from train.config.flags import as_typed
from train.config.outside import with_outside_files
from train.config.secrets import without_secrets
from train.config.shown import as_text, label, origins

if TYPE_CHECKING:
    from omegaconf import DictConfig

T = TypeVar("T")
Layer = tuple[str, str, dict[str, Any]]
"""Origin, package and content of one file of a configuration."""

CONFIGS = Path(__file__).resolve().parent.parent.parent / "configs"
"""The folder of YAML groups in the checkout."""
LONGEST_MESSAGE = 2000
"""Characters."""


class SettingsError(ValueError):
    """The configuration or an override is invalid."""


def compose(
    verb: str, schema: type[T], overrides: Sequence[str], choices: Mapping[str, Mapping[str, type]] | None = None
) -> T:
    """Return the settings of a verb: `configs/<verb>.yaml` under the dataclass `schema`, with Hydra overrides.

    `choices` names the groups whose type depends on the choice: {"preference": {"pdpc": Pdpc, ...}}; their YAML files
    begin with `defaults: [<name>_schema]`, and a choice without a file has its class's defaults. Raises SettingsError,
    with recognizable secrets removed from its message.
    """
    from omegaconf import OmegaConf

    with _composing(verb, schema, overrides, choices or {}) as (configuration, _):
        settings = cast(T, OmegaConf.to_object(configuration))
        check_settings(settings)
        return settings


def configuration_of(
    verb: str, schema: type, overrides: Sequence[str], choices: Mapping[str, Mapping[str, type]] | None = None
) -> str:
    """Return the composed configuration as YAML, with the origin of every value; required ones may lack a value.

    Takes the arguments of `compose`, and raises what it raises, except that values are not validated. Recognizable
    secrets are removed.
    """
    from omegaconf import OmegaConf

    with _composing(verb, schema, overrides, choices or {}) as (configuration, layers):
        found = cast(dict[str, Any], OmegaConf.to_container(configuration))
        values = [word for word in overrides if not (CONFIGS / word.partition("=")[0].lstrip("+")).is_dir()]
        return without_secrets(as_text(found, origins(layers(), values, found)))


@contextmanager
def _composing(
    verb: str, schema: type, overrides: Sequence[str], choices: Mapping[str, Mapping[str, type]]
) -> Iterator[tuple[DictConfig, Callable[[], list[Layer]]]]:
    """Yield the composed configuration and how to read its layers; mistakes, also in the block, are SettingsErrors."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    known = keys_of(schema, choices)
    try:
        check_words(overrides, CONFIGS)
        with with_outside_files(overrides, CONFIGS) as (words, files):
            check_files(verb, words, CONFIGS)
            words = as_typed(words, schema, choices=choices)
            for word in words:
                _check_value(verb, word, known)
            yield _composed(verb, schema, words, choices), partial(_layers, verb, words, files)
    except (HydraException, OmegaConfBaseException, FrozenInstanceError) as error:
        raise SettingsError(_short(_explain(verb, error, known, choices))) from None
    except YAMLError as error:
        raise SettingsError(_short(f"{verb}: not YAML: {' '.join(str(error).split())}: fix the file")) from None
    except ValueError as error:
        raise SettingsError(_short(f"{verb}: {error}")) from None


def _check_value(verb: str, word: str, known: Collection[str]) -> None:
    """Raise ValueError for a value that cannot be read, or that asks Hydra for several runs: `seed=0,1`."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import ValueType
    from hydra.errors import HydraException

    once = f"pdpc {verb} takes one value per setting, it does not sweep: run it once per value"
    key, _, value = word.partition("=")
    if word == "-m" or key in ("multirun", "--multirun"):
        raise ValueError(f"{word}: {once}")
    try:
        override = OverridesParser.create().parse_override(word)
    except HydraException:
        if value and key.lstrip("+") in known and not (CONFIGS / key.lstrip("+")).is_dir():
            raise ValueError(f"{word} cannot be read: give a value of the right type") from None
        return  # Hydra's own message says what is wrong with the key
    if not override.is_sweep_override():
        return
    listed = override.value_type in (ValueType.SIMPLE_CHOICE_SWEEP, ValueType.CHOICE_SWEEP, ValueType.RANGE_SWEEP)
    values = [str(one) for one in islice(override.sweep_string_iterator(), 4)] if listed else ["VALUE"]
    each = ", then ".join(shlex.quote(f"{override.key_or_group}={one}") for one in values[:3])
    more = ", and so on" if len(values) > 3 else ""
    raise ValueError(f"{word} names several values, but {once}, with {each}{more}, each with its own output")


def _composed(
    verb: str, schema: type, overrides: Sequence[str], choices: Mapping[str, Mapping[str, type]]
) -> DictConfig:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra

    store = ConfigStore.instance()
    store.store(name=f"{verb}_schema", node=_schema(schema, missing=list(choices)))
    for group, options in choices.items():
        for name, option in options.items():
            for stored in (f"{name}_schema", *([] if name in options_of(group) else [name])):
                store.store(group=group, name=stored, node=_schema(option, missing=[]))
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        return hydra_compose(verb, overrides=list(overrides))


def _layers(verb: str, words: Sequence[str], files: Mapping[str, Path]) -> list[Layer]:
    """Return origin, package and content of every file and class of a configuration, in the order of merging."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode
    from yaml import safe_load

    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        merged = GlobalHydra.instance().config_loader().compute_defaults_list(verb, list(words), RunMode.RUN).defaults
    found = []
    for layer in merged:
        place = layer.config_path or ""
        path = files.get(place, CONFIGS / f"{place}.yaml")
        if not place.startswith("hydra") and path.is_file():
            content = safe_load(path.read_text("utf-8")) or {}
            content.pop("defaults", None)
            found.append((label(path, CONFIGS), layer.package or "", content))
    return found


def defaults_of(verb: str, schema: type, choices: Mapping[str, Mapping[str, type]]) -> dict[str, Any]:
    """Return a verb's settings without overrides, by dotted key: `configs/<verb>.yaml` over the dataclasses.

    A required value is "???", Hydra's notation.
    """
    from omegaconf import OmegaConf

    def leaves(node: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
        for key, value in node.items():
            yield f"{prefix}{key}", value
            if isinstance(value, dict):
                yield from leaves(value, f"{prefix}{key}.")

    found = OmegaConf.to_container(_composed(verb, schema, (), choices))
    return dict(leaves(cast(dict[str, Any], found), ""))


def groups_of(verb: str) -> dict[str, tuple[str, list[str]]]:
    """Return, by name, the config groups of a verb: the default and all files of `configs/GROUP`."""
    from yaml import safe_load

    listed = safe_load((CONFIGS / f"{verb}.yaml").read_text("utf-8")).get("defaults", [])
    return {
        group: (str(option or "null"), options_of(group))
        for entry in listed
        if isinstance(entry, dict)
        for group, option in entry.items()
        if options_of(group)
    }


def options_of(group: str) -> list[str]:
    """Return the names of a group's files in `configs/`; [] if there is no such group."""
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def as_yaml(settings: Any) -> str:
    """Return composed settings as YAML."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.structured(settings))


def _short(message: str) -> str:
    """Return a message without secrets, and shortened in the middle if it is very long."""
    text = without_secrets(message)
    return (
        text if len(text) <= LONGEST_MESSAGE else f"{text[: LONGEST_MESSAGE // 2]} ... {text[-LONGEST_MESSAGE // 2 :]}"
    )


def _schema(schema: type, missing: list[str]) -> Any:
    """Return the dataclass as an OmegaConf node that can be merged into (frozen dataclasses are read-only)."""
    from omegaconf import DictConfig, OmegaConf

    node = OmegaConf.structured(schema)

    def thaw(part: DictConfig) -> None:
        OmegaConf.set_readonly(part, None)
        for key in part:
            child = part._get_node(key)
            if not isinstance(child, DictConfig) or child._is_none():
                continue
            if child._is_missing() and is_dataclass(child._metadata.ref_type):
                part[key] = OmegaConf.structured(child._metadata.ref_type)
                child = part._get_node(key)
                assert isinstance(child, DictConfig)
            if get_origin(child._metadata.ref_type) is dict:
                OmegaConf.set_struct(child, False)  # free names: models.weak=... needs no plus sign
            elif not child._is_missing():
                thaw(child)

    thaw(node)
    for key in missing:
        node[key] = "???"
    return node


def keys_of(schema: type, choices: Mapping[str, Mapping[str, type]]) -> list[str]:
    """Return the dotted keys of a verb, sorted."""
    return sorted({*_keys(schema), *(f"{g}.{k}" for g, o in choices.items() for t in o.values() for k in _keys(t))})


def _keys(schema: type, prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of a settings dataclass."""
    from typing import get_type_hints

    hints = get_type_hints(schema)
    for field in fields(schema):
        kind = hints[field.name]
        if is_dataclass(kind):
            yield from _keys(cast(type, kind), f"{prefix}{field.name}.")
        yield f"{prefix}{field.name}"


def _near_leaves(leaf: str, known: list[str]) -> list[str]:
    """Return the known keys whose last word is closest to `leaf`."""
    leaves = difflib.get_close_matches(leaf, {key.split(".")[-1] for key in known}, n=2)
    return [key for key in known if key.split(".")[-1] in leaves]


def _unknown(verb: str, key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=3) or _near_leaves(key.split(".")[-1], known)
    hint = f"did you mean {' or '.join(near)}?" if near else f"pdpc {verb} --help lists them"
    return f"unknown key {key!r}: {hint}"


def _explain(verb: str, error: Exception, known: list[str], choices: Mapping[str, Mapping[str, type]]) -> str:
    cause = error.__cause__ if error.__cause__ is not None else error
    text = str(error)
    unknown = re.search(r"Could not override '([^']+)'|Key '([^']+)' not in|cannot assign to field '([^']+)'", text)
    if unknown is None:
        unknown = re.search(r"Key '([^']+)' not in", str(cause))
    if unknown:
        key = next(group for group in unknown.groups() if group)
        full = re.search(r"full_key: (\S+)", str(cause))
        key = full.group(1) if full and full.group(1).endswith(key) else key
        return f"{verb}: {_unknown(verb, key, known)}"
    missing = re.search(r"missing mandatory value: (\S+)", text)
    if missing:
        key = re.search(r"full_key: (\S+)", text)
        name = key.group(1) if key else missing.group(1)
        return f"{verb}: {name} has no value: give {name}=..."
    wrong = re.search(r"full_key: (\S+)", str(cause))
    if wrong:
        first, *rest = str(cause).splitlines()
        file = re.match(r"In '([^']+)': ", first)
        if file:  # from a YAML file, not an override: Hydra puts the file's name first
            first = f"{rest[0]} in {file.group(1)}.yaml"
        if "is not a ListConfig" in first:  # in a YAML file
            return f"{verb}: {wrong.group(1)} is a list: write {wrong.group(1)}=[...], with commas between its entries"
        return f"{verb}: {wrong.group(1)}: {first}: give a value of the right type"
    unread = re.search(r"LexerNoViableAltException: ([^=\s]+)=(.*)", text)
    if unread:
        key = unread.group(1).lstrip("+")
        if not (CONFIGS / key).is_dir():
            return f"{verb}: {_unknown(verb, key, known)}"
        return f"{verb}: {key}={unread.group(2).strip()} is unknown: use one of {', '.join(options_of(key))}"
    group = re.search(r"Could not find '([^']+)/([^']+)'", text)
    if group:
        name, option = group.groups()
        options = sorted({*options_of(name), *choices.get(name, ())})
        return f"{verb}: {name}={option} is unknown: use one of {', '.join(options)}"
    lines = [line.strip() for line in text.splitlines() if "provider=" not in line and "search path" not in line]
    return f"{verb}: {' '.join(line for line in lines if line and not line.endswith('_schema'))}"
