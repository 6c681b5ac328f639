"""The nodes of a Ray cluster, each with a probe on it, asked with a patience that ends."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.probe import Probe


class Trouble(NamedTuple):
    """What a node says instead of an answer."""

    text: str
    silent: bool = False
    """Whether it is not worth asking again."""


@dataclass(frozen=True)
class Node:
    """A machine of the cluster."""

    name: str
    cpus: float
    gpus: float
    id: str


class Cluster:
    """The nodes that answer. One that does not is not asked again, so that it is waited for only once."""

    def __init__(self, patience: float) -> None:
        """Put a probe on every node of the cluster that Ray is connected to; `patience` is seconds for one answer."""
        alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        names = [node["NodeManagerHostname"] for node in alive]
        self.nodes = []
        for about, name in zip(alive, names, strict=True):
            shown = name if names.count(name) == 1 else f"{name}/{about['NodeID'][:6]}"
            resources = about["Resources"]
            self.nodes.append(Node(shown, resources.get("CPU", 0.0), resources.get("GPU", 0.0), about["NodeID"]))
        self.nodes.sort(key=lambda node: node.name)
        self.patience = patience
        self._probes = {node.name: on(node, ray.remote(num_cpus=0)(Probe)).remote() for node in self.nodes}

    def ask(self, question: str, arguments: Callable[[Node], tuple[Any, ...]] = lambda _: ()) -> dict[str, Any]:
        """Every node's answer by its name, a Trouble where there is none."""
        asked = {node.name: getattr(self._probes[node.name], question).remote(*arguments(node)) for node in self.nodes}
        answers = collect(asked, self.patience)
        silent = {name for name, answer in answers.items() if isinstance(answer, Trouble) and answer.silent}
        self.nodes = [node for node in self.nodes if node.name not in silent]
        return answers

    def clock(self, node: Node) -> float | None:
        """Seconds that a node's clock differs from this machine's by at least, as far as the way there and back tells."""
        asked = time.time()
        answer = collect({node.name: self._probes[node.name].now.remote()}, self.patience)[node.name]
        return None if isinstance(answer, Trouble) else max(asked - answer, answer - time.time(), 0.0)


def on(node: Node, actor: Any) -> Any:
    """The class of an actor that lives on that node and nowhere else."""
    return actor.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False))


def collect(asked: Mapping[str, Any], patience: float) -> dict[str, Any]:
    """Answers of Ray by name, none of which is waited for longer than so many seconds."""
    ready, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=patience) if asked else ([], [])
    answers: dict[str, Any] = {}
    for name, reference in asked.items():
        if reference not in ready:
            answers[name] = Trouble(f"no answer within {patience:g} s", silent=True)
            continue
        try:
            answers[name] = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            answers[name] = Trouble(" ".join(str(cause).split())[:200] or type(cause).__name__)
        except ray.exceptions.RayError as error:  # the node or the process on it is gone, or could not start
            answers[name] = Trouble((str(error).strip().splitlines() or [type(error).__name__])[-1].strip()[:200], silent=True)
    return answers
