"""Workers that are actors of Ray's, spread over two nodes.

    python examples/ray_group.py

Starts a cluster of two nodes on this machine. With a real one, call ray.init(address="auto") in the place of `cluster`,
and leave the rest as it is: actors on other machines are reached through links.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.cluster_utils import Cluster
from ray.util.placement_group import placement_group

from ringcast import WorkerGroup, workers

NODES, PER_NODE = 2, 2


class Shard:
    """What each actor holds: its part of the numbers below a limit."""

    def __init__(self, limit: int, ranks: int) -> None:
        self.numbers = range(workers.rank(), limit, ranks)

    def node(self) -> str:
        return str(ray.get_runtime_context().get_node_id())

    def sum_of_powers(self, power: int) -> int:
        return sum(number**power for number in self.numbers)


@contextmanager
def cluster() -> Iterator[None]:
    options = {"num_cpus": PER_NODE, "object_store_memory": 100 << 20}
    made = Cluster(initialize_head=True, head_node_args={**options, "include_dashboard": False})
    try:
        for _ in range(NODES - 1):
            made.add_node(**options)
        ray.init(address=made.address)
        yield
    finally:
        ray.shutdown()
        made.shutdown()


def main() -> None:
    with cluster():
        placed = placement_group([{"CPU": 1}] * NODES * PER_NODE, strategy="SPREAD")
        with WorkerGroup.on_ray(Shard, placed, (1000, NODES * PER_NODE)) as group:
            nodes = len(set(group.call("node")))
            squares = group.submit("sum_of_powers", 2, deadline=60)
            cubes = group.submit("sum_of_powers", 3, deadline=60)
            print(f"{len(group)} actors on {nodes} nodes: {sum(squares.result())}, {sum(cubes.result())}")


if __name__ == "__main__":
    main()
