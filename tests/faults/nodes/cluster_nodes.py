"""A cluster of Ray in one process tree, nodes with addresses on loopback: `cluster_nodes.py PORT PORT`, told by lines.

    add ADDRESS      a node of one CPU joins
    kill ADDRESS     its raylet is killed
    drain ADDRESS S  it is drained, with S seconds until its end
    headless         the head's control process (GCS) is killed
    headed           and started again on what it stored
    state            what there is

Each line is answered by one of JSON. The head, 127.0.0.2, is there from the start; all ends with the input.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

HEAD = "127.0.0.2"
# Not 127.0.0.1: Ray takes that for the address of the machine in its network, where these nodes do not listen.


class Nodes:
    """The cluster, and what may happen to it."""

    def __init__(self, port: int, dashboard: int) -> None:
        head = {
            "node_ip_address": HEAD,
            "num_cpus": 1,
            "gcs_server_port": port,
            "include_dashboard": True,  # without it Ray does not notice that a controller died
            "dashboard_host": HEAD,
            "dashboard_port": dashboard,
            "dashboard_agent_listen_port": 0,
        }
        self.cluster = Cluster(initialize_head=True, head_node_args=head, shutdown_at_exit=True)
        self.nodes = {HEAD: self.cluster.head_node}

    def add(self, address: str) -> None:
        self.nodes[address] = self.cluster.add_node(node_ip_address=address, num_cpus=1)

    def kill(self, address: str) -> None:
        self.nodes[address].kill_raylet()

    def drain(self, address: str, seconds: str) -> None:
        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        deadline = int((time.time() + float(seconds)) * 1000)
        client = GcsClient(address=self.cluster.address)
        is_accepted, why = client.drain_node(self.nodes[address].node_id, reason, "taken back", deadline)
        assert is_accepted, why

    def headless(self) -> None:
        self.cluster.head_node.kill_gcs_server()

    def headed(self) -> None:
        self.cluster.head_node.start_gcs_server()

    def state(self) -> dict[str, Any]:
        known = self.cluster.global_state
        actors = [each["ActorClassName"] for each in known.actor_table(None, None, "ALIVE").values()]
        return {
            "alive": [node["NodeManagerAddress"] for node in known.node_table() if node["Alive"]],
            "cpus": known.cluster_resources().get("CPU", 0.0),
            "free": known.available_resources().get("CPU", 0.0),
            "actors": sorted(each for each in actors if not each.startswith("_")),  # Ray's own stay for the next job
        }


def main(port: int, dashboard: int) -> None:
    nodes = Nodes(port, dashboard)
    print(json.dumps({"address": nodes.cluster.address}), flush=True)
    for line in sys.stdin:
        verb, *words = line.split()
        print(json.dumps({"done": getattr(nodes, verb)(*words)}), flush=True)
    nodes.cluster.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
