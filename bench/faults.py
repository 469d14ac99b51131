"""bench/compare's measurements of faults that no peer goes through here."""
import json
import os
import pathlib
import subprocess
import tempfile
import threading
import time

from control_plane import ELASTIC, ENDLESS, STEPS_BEFORE, runs, show
from hosts import HostsCluster
from muster_cluster import MusterCluster, wait_for
from postgres_server import PostgresServer
from scheduled_events import ScheduledEvents



def partition(options):
    def muster(_):
        with HostsCluster(options) as cluster:
            cluster.submit(*ENDLESS, *ELASTIC)
            wait_for("training", lambda: cluster.newest_step() >= STEPS_BEFORE)
            start = time.time()
            cluster.partition(1)
            return wait_for("the next generation's first step", lambda: cluster.first_step(generation=2)) - start

    show("muster, a node of 1:2 partitioned away, to the re-formed job's first step", runs(options, muster))
    print("target <= 6 s; torchrun (published, not run here): the NCCL watchdog ends the job after up to 600 s")


def preempt_notice(options):
    def muster(_):
        with ScheduledEvents("bench-vm") as azure:
            flags = {1: ("--scheduled-events", azure.url, "--vm-name", "bench-vm")}
            with MusterCluster(options, worker_flags=flags) as cluster:
                # No checkpoint but the one that the notice asks for.
                job = cluster.submit(*ENDLESS[:-1], "checkpointing.every_steps=0")
                wait_for("training", lambda: cluster.newest_step() >= STEPS_BEFORE)
                start = time.time()
                azure.preempt()
                # Each node writes it under another name, syncs it and renames it.
                wait_for("the checkpoints", lambda: len(list(cluster.folder.glob("w*/jobs/*/output/step_*.pth"))) == 2)
                seconds = time.time() - start
                wait_for("the coordinator's record of it", lambda: "newestCheckpoint" in json.loads(
                    cluster.muster("describe", job, "--json")), interval=0.1)
                wait_for("the approval", lambda: azure.approved)
                return seconds

    show("muster, Preempt notice to the durable checkpoint on every node", runs(options, muster))
    print("target <= 10 s; no peer does it (Azure gives 30 s)")


class Submitter(threading.Thread):
    """Submits one job after the other at whichever coordinator answers, and notes when each was acknowledged."""

    def __init__(self, options, addresses):
        super().__init__(daemon=True)
        self.options = options
        self.environment = dict(os.environ, MUSTER_COORDINATOR=",".join(addresses))
        self.acknowledged = {}
        self.over = threading.Event()
        self.start()

    def run(self):
        while not self.over.is_set():
            run = subprocess.run([self.options.bin / "muster", "submit", self.options.root / "configs/quick/bccd.textproto"],
                                 env=self.environment, capture_output=True, text=True)
            if run.returncode == 0:
                self.acknowledged[run.stdout.strip()] = time.monotonic()

    def stop(self):
        self.over.set()
        self.join()

    def first_after(self, moment):
        return next((at for at in list(self.acknowledged.values()) if at > moment), None)


class StandbyPair:
    """Two coordinators over one database: the first leads."""

    def __init__(self, options, url):
        self.folder = tempfile.TemporaryDirectory(prefix="muster-bench-standby-")
        self.processes = []
        self.logs = []
        self.addresses = []
        for name, awaited in (("a", "listening on"), ("b", "standing by")):
            log = pathlib.Path(self.folder.name) / name
            port = 20000 + os.getpid() % 10000 + len(self.processes)
            self.addresses.append(f"127.0.0.1:{port}")
            self.processes.append(subprocess.Popen(
                [options.bin / "muster-coordinator", "--listen", self.addresses[-1], "--http", "127.0.0.1:0", "--store", url],
                stdout=open(log, "w"), stderr=subprocess.DEVNULL))
            wait_for(f"coordinator {name}'s start", lambda: awaited in log.read_text(), interval=0.05)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.wait()
        self.folder.cleanup()


def standby(options):
    lost = []

    def muster(_):
        with PostgresServer() as database, StandbyPair(options, database.url) as pair:
            submitter = Submitter(options, pair.addresses)
            wait_for("submissions", lambda: len(submitter.acknowledged) >= 20)
            start = time.monotonic()
            pair.processes[0].kill()
            first = wait_for("the standby's first answer", lambda: submitter.first_after(start + 0.5))
            time.sleep(0.5)
            submitter.stop()
            listed = subprocess.run([options.bin / "muster", "--coordinator", pair.addresses[1], "list", "--limit", "1000", "--json"],
                                    capture_output=True, text=True, check=True).stdout
            names = {json.loads(line)["name"] for line in listed.splitlines()}
            lost.extend(name for name in submitter.acknowledged if name not in names)
            return first - start

    show("muster, leader killed to the standby's first acknowledged submission", runs(options, muster))
    print(f"acknowledged submissions lost {len(lost)}")
    print("target <= 5 s, none lost")
    if lost:
        raise RuntimeError(f"lost: {lost}")
