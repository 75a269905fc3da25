"""Processes that are no ranks of a run, at the place where its ranks meet; and ranks that are not at the same place."""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from tests.ports import free_port
from tests.torture.strangers.variant import Ground, Variant
from train.distributed.secret import VARIABLE, write_secret
from train.distributed.store import STORE

SIZE = 2
LIMIT_S = 20.0


def rank(folder: str, limit_s: float, secrets: dict[str, str]) -> int:
    """Join as a rank and add one number over the ranks; print what others could do with this process."""
    import psutil
    import torch
    import torch.distributed as dist

    from train.distributed.rendezvous import rendezvous
    from train.distributed.store import NotMet

    number = os.environ["RANK"]
    if number in secrets:
        os.environ[VARIABLE] = secrets[number]
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    try:
        with rendezvous(int(number), SIZE, limit_s, os._exit) as store:
            place = {"rank": int(number), "world_size": SIZE, "timeout": timedelta(minutes=5)}
            dist.init_process_group("gloo", store=store, **place)
    except NotMet as error:
        print(f"not met: {error}", flush=True)
        return 1
    total = torch.ones(1)
    dist.all_reduce(total)
    found = psutil.Process().net_connections("tcp")
    open_to = sorted({one.laddr.ip for one in found if one.status == "LISTEN"})
    print(f"sum {total.item():g}, listens at {open_to}", flush=True)
    return 0


def plain(folder: str) -> int:
    """Join as a rank with torch alone, which knows no secrets; keep the place."""
    import torch.distributed as dist

    print("stranger", flush=True)
    dist.init_process_group("gloo", timeout=timedelta(seconds=LIMIT_S))
    return 0


def writer(folder: str) -> int:
    """Write into the store what ranks write there, without the secret, and more of it than there are ranks."""
    import torch.distributed as dist

    place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(*place, wait_for_workers=False, timeout=timedelta(seconds=LIMIT_S))
    for number in range(SIZE):
        store.set(f"pdpc/open./here/{number}", "me")
        store.set(f"pdpc/visitor/{1000 + number}", "me")
    store.add("pdpc/open./count", SIZE)
    store.add("pdpc/visitor", 10**12)
    print("stranger", flush=True)
    return 0


def meet(ground: Ground, target: str, environment: dict[str, str], **arguments: Any) -> Any:
    """Start two processes with a target of this file."""
    words = {"folder": str(ground.work), **arguments}
    return ground.forks.start(f"{__name__}:{target}", words, SIZE, ground.work / target, environment)


def unharmed(ground: Ground, environment: dict[str, str], secrets: dict[str, str], *told: str) -> str | None:
    """Let the ranks of a run meet; return what kept them from it."""
    ranks = meet(ground, "rank", environment, limit_s=LIMIT_S, secrets=secrets)
    codes = ranks.wait(LIMIT_S + 30)
    ranks.kill()
    lacking = [word for word in ("sum 2, listens at ['127.0.0.1']", *told) if word not in ranks.told()]
    return None if codes == [0, 0] and not lacking else f"{codes}, without {lacking}: {ranks.told()[-800:]}"


def at_the_port(target: str, ground: Ground) -> str | None:
    """Another process is at the port of a run before its ranks are, with the number of one of them."""
    write_secret(ground.work / "secret")
    environment = {"MASTER_PORT": str(free_port())}
    place = {**environment, "RANK": "1", "WORLD_SIZE": str(SIZE)}
    others = ground.forks.start(f"{__name__}:{target}", {"folder": str(ground.work)}, 1, ground.work / "other", place)
    try:
        return unharmed(ground, environment, dict.fromkeys("01", str(ground.work / "secret")))
    finally:
        others.kill()
        others.wait(5)


def another_secret(ground: Ground) -> str | None:
    """A process joins with the secret of another attempt: it is named, and the ranks do not wait for it longer."""
    for name in "ab":
        write_secret(ground.work / name)
    secrets = {"0": str(ground.work / "a"), "1": str(ground.work / "b")}
    ranks = meet(ground, "rank", {"MASTER_PORT": str(free_port())}, limit_s=2.0, secrets=secrets)
    codes = ranks.wait(LIMIT_S)
    ranks.kill()
    lacking = [word for word in ("tried to join as rank 1", "1 did not join within 2 s") if word not in ranks.told()]
    return None if codes == [1, 1] and not lacking else f"{codes}, without {lacking}: {ranks.told()[-800:]}"


def file_of_ranks(ground: Ground) -> str | None:
    """Ranks of one machine meet in a file: a process at their port does not matter."""
    folder = ground.work / "private"
    folder.mkdir(mode=0o700)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        place = {"MASTER_PORT": str(taken.getsockname()[1]), STORE: str(folder / "store")}
        return unharmed(ground, place, {})


def open_folder(mode: int, ground: Ground) -> str | None:
    """The folder of that file can be entered by others."""
    folder = ground.work / "open"
    folder.mkdir()
    folder.chmod(mode)
    return _refused(ground, {STORE: str(folder / "store")}, {}, "is in a folder that others can enter")


def open_secret(spoil: str, ground: Ground) -> str | None:
    """The file of the secret can be read by others, or is a link to something that they know."""
    path = ground.work / "secret"
    write_secret(path)
    if spoil == "link":
        path.unlink()
        path.symlink_to(Path(__file__))
    else:
        path.chmod(0o644)
    words = "cannot be read" if spoil == "link" else "is not a file that only this user can read"
    return _refused(ground, {}, dict.fromkeys("01", str(path)), words)


def _refused(ground: Ground, environment: dict[str, str], secrets: dict[str, str], words: str) -> str | None:
    place = {"MASTER_PORT": str(free_port()), **environment}
    ranks = meet(ground, "rank", place, limit_s=3.0, secrets=secrets)
    codes = ranks.wait(LIMIT_S)
    ranks.kill()
    return None if codes == [1, 1] and words in ranks.told() else f"{codes}: {ranks.told()[-800:]}"


def sees(folder: str) -> int:
    """Check, as the ranks of a run do, that the output is shared; every rank has its own."""
    import torch

    from train.distributed.exit_codes import Refused
    from train.distributed.rendezvous import rendezvous
    from train.distributed.shared_folder import check_shared
    from train.distributed.world import OtherRankFailed, World
    from train.engine.communication import _join, load

    number = int(os.environ["RANK"])
    load()
    with rendezvous(number, SIZE, LIMIT_S, os._exit) as store:
        _join("gloo", torch.device("cpu"), number, SIZE, store)
    world = World(number, SIZE, 0, 1, torch.device("cpu"))
    same, own = Path(folder) / "same", Path(folder) / f"own{number}"
    for path in (same, own):
        path.mkdir(exist_ok=True)
    check_shared("output", same, world, 5.0)
    try:
        check_shared("output", own, world, 0.3)
    except (Refused, OtherRankFailed) as error:
        print(f"rank {number}: {error}; left: {[*same.iterdir(), *own.iterdir()]}", flush=True)
        return 2
    return 0


def unshared_output(ground: Ground) -> str | None:
    """Two nodes write to folders of the same name that are not the same."""
    ranks = meet(ground, "sees", {"MASTER_PORT": str(free_port())})
    codes = ranks.wait(60)
    ranks.kill()
    words = f"output={ground.work / 'own1'} on {socket.gethostname()} (rank 1) is not the folder that rank 0 writes to"
    told = ranks.told()
    good = codes == [2, 2] and words in told and told.count("left: []") == SIZE
    return None if good else f"{codes}: {told[-800:]}"


RANKS: dict[str, Variant] = {
    "a seat": partial(at_the_port, "plain"),
    "keys of the store": partial(at_the_port, "writer"),
    "the secret of another attempt": another_secret,
    "the port of ranks that need none": file_of_ranks,
    "a folder that others can enter": partial(open_folder, 0o755),
    "a folder that others can write to": partial(open_folder, 0o777),
    "a secret that others can read": partial(open_secret, "mode"),
    "a secret that is a link": partial(open_secret, "link"),
    "an output that nodes do not share": unshared_output,
}
