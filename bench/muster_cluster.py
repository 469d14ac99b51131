"""A coordinator and workers on loopback, as real processes, for bench/compare."""
import datetime
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time

PATIENCE = 180  # seconds that anything may take


def wait_for(what, condition, patience=PATIENCE, interval=0.002):
    """The first true value of condition(); looks every 2 ms, which is the resolution of what is measured."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(interval)
    raise TimeoutError(f"{what} did not happen within {patience} s")


def processes(*needles, without=None, environment=()):
    """Pids whose command line holds all `needles` but not `without`, and whose environment holds all of `environment`."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if not all(needle in command for needle in needles) or (without is not None and without in command):
                continue
            variables = (entry / "environ").read_bytes().decode(errors="replace").split("\0")
            if all(variable in variables for variable in environment):
                found.append(int(entry.name))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def kill(pids):
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


class MusterCluster:
    listen = "127.0.0.1:0"
    coordinator_flags = ()
    environment = {}  # of `muster`

    def __init__(self, options, workers=2, worker_flags=None):
        """`worker_flags`: more flags, by the worker's number."""
        self.options = options
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="muster-bench-"))
        self.worker_flags = worker_flags or {}
        self.workers = {}
        self.coordinator = None
        try:
            self.prepare()
            self.start_coordinator(self.listen, "127.0.0.1:0")
            for index in range(workers):
                self.start_worker(index)
            wait_for("the workers' joining", lambda: len(self.ready_nodes()) == workers, interval=0.1)
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in filter(None, [*self.workers.values(), self.coordinator]):
            process.kill()
            process.wait()
        kill(processes(str(self.folder)))
        shutil.rmtree(self.folder, ignore_errors=True)

    def prepare(self):
        """Whatever must be in self.folder before the coordinator starts."""

    def worker_environment(self):
        return {}

    def on(self, host):
        """The beginning of a command line that runs on that host: "coordinator", or the number of a worker."""
        return []

    def start_coordinator(self, listen, http):
        addresses = self.folder / "addresses"
        addresses.unlink(missing_ok=True)
        self.coordinator = subprocess.Popen(
            [*self.on("coordinator"), self.options.bin / "muster-coordinator", "--listen", listen, "--http", http,
             "--store", self.folder / "store.sqlite", "--address-file", addresses, *self.coordinator_flags],
            stdout=subprocess.DEVNULL, stderr=open(self.folder / "coordinator.log", "a"))
        wait_for("the coordinator's start", lambda: addresses.exists() and len(addresses.read_text().split()) == 2)
        self.address, self.http = addresses.read_text().split()

    def start_worker(self, index):
        self.workers[index] = subprocess.Popen(
            [*self.on(index), self.options.bin / "muster-worker", "--coordinator", self.address, "--name", f"w{index}",
             "--slots", "1", "--state-dir", self.folder / f"w{index}", "--data-root", self.options.shared / "data",
             *self.worker_flags.get(index, ())],
            env={**os.environ, **self.worker_environment()}, stdout=subprocess.DEVNULL, stderr=open(self.folder / f"w{index}.log", "a"))

    def muster(self, *arguments):
        run = subprocess.run([*self.on("coordinator"), self.options.bin / "muster", "--coordinator", self.address, *arguments],
                             env={**os.environ, **self.environment}, capture_output=True, text=True, timeout=PATIENCE)
        if run.returncode != 0:
            raise RuntimeError(f"muster {' '.join(map(str, arguments))}: {run.stderr}")
        return run.stdout

    def ready_nodes(self):
        try:
            lines = self.muster("nodes", "--json").splitlines()  # a node a line
        except RuntimeError:
            return []
        return [node for node in map(json.loads, lines) if node.get("state") == "STATE_READY"]

    def submit(self, *settings):
        arguments = [item for setting in settings for item in ("--set", setting)]
        return self.muster("submit", self.options.root / "configs/quick/bccd.textproto", *arguments).strip()

    def steps(self):
        """Of each output folder: the steps that rank 0 has recorded there, in order."""
        steps = {}
        for file in self.folder.glob("w*/jobs/*/output/metrics.jsonl"):
            lines = file.read_text().splitlines()
            steps[file] = [json.loads(line)["step"] for line in lines
                           if line.startswith('{"mode":"train"') and line.endswith("}")]
        return steps

    def newest_step(self):
        return max((steps[-1] for steps in self.steps().values() if steps), default=0)

    def first_step(self, generation):
        """When the generation's first step ended (seconds since 1970), as rank 0 logs it; None before."""
        for log in self.folder.glob(f"w*/jobs/*/generations/{generation}/rank-0/stderr.log"):
            for line in log.read_text().splitlines():
                if "first step is done" in line:
                    time_of_line = datetime.datetime.fromisoformat(line.split()[1].replace("Z", "+00:00"))
                    return time_of_line.timestamp()
        return None

    def trainer(self, rank):
        """Pids of the rank's trainer, without its shim."""
        return processes("muster-trainer train", str(self.folder), without=" shim ", environment=(f"RANK={rank}",))

    def kill_node(self, index):
        """The daemon, its shims and trainers at once: what a power loss leaves."""
        self.workers[index].kill()
        kill(processes(f"{self.folder}/w{index}/"))
        self.workers[index].wait()
