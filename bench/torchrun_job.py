"""Two torchrun agents on loopback, each one node, for bench/compare."""
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile

from muster_cluster import kill, processes


class TorchrunJob:
    def __init__(self, options, nodes="2"):
        self.options = options
        self.nodes = nodes
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="muster-bench-torchrun-"))
        self.events_file = self.folder / "events"
        self.events_file.touch()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.agents = [self.start_agent(index) for index in range(2)]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for agent in self.agents:
            agent.kill()
        kill(processes(str(self.folder)))
        for agent in self.agents:
            agent.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start_agent(self, index):
        script = pathlib.Path(__file__).resolve().parent / "peers/torchrun_bccd.py"
        # Gloo looks the host's name up unless it is told its interface.
        environment = dict(os.environ, OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME="lo", PYTHONDONTWRITEBYTECODE="1")
        return subprocess.Popen(
            [self.options.python, "-m", "torch.distributed.run", f"--nnodes={self.nodes}", "--nproc-per-node=1",
             "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{self.port}", "--rdzv-id=bench", "--local-addr=127.0.0.1",
             "--max-restarts=5", script, "--shared", self.options.shared, "--folder", self.folder, "--index", str(index)],
            env=environment, stdout=subprocess.DEVNULL, stderr=open(self.folder / f"agent{index}.log", "w"))

    def events(self):
        """(monotonic time, node, step) of the first collective of each step, in the order in which they came."""
        found = []
        for line in self.events_file.read_text().splitlines():
            fields = line.split()
            if len(fields) == 3:
                found.append((float(fields[0]), int(fields[1]), int(fields[2])))
        return found

    def trainer(self, node):
        # The agent's command line holds the script's name too, but not as its program.
        return processes(f"--folder {self.folder} --index {node}", without="torch.distributed.run")

    def kill_node(self, node):
        kill([self.agents[node].pid, *self.trainer(node)])
