"""Nodes of Ray in one process tree, each with an address of its own on loopback.

`python two_nodes.py` starts a head and a node beside it and prints, as JSON, where the Jobs API listens and the address
of the cluster. `python two_nodes.py ADDRESS` starts a third node of that cluster. Both end when their input ends.
"""

from __future__ import annotations

import json
import socket
import sys

HEAD, SECOND, THIRD = "127.0.0.2", "127.0.0.3", "127.0.0.4"
# Not 127.0.0.1: Ray takes that for the address of the machine in its network, where these nodes do not listen.


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind((HEAD, 0))
        return int(bound.getsockname()[1])


def two() -> None:
    from ray.cluster_utils import Cluster

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
    cluster.add_node(node_ip_address=SECOND, num_cpus=1)
    cluster.wait_for_nodes()
    print(json.dumps({"url": f"http://{HEAD}:{port}", "address": cluster.address}), flush=True)
    sys.stdin.read()
    cluster.shutdown()


def third(address: str) -> None:
    from ray._private.node import Node
    from ray._private.parameter import RayParams

    own = {"min_worker_port": 0, "max_worker_port": 0, "node_manager_port": 0, "include_log_monitor": False}
    params = RayParams(redis_address=address, gcs_address=address, node_ip_address=THIRD, num_cpus=1, num_gpus=0, **own)
    params.update(dashboard_agent_listen_port=None, object_store_memory=150 * 1024 * 1024)
    node = Node(params, head=False, shutdown_at_exit=True, spawn_reaper=True)
    print(json.dumps({"node": THIRD}), flush=True)
    sys.stdin.read()
    node.kill_all_processes(check_alive=False, allow_graceful=True, wait=True)


if __name__ == "__main__":
    third(sys.argv[1]) if len(sys.argv) > 1 else two()
