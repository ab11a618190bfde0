"""A Ray cluster of several nodes on this machine, in a process of its own.

    python -m tests.support.ray_nodes

It prints the cluster's address. For every line of input it kills the node that was added last.
"""

import sys


def main() -> None:
    from ray.cluster_utils import Cluster  # Ray is not in every environment of the tests

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    print(cluster.address, flush=True)  # noqa: T201
    for _ in sys.stdin:
        cluster.remove_node(nodes.pop(), allow_graceful=False)
        print("gone", flush=True)  # noqa: T201
    cluster.shutdown()


if __name__ == "__main__":
    main()
