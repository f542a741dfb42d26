"""Two nodes of Ray in one process tree, each with an address of its own on loopback: `python two_nodes.py`.

It prints where the Jobs API listens and the address of the cluster as JSON, and ends the nodes when its input ends.
"""

from __future__ import annotations

import json
import socket
import sys

from ray.cluster_utils import Cluster

HEAD, OTHER = "127.0.0.1", "127.0.0.2"


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind((HEAD, 0))
        return int(bound.getsockname()[1])


def main() -> None:
    port = free_port()
    head = {
        "node_ip_address": HEAD,
        "num_cpus": 1,
        "include_dashboard": True,
        "dashboard_host": HEAD,
        "dashboard_port": port,
        "dashboard_agent_listen_port": 0,
    }
    cluster = Cluster(initialize_head=True, head_node_args=head, shutdown_at_exit=True)
    cluster.add_node(node_ip_address=OTHER, num_cpus=1, labels={"place": "other"})
    cluster.wait_for_nodes()
    print(json.dumps({"url": f"http://{HEAD}:{port}", "address": cluster.address}), flush=True)
    sys.stdin.read()
    cluster.shutdown()


if __name__ == "__main__":
    main()
