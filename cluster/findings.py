"""What is well on a cluster and what is not: one function for each check, each of which returns rows of the table."""

import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ray

from cluster.nodes import Cluster, Node, Trouble, collect, on
from cluster.probe import Facts, Peer

FINE, WARNING, WRONG = "ok", "warning", "wrong"
_GIB = 2**30
_ROOM = 10 * _GIB  # decoded data, checkpoints and logs of a small search
_SHARED_PER_GPU = _GIB  # NCCL's buffers; Ray keeps its objects there too
_SKEW = 2.0  # seconds


class Row(NamedTuple):
    """One finding."""

    state: str
    check: str
    result: str
    fix: str = ""


def findings(cluster: Cluster, *, storage_root: str | None, data_root: str | None, wanted: int) -> list[Row]:
    """All checks, in the order in which they are shown.

    Args:
        cluster: whom to ask.
        storage_root: the results lake, a folder or s3://bucket/prefix; None: not looked at.
        data_root: the dataset's files, likewise.
        wanted: how many GPUs the search is going to use.
    """
    everyone = list(cluster.nodes)
    answers = cluster.ask("about")
    facts = {name: answer for name, answer in answers.items() if isinstance(answer, Facts)}
    rows = nodes(answers)
    if not facts:
        return rows
    rows += versions(facts) + clocks(cluster) + gpus(facts, everyone, wanted) + traffic(cluster)
    rows += storage(cluster, storage_root) if storage_root else []
    found, size = data(cluster, data_root) if data_root else ([], 0)
    copied = 2 * size if data_root and data_root.startswith("s3://") else 0  # as it comes, and decoded
    return rows + found + room(facts, copied) + shared_memory(facts, everyone) + token(facts)


def nodes(answers: Mapping[str, Any]) -> list[Row]:
    """Whether every node can run the project at all."""
    fix = "install the project there (pip install -c constraints.txt -e .), and look at that node's Ray logs"
    rows = _troubles("nodes", answers, fix)
    return rows or [Row(FINE, "nodes", f"{len(answers)} answer")]


def versions(facts: Mapping[str, Facts]) -> list[Row]:
    """Figures are comparable, and pickles readable, only where all nodes run the same."""
    rows = []
    for package in sorted({package for fact in facts.values() for package in fact.versions}):
        found = {name: fact.versions.get(package, "none") for name, fact in facts.items()}
        if len(set(found.values())) > 1:
            fix = f"install the same {package} on all nodes: pip install -c constraints.txt -e ., or one image"
            rows.append(Row(WRONG, "versions", f"{package}: {_by_value(found)}", fix))
    first = next(iter(facts.values())).versions
    shown = ", ".join(f"{name} {first[name]}" for name in ("python", "ray", "torch", "cdal-search") if name in first)
    commit = f", commit {first['commit'][:12]}" if "commit" in first else ""
    return rows or [Row(FINE, "versions", shown + commit)]


def gpus(facts: Mapping[str, Facts], nodes: Sequence[Node], wanted: int) -> list[Row]:
    """Whether PyTorch computes on what Ray hands out, and whether that is enough."""
    rows = []
    driver = "install PyTorch for the node's driver, and start containers with GPU access (nvidia-smi shows what is there)"
    for node in nodes:
        fact = facts.get(node.name)
        if fact is None:
            continue
        if fact.gpu_problem and (node.gpus or fact.gpus):
            rows.append(Row(WRONG, "GPUs", f"{node.name}: {fact.gpu_problem}", driver))
        elif len(fact.gpus) < node.gpus:
            rows.append(Row(WRONG, "GPUs", f"{node.name}: Ray has {node.gpus:g}, PyTorch sees {len(fact.gpus)}", driver))
        elif fact.gpus and not node.gpus and node.cpus:
            fix = "start its Ray with --num-gpus, if trials shall use them"
            rows.append(Row(WARNING, "GPUs", f"{node.name}: PyTorch sees {len(fact.gpus)}, Ray has none", fix))
    total = sum(node.gpus for node in nodes)
    if total < wanted:
        fix = f"add nodes; a cluster that grows by itself gets them from: python -m cluster.start --gpus {wanted}"
        rows.append(Row(WRONG, "GPUs", f"{total:g} in all, {wanted} are wanted", fix))
    kinds = sorted({name for fact in facts.values() for name in fact.gpus})
    return rows or [Row(FINE, "GPUs", f"{total:g}: {', '.join(kinds)}" if total else "none; trials run on CPUs")]


def traffic(cluster: Cluster) -> list[Row]:
    """An all-reduce between the nodes that would train together: NCCL where two have GPUs, otherwise gloo."""
    with_gpus = [node for node in cluster.nodes if node.gpus >= 1]
    backend, peers = ("nccl", with_gpus) if len(with_gpus) > 1 else ("gloo", [node for node in cluster.nodes if node.cpus])
    if len(peers) < 2:
        return [Row(FINE, "all-reduce", "not run: there is one node for trials")]
    make = ray.remote(num_cpus=0, num_gpus=1 if backend == "nccl" else 0)(Peer)
    actors = {node.name: on(node, make).remote() for node in peers}
    try:
        address = collect({peers[0].name: actors[peers[0].name].address.remote()}, cluster.patience)[peers[0].name]
        if isinstance(address, Trouble):
            return _troubles("all-reduce", {peers[0].name: address}, "see that node's Ray logs; are its GPUs taken?")
        waiting = {
            name: actor.add_up.remote(backend, address, rank, len(peers), cluster.patience)
            for rank, (name, actor) in enumerate(actors.items())
        }
        answers = collect(waiting, cluster.patience + 10)
    finally:
        for actor in actors.values():
            ray.kill(actor)
    fix = f"open all ports between the nodes; name the network card in {backend.upper()}_SOCKET_IFNAME; NCCL_DEBUG=INFO tells more"
    slowest = max((answer for answer in answers.values() if not isinstance(answer, Trouble)), default=0.0)
    fine = Row(FINE, "all-reduce", f"{backend} between {len(peers)} nodes, 64 MiB in {slowest:.2g} s")
    return _troubles(f"all-reduce ({backend})", answers, fix) or [fine]


def storage(cluster: Cluster, root: str) -> list[Row]:
    """Whether every node can write results, and sees what the others have written."""
    if root.startswith("s3://"):
        fix = "check the bucket's name, AWS_ENDPOINT_URL, and that the nodes' credentials may put, get and delete objects there"
    else:
        fix = "make it writable for the user that runs Ray, or name another folder or s3://bucket/prefix"
    trial = uuid.uuid4().hex
    names = {node.name: f".check-{trial}-{number}" for number, node in enumerate(cluster.nodes)}
    written = cluster.ask("write", lambda node: (root, names[node.name]))
    there = [names[name] for name, answer in written.items() if not isinstance(answer, Trouble)]
    seen = cluster.ask("missing", lambda _: (root, there)) if len(there) > 1 else {}
    deleted = cluster.ask("delete", lambda _: (root, there)) if there else {}
    rows = _troubles("storage", written, fix) + _troubles("storage", seen, fix) + _troubles("storage", deleted, fix)
    apart = [name for name, answer in seen.items() if isinstance(answer, list) and answer]
    if apart:
        fix = "use a folder of a file system that all nodes share, or s3://bucket/prefix"
        rows.append(Row(WRONG, "storage", f"{root} is not the same folder everywhere: {_some(apart)} miss what others wrote", fix))
    return rows or [Row(FINE, "storage", f"{root}: written, read and deleted by {len(written)} node{'s' * (len(written) > 1)}")]


def data(cluster: Cluster, root: str) -> tuple[list[Row], int]:
    """Whether every node can read the data, and finds the same; with their size in bytes."""
    answers = cluster.ask("data", lambda _: (root,))
    fix = "copy it to every node, or name a shared folder or s3://bucket/prefix"
    if root.startswith("s3://"):
        fix = "check the address, AWS_ENDPOINT_URL, and that the nodes' credentials may list and get objects there"
    rows = _troubles("data", answers, fix)
    found = {name: f"{answer[0]} files, {answer[1]} bytes" for name, answer in answers.items() if not isinstance(answer, Trouble)}
    if len(set(found.values())) > 1:
        rows.append(Row(WRONG, "data", _by_value(found), "copy the same files to every node"))
    size = max((answer[1] for answer in answers.values() if not isinstance(answer, Trouble)), default=0)
    return rows or [Row(FINE, "data", f"{root}: {shown}") for shown in set(found.values())], size


def room(facts: Mapping[str, Facts], copy: int) -> list[Row]:
    """Whether the copy of the data and what is decoded fit on the disks."""
    needed = _ROOM + copy
    rows = [
        Row(
            WRONG if fact.free < max(copy, _GIB) else WARNING,
            "disk",
            f"{name}: {fact.free / _GIB:.1f} GiB free at {fact.cache}, {needed / _GIB:.0f} GiB are advised",
            "make room, or set CDAL_CACHE to a folder with more",
        )
        for name, fact in facts.items()
        if fact.free < needed
    ]
    return rows or [Row(FINE, "disk", f"{min(fact.free for fact in facts.values()) / _GIB:.0f} GiB free or more")]


def shared_memory(facts: Mapping[str, Facts], nodes: Sequence[Node]) -> list[Row]:
    """Containers come with 64 MiB, which slows Ray down and stops NCCL."""
    rows = []
    gpus = {node.name: node.gpus for node in nodes}
    for name, fact in facts.items():
        needed = _SHARED_PER_GPU * max(1, int(gpus[name]))
        if fact.shared_memory < needed:
            shown = f"{name}: /dev/shm has {fact.shared_memory / _GIB:.2g} GiB, {needed / _GIB:.0f} GiB are advised"
            fix = "docker run --shm-size, or in Kubernetes an emptyDir with medium: Memory mounted there"
            rows.append(Row(WARNING, "shared memory", shown, fix))
    least = min(fact.shared_memory for fact in facts.values())
    return rows or [Row(FINE, "shared memory", f"{least / _GIB:.0f} GiB or more")]


def clocks(cluster: Cluster) -> list[Row]:
    """Rows of the lake are ordered by time, and S3 refuses requests from clocks that are far off."""
    apart = {node.name: cluster.clock(node) for node in cluster.nodes}
    fix = "let the node's clock follow a time server (chronyc, timedatectl)"
    rows = [Row(WRONG, "clocks", f"{name}: {skew:.1f} s off", fix) for name, skew in apart.items() if skew and skew >= _SKEW]
    return rows or [Row(FINE, "clocks", f"less than {_SKEW:g} s apart")]


def token(facts: Mapping[str, Facts]) -> list[Row]:
    """Whether whoever reaches the cluster's ports can run code on it."""
    open_nodes = [name for name, fact in facts.items() if not fact.token]
    if not open_nodes:
        return [Row(FINE, "access", "only with Ray's token")]
    fix = "ray get-auth-token --generate, the same token on all nodes, RAY_AUTH_MODE=token wherever Ray starts"
    return [Row(WARNING, "access", f"{_some(open_nodes)}: whoever reaches Ray's ports can run code there", fix)]


def _troubles(name: str, answers: Mapping[str, Any], fix: str) -> list[Row]:
    """A row for each different trouble."""
    nodes = defaultdict(list)
    for node, answer in answers.items():
        if isinstance(answer, Trouble):
            nodes[answer.text].append(node)
    return [Row(WRONG, name, f"{_some(names)}: {text}", fix) for text, names in nodes.items()]


def _by_value(found: Mapping[str, str]) -> str:
    values = defaultdict(list)
    for node, value in found.items():
        values[value].append(node)
    return "; ".join(f"{value} on {_some(names)}" for value, names in values.items())


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
