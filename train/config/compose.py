"""Compose a verb's settings: Hydra handles YAML groups and overrides, dataclasses define keys and types.

Every mistake (unknown key, wrong type, missing value, invalid combination) is a one-paragraph SettingsError that names
the key, the value and the fix, before anything starts.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import FrozenInstanceError, is_dataclass
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_origin

from train.config.check import check_files, check_settings, check_words
from train.config.explained import explain, short
from train.config.groups import CONFIGS, file_of, options_of
from train.config.keys import keys_of, kind_of
from train.config.outside import with_outside_files
from train.config.secrets import without_secrets
from train.config.shown import as_text, label, origins
from train.config.typed import as_typed

if TYPE_CHECKING:
    from omegaconf import DictConfig

T = TypeVar("T")
Layer = tuple[str, str, dict[str, Any]]
"""Origin, package and content of one file of a configuration."""

SPEAKS_OF_CODE = ("benchmarks.task_paths=", "benchmarks.task_code=")
"""Overrides with which the user names task files, or says whether their code runs."""


WITHOUT_HYDRAS_OWN = tuple(
    f"~hydra/{group}"
    for group in ("output", "launcher", "sweeper", "help", "hydra_help", "hydra_logging", "job_logging", "env")
)
"""Overrides that drop Hydra's settings of itself, which `compose` would read, merge and remove: half of its time."""


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


def compose_partly(
    verb: str, schema: type[T], overrides: Sequence[str], stand_ins: Mapping[str, str]
) -> tuple[T, list[str]]:
    """Return what `compose` does, with values for required keys that were not given, and the names of those keys."""
    from omegaconf import OmegaConf

    with _composing(verb, schema, overrides, {}) as (configuration, _):
        missing = sorted(OmegaConf.missing_keys(configuration) & stand_ins.keys())
        for key in missing:
            OmegaConf.update(configuration, key, stand_ins[key])
        settings = cast(T, OmegaConf.to_object(configuration))
        check_settings(settings)
        return settings, missing


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
    kinds = partial(kind_of, schemas=(schema,), choices=choices)
    try:
        check_words(overrides, CONFIGS)
        with with_outside_files(overrides, CONFIGS, kinds) as (words, files):
            check_files(verb, words, CONFIGS, kinds)
            words = as_typed(words, schema, choices=choices)
            for word in words:
                _check_value(verb, word, known)
            composed = _composed(verb, schema, words, choices)
            if files and not any(word.lstrip("+").startswith(SPEAKS_OF_CODE) for word in overrides):
                _confine(composed)
            yield composed, partial(_layers, verb, words, files)
    except (HydraException, OmegaConfBaseException, FrozenInstanceError) as error:
        raise SettingsError(short(explain(verb, error, known, choices))) from None
    except YAMLError as error:
        raise SettingsError(short(f"{verb}: not YAML: {' '.join(str(error).split())}: fix the file")) from None
    except ValueError as error:
        raise SettingsError(short(f"{verb}: {error}")) from None


def _confine(configuration: DictConfig) -> None:
    """Run no code of task files: the user named a configuration file, which is data and may be another's."""
    benchmarks = configuration.get("benchmarks")
    if benchmarks is not None and benchmarks.get("task_paths"):
        benchmarks.task_code = False


def _check_value(verb: str, word: str, known: Collection[str]) -> None:
    """Raise ValueError for a value that cannot be read, or that asks Hydra for several runs: `seed=0,1`."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import ValueType
    from hydra.errors import HydraException

    once = f"pdpc {verb} takes one value per setting, it does not sweep: run it once per value"
    key, _, value = word.partition("=")
    if word == "-m" or key in ("multirun", "--multirun"):
        raise ValueError(f"{word}: {once}")
    if key.startswith("-"):
        raise ValueError(
            f"{word} is not an option: settings are KEY=VALUE or --KEY VALUE (--help lists them), files experiment=PATH"
        )
    if ("=" not in word and not word.startswith("~")) or key != key.strip():
        raise ValueError(
            f"{word!r} is not KEY=VALUE: settings are KEY=VALUE without spaces around the =, in quotes if VALUE has "
            "spaces (--help lists them)"
        )
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

    repo = ConfigStore.instance().repo
    name = file_of(verb)
    repo[f"{name}_schema.yaml"] = _stored(f"{name}_schema", None, schema, tuple(choices))
    for group, options in choices.items():
        for choice, option in options.items():
            for stored in (f"{choice}_schema", *([] if choice in options_of(group) else [choice])):
                repo.setdefault(group, {})[f"{stored}.yaml"] = _stored(stored, group, option, ())
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        return hydra_compose(name, overrides=[*overrides, *WITHOUT_HYDRAS_OWN])


@lru_cache(maxsize=512)
def _stored(name: str, group: str | None, schema: type, missing: tuple[str, ...]) -> Any:
    """Return a class as an entry of Hydra's store. Hydra copies an entry when it reads it."""
    from hydra.core.config_store import ConfigNode

    return ConfigNode(name=f"{name}.yaml", node=_schema(schema, missing), package=None, group=group, provider=None)


def _layers(verb: str, words: Sequence[str], files: Mapping[str, Path]) -> list[Layer]:
    """Return origin, package and content of every file and class of a configuration, in the order of merging."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        merged = (
            GlobalHydra.instance()
            .config_loader()
            .compute_defaults_list(file_of(verb), list(words), RunMode.RUN)
            .defaults
        )
    found = []
    for layer in merged:
        place = layer.config_path or ""
        path = files.get(place, CONFIGS / f"{place}.yaml")
        if not place.startswith("hydra") and path.is_file():
            content = cast(dict[str, Any], OmegaConf.to_container(OmegaConf.create(path.read_text("utf-8"))))
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


def as_yaml(settings: Any) -> str:
    """Return composed settings as YAML."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.structured(settings))


def _schema(schema: type, missing: Sequence[str]) -> Any:
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
