"""A coordinator and workers on hosts of their own, which are network namespaces on one switch. Needs root."""
import os
import shutil
import subprocess

from muster_cluster import MusterCluster


def ip(*arguments, check=True):
    subprocess.run(["ip", *map(str, arguments)], check=check, capture_output=True, text=True)


class HostsCluster(MusterCluster):
    listen = "10.232.0.1:7070"

    def __init__(self, options, workers=2):
        if shutil.which("openssl") is None:
            raise SystemExit("compare: openssl is missing, which makes the coordinator's certificate; scripts/setup installs it")
        self.prefix = f"muster-bench-{os.getpid()}-"
        self.hosts = ["coordinator", *range(workers)]
        self.make_network()
        super().__init__(options, workers)

    def __exit__(self, *arguments):
        super().__exit__(*arguments)
        self.remove_network()

    def prepare(self):
        # Its own CA: nobody else has one.
        certificate, key = self.folder / "coordinator.pem", self.folder / "coordinator.key"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=bench",
                        "-addext", "subjectAltName=IP:10.232.0.1", "-keyout", key, "-out", certificate],
                       check=True, capture_output=True)
        token = subprocess.run([self.options.bin / "muster-coordinator", "create-token", "--store", self.folder / "store.sqlite",
                                "--user", "bench"], check=True, capture_output=True, text=True).stdout.strip()
        self.coordinator_flags = ("--tls-cert", certificate, "--tls-key", key)
        self.environment = {"MUSTER_TLS_CA": str(certificate), "MUSTER_TOKEN": token}

    def worker_environment(self):
        return {"MUSTER_TLS_CA": self.environment["MUSTER_TLS_CA"],
                "MUSTER_JOIN_TOKEN": self.muster("node-token", "create").strip()}

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
