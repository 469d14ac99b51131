"""bench/compare's measurements of the coordinator's scale. The peers' figures are published ones: no peer runs here."""
import os
import pathlib
import subprocess
import tempfile
import time
import urllib.request

from muster_cluster import wait_for

WORKERS = 10_000
JOBS = 100_000
QUEUED = 10_000


def program(options, name):
    found = options.bin.parent / "bench" / name
    if not found.exists():
        raise SystemExit(f"compare: {found} is missing; build the target {name}")
    return found


def measure(command, log):
    """Runs a program that prints "name value" lines; these."""
    with open(log, "a") as errors:
        run = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, stderr=errors, text=True)
    if run.returncode != 0:
        raise RuntimeError(f"{command[0]} failed: {pathlib.Path(log).read_text()[-2000:]}")
    return figures(run.stdout)


def figures(text):
    return {name: float(value) for name, value in (line.split() for line in text.splitlines())}


def disk(folder):
    """Median and 99th percentile of a synced 8 KiB append, in ms: what no commit can beat."""
    times = []
    descriptor = os.open(folder / "disk", os.O_CREAT | os.O_WRONLY)
    for _ in range(300):
        start = time.monotonic()
        os.write(descriptor, b"\1" * 8192)
        os.fdatasync(descriptor)
        times.append((time.monotonic() - start) * 1000)
    os.close(descriptor)
    times.sort()
    return times[150], times[297]


def show_surroundings(folder):
    median, p99 = disk(folder)
    print(f"load average {os.getloadavg()[0]:.1f}; a synced 8 KiB append: median {median:.2f} ms, p99 {p99:.2f} ms")


class Coordinator:
    def __init__(self, options, folder, *flags):
        self.options = options
        self.addresses = folder / "addresses"
        self.addresses.unlink(missing_ok=True)
        self.log = folder / "coordinator.log"
        start = time.monotonic()
        self.process = subprocess.Popen(
            [options.bin / "muster-coordinator", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--store",
             folder / "store.sqlite", "--address-file", self.addresses, *flags],
            stdout=subprocess.DEVNULL, stderr=open(self.log, "a"))
        wait_for("the coordinator's start", lambda: self.process.poll() is not None or (
            self.addresses.exists() and len(self.addresses.read_text().split()) == 2))
        if self.process.poll() is not None:
            raise RuntimeError(f"the coordinator ended: {self.log.read_text()[-2000:]}")
        self.seconds_to_start = time.monotonic() - start
        self.address, self.http = self.addresses.read_text().split()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def cpu_seconds(self):
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_bytes(self, name="VmHWM"):
        for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
        raise RuntimeError(f"no {name}")

    def metric(self, name):
        text = urllib.request.urlopen(f"http://{self.http}/metrics").read().decode()
        for line in text.splitlines():
            if line.startswith(name + " "):
                return float(line.split()[1])
        raise RuntimeError(f"no metric {name}")


def placements(options):
    folder = tempfile.TemporaryDirectory(prefix="muster-bench-")
    path = pathlib.Path(folder.name)
    with folder:
        show_surroundings(path)
        for run in range(options.runs):
            figure = measure([program(options, "placement_rate"), "--store", path / f"store{run}.sqlite"], path / "log")
            print(f"muster, gang placements on one core, 1,000 nodes x 8, gangs of 1-64, {figure['queued']:.0f} queued, SQLite: "
                  f"{figure['placements_per_second']:.0f}/s ({figure['placements_per_cpu_second']:.0f} a CPU second; "
                  f"{figure['commits']:.0f} commits took {figure['commit_seconds']:.1f} s)", flush=True)
    print("target >= 5000/s; published: Slurm 500 jobs/s, Nomad 1,500")


def workers(options):
    seconds = 60
    folder = tempfile.TemporaryDirectory(prefix="muster-bench-")
    path = pathlib.Path(folder.name)
    with folder, Coordinator(options, path) as coordinator:
        show_surroundings(path)
        start = time.monotonic()
        load = subprocess.Popen([program(options, "simulated_workers"), "--coordinator", coordinator.address, "--workers",
                                 str(WORKERS), "--seconds", str(seconds + 2)], stdout=subprocess.PIPE, text=True)
        joined = load.stdout.readline()
        if not joined.startswith("joined"):
            raise RuntimeError("the workers did not join")
        print(f"{WORKERS} workers joined in {time.monotonic() - start:.1f} s", flush=True)
        cpu, start = coordinator.cpu_seconds(), time.monotonic()
        time.sleep(seconds)
        cpu, elapsed = coordinator.cpu_seconds() - cpu, time.monotonic() - start
        losses, ready = coordinator.metric("muster_coordinator_node_losses_total"), coordinator.metric(
            'muster_coordinator_nodes{state="ready"}')
        figure = figures(load.communicate()[0])
        print(f"muster, {WORKERS} workers, each its own connection, {figure['heartbeats'] / (seconds + 2):.0f} heartbeats/s: "
              f"{100 * cpu / elapsed:.1f} % of a core, {coordinator.memory_bytes() / 2**30:.2f} GiB at most, "
              f"{losses:.0f} leases missed, {figure['streams_ended']:.0f} streams ended, {ready:.0f} nodes ready at the end, "
              f"{coordinator.log.read_text().count('unreachable'):d} silences noticed")
        print("target <= 60 % of one core, <= 2 GiB, no missed lease; published: gRPC 12,973 unary calls/s/core")


def jobs(options):
    folder = tempfile.TemporaryDirectory(prefix="muster-bench-")
    path = pathlib.Path(folder.name)
    with folder:
        # Their whole life, so that the store holds what a real one does.
        measure([program(options, "placement_rate"), "--store", path / "store.sqlite", "--jobs", JOBS - QUEUED, "--queued", QUEUED,
                 "--keep-finished", JOBS], path / "log")
        show_surroundings(path)
        with Coordinator(options, path, "--keep-finished", str(2 * JOBS)) as coordinator:
            size = (path / "store.sqlite").stat().st_size
            print(f"muster, store of {size / 2**20:.0f} MiB with {JOBS} jobs: opened and serving after "
                  f"{coordinator.seconds_to_start:.2f} s, {coordinator.memory_bytes() / 2**30:.2f} GiB", flush=True)
            # The workers of the store's nodes: the devices are in use, and the queue waits.
            load = subprocess.Popen([program(options, "simulated_workers"), "--coordinator", coordinator.address, "--workers",
                                     "1000", "--seconds", "100000"], stdout=subprocess.PIPE, text=True)
            try:
                load.stdout.readline()
                figure = measure([program(options, "api_latency"), "--coordinator", coordinator.address], path / "log")
            finally:
                load.kill()
                load.wait()
            for name, what, target in (("list_page", "page of the list", "<= 10 ms"), ("submit", "submission", "<= 20 ms"),
                                       ("list_of_state", "page of jobs in one state", "none"),
                                       ("list_without_match", "page without a match", "none")):
                print(f"muster, {JOBS} jobs, {QUEUED} queued, 1,000 workers: {what}, p99 {figure[name + '_p99_ms']:.2f} ms "
                      f"(median {figure[name + '_median_ms']:.2f}, worst {figure[name + '_max_ms']:.2f}; target {target})")
