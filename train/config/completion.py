"""Shell completion: a script for bash or zsh with every verb, key and choice, for the shell to source."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

SHELLS = ("bash", "zsh")
BASH = """# bash completion of pdpc: source <(pdpc completion bash)
_pdpc() {{
    local line=${{COMP_LINE:0:COMP_POINT}} words word key
    read -ra words <<< "$line"
    word=${{line##*[[:space:]]}}
    COMPREPLY=()
    if [[ ${{#words[@]}} -lt 2 || ( ${{#words[@]}} -eq 2 && -n $word ) ]]; then
        mapfile -t COMPREPLY < <(compgen -W {verbs} -- "$word")
        return
    fi
    local keys="" values="" below="" verb=${{words[1]}}
    case $verb in
{below}
    esac
    if [[ -n $below ]]; then
        if [[ ${{#words[@]}} -lt 3 || ( ${{#words[@]}} -eq 3 && -n $word ) ]]; then
            mapfile -t COMPREPLY < <(compgen -W "$below" -- "$word")
            return
        fi
        verb="$verb ${{words[2]}}"
    fi
    case $verb in
{cases}
    esac
    if [[ $word == *=* ]]; then
        key=${{word%%=*}}
        values=$(_pdpc_values "$verb" "$key")
        word=${{word#*=}}
        if [[ -n $values ]]; then
            mapfile -t COMPREPLY < <(compgen -W "$values" -- "$word")
        else
            compopt -o filenames
            mapfile -t COMPREPLY < <(compgen -f -- "$word")
        fi
        return
    fi
    mapfile -t COMPREPLY < <(compgen -W "$keys" -- "$word"; compgen -f -- "$word")
    [[ ${{#COMPREPLY[@]}} -eq 1 && ${{COMPREPLY[0]}} == *= ]] && compopt -o nospace
}}
_pdpc_values() {{
    case "$1 $2" in
{values}
    esac
}}
complete -F _pdpc pdpc
"""
ZSH = """#compdef pdpc
# zsh completion of pdpc: source <(pdpc completion zsh), after compinit, or save it as _pdpc in a folder of $fpath
_pdpc() {{
    local -a keys values
    if (( CURRENT == 2 )); then
        compadd -- {verbs}
        return
    fi
    local below="" verb=$words[2]
    case $verb in
{below}
    esac
    if [[ -n $below ]]; then
        if (( CURRENT == 3 )); then
            compadd -- $=below
            return
        fi
        verb="$verb $words[3]"
    fi
    if [[ $PREFIX == *=* ]]; then
        values=(${{=$(_pdpc_values "$verb" "${{PREFIX%%=*}}")}})
        compset -P 1 '*='
        if (( $#values )); then compadd -a values; else _files; fi
        return
    fi
    case $verb in
{cases}
    esac
    compadd -S '' -- $=keys
    _files
}}
_pdpc_values() {{
    case "$1 $2" in
{values}
    esac
}}
if [[ $funcstack[1] == _pdpc ]]; then  # loaded from $fpath, by the first completion
    _pdpc "$@"
else
    compdef _pdpc pdpc
fi
"""


def script(shell: str, keys: Mapping[str, Sequence[str]], values: Mapping[tuple[str, str], Sequence[str]]) -> str:
    """Return the script of a shell, from the keys of every verb and the values of (verb, key) that has a choice.

    Raises ValueError for an unknown shell.
    """
    if shell not in SHELLS:
        raise ValueError(f"completion {shell} is not supported: write pdpc completion {' or '.join(SHELLS)}")
    cases = [
        f"    {shlex.quote(verb)}) keys={shlex.quote(' '.join(f'{key}=' for key in listed))} ;;"
        for verb, listed in keys.items()
    ]
    chosen = [
        f"    {shlex.quote(f'{verb} {key}')}) echo {shlex.join(found)} ;;" for (verb, key), found in values.items()
    ]
    first = list(dict.fromkeys(verb.split()[0] for verb in keys))
    nested = {name: [verb.split()[1] for verb in keys if verb.startswith(f"{name} ")] for name in first}
    below = [f"    {name}) below={shlex.quote(' '.join(words))} ;;" for name, words in nested.items() if words]
    verbs = shlex.join(first) if shell == "zsh" else shlex.quote(" ".join(first))
    form = ZSH if shell == "zsh" else BASH
    return form.format(verbs=verbs, below="\n".join(below), cases="\n".join(cases), values="\n".join(chosen))
