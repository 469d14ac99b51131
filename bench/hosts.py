"""A coordinator and workers on hosts of their own, which are network namespaces on one switch. Needs root."""
import os
import subprocess

from muster_cluster import MusterCluster


def ip(*arguments, check=True):
    subprocess.run(["ip", *map(str, arguments)], check=check, capture_output=True, text=True)


class HostsCluster(MusterCluster):
    listen = "10.232.0.1:7070"
    # Between namespaces of one machine.
    coordinator_flags = ("--insecure-network",)

    def __init__(self, options, workers=2):
        self.prefix = f"muster-bench-{os.getpid()}-"
        self.hosts = ["coordinator", *range(workers)]
        self.make_network()
        super().__init__(options, workers)

    def __exit__(self, *arguments):
        super().__exit__(*arguments)
        self.remove_network()

    def on(self, host):
        return ["ip", "netns", "exec", f"{self.prefix}{host}"]

    def make_network(self):
        switch = f"{self.prefix}switch"
        ip("netns", "add", switch)
        ip("-n", switch, "link", "add", "switch", "type", "bridge")
        ip("-n", switch, "link", "set", "switch", "up")
        for number, host in enumerate(self.hosts):
            namespace = f"{self.prefix}{host}"
            ip("netns", "add", namespace)
            ip("link", "add", "eth0", "netns", namespace, "type", "veth", "peer", "name", f"port-{host}"[:15], "netns", switch)
            ip("-n", switch, "link", "set", f"port-{host}"[:15], "master", "switch", "up")
            ip("-n", namespace, "addr", "add", f"10.232.0.{number + 1}/24", "dev", "eth0")
            ip("-n", namespace, "link", "set", "eth0", "up")
            ip("-n", namespace, "link", "set", "lo", "up")

    def remove_network(self):
        for host in [*self.hosts, "switch"]:
            ip("netns", "del", f"{self.prefix}{host}", check=False)

    def partition(self, host):
        """From now on no packet leaves or reaches the host; nothing there notices."""
        ip("-n", f"{self.prefix}switch", "link", "set", f"port-{host}"[:15], "down")
