"""A controller that calls methods of the other ranks of a torchrun job.

    torchrun --nproc-per-node 4 examples/torchrun_group.py

Rank 0 controls; ranks 1 to 3 each hold a shard of the data, and serve until the controller is done.
"""

from __future__ import annotations

import torch
import torch.distributed as dist

from ringcast import WorkerGroup, workers

ROWS, COLUMNS = 3000, 4


class Shard:
    """The rows of one rank."""

    def __init__(self, ranks: int) -> None:
        rows = torch.arange(ROWS * COLUMNS, dtype=torch.float64).reshape(ROWS, COLUMNS)
        self.rows = rows[workers.rank() - 1 :: ranks]

    def gradient(self, weights: torch.Tensor) -> torch.Tensor:
        """Of the squared error of a linear model whose targets are the rows' sums."""
        errors = self.rows @ weights - self.rows.sum(1)
        return self.rows.T @ errors

    def count(self) -> int:
        return len(self.rows)


def main() -> None:
    dist.init_process_group("gloo")
    group = WorkerGroup.adopt(None, Shard, (dist.get_world_size() - 1,))
    if group is not None:  # on rank 0; the others are done when it is
        with group:
            counts = group.call("count")
            gradient = sum(group.call("gradient", torch.ones(COLUMNS, dtype=torch.float64), deadline=60))
        print(f"{len(counts)} workers, {sum(counts)} rows, gradient {float(abs(gradient).max()):.1f}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
