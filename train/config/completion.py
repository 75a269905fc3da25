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
    local keys="" values=""
    case ${{words[1]}} in
{cases}
    esac
    if [[ $word == *=* ]]; then
        key=${{word%%=*}}
        values=$(_pdpc_values "${{words[1]}}" "$key")
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
    if [[ $PREFIX == *=* ]]; then
        values=(${{=$(_pdpc_values "$words[2]" "${{PREFIX%%=*}}")}})
        compset -P 1 '*='
        if (( $#values )); then compadd -a values; else _files; fi
        return
    fi
    case $words[2] in
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
        f"    {verb}) keys={shlex.quote(' '.join(f'{key}=' for key in listed))} ;;" for verb, listed in keys.items()
    ]
    chosen = [
        f"    {shlex.quote(f'{verb} {key}')}) echo {shlex.join(found)} ;;" for (verb, key), found in values.items()
    ]
    verbs = shlex.join(keys) if shell == "zsh" else shlex.quote(" ".join(keys))
    form = ZSH if shell == "zsh" else BASH
    return form.format(verbs=verbs, cases="\n".join(cases), values="\n".join(chosen))
