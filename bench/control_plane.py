"""bench/compare's measurements of the control plane."""
import datetime
import json
import os
import signal
import statistics
import time

from muster_cluster import MusterCluster, kill, wait_for
from torchrun_job import TorchrunJob

# Neither evaluation nor the end of the job comes into the way; a checkpoint every 5 steps, as the peer's.
ENDLESS = ("schedule.epochs=1000", "schedule.step_epochs=[]", "evaluation.every_epochs=0", "checkpointing.every_steps=5")
ELASTIC = ("resources.min_nodes=1",)
STEPS_BEFORE = 12


def show(name, seconds):
    each = ", ".join(f"{value:.2f}" for value in seconds)
    print(f"{name:58} {statistics.median(seconds):8.2f} s   ({each})", flush=True)
    return statistics.median(seconds)


def muster_after(cluster, act):
    """Seconds from act() to the end of the next generation's first step. Its first collective came before, so this is more
    than what is asked; the peer's is taken at the collective."""
    wait_for("training", lambda: cluster.newest_step() >= STEPS_BEFORE)
    start = time.time()
    act()
    return wait_for("the next generation's first step", lambda: cluster.first_step(generation=2)) - start


def torchrun_after(job, act):
    wait_for("the peer's training", lambda: any(step >= STEPS_BEFORE for _, _, step in job.events()))
    start = time.monotonic()
    act()
    # What was under way when the kill came may still be written; a new run begins at a checkpoint again.
    seen = max(step for _, _, step in job.events())
    event = wait_for("the peer's next collective", lambda: next(
        (event for event in job.events() if event[0] > start + 0.05 and event[2] <= seen), None), patience=900)
    return event[0] - start


def muster_rank_killed(options):
    with MusterCluster(options) as cluster:
        cluster.submit(*ENDLESS)
        return muster_after(cluster, lambda: kill(cluster.trainer(1)))


def muster_node_killed(options):
    with MusterCluster(options) as cluster:
        cluster.submit(*ENDLESS, *ELASTIC)
        return muster_after(cluster, lambda: cluster.kill_node(1))


def torchrun_rank_killed(options):
    with TorchrunJob(options) as job:
        return torchrun_after(job, lambda: kill(job.trainer(1)))


def torchrun_node_killed(options):
    with TorchrunJob(options, nodes="1:2") as job:
        # The first node holds the rendezvous.
        return torchrun_after(job, lambda: job.kill_node(1))


def runs(options, measure):
    return [measure(options) for _ in range(options.runs)]


def compare(options, name, muster, peer):
    """The ratio peer / ours, or None when one of them was left out."""
    ours = show(f"muster, {name}", runs(options, muster)) if options.only != "peer" else None
    theirs = show(f"torchrun, {name}", runs(options, peer)) if options.only != "muster" else None
    return theirs / ours if ours and theirs else None


def recovery(options):
    ratios = {
        "rank_killed_ratio": compare(options, "a rank killed, to the next collective", muster_rank_killed,
                                     torchrun_rank_killed),
        "node_killed_ratio": compare(options, "a node of 1:2 killed, to the survivor's next one", muster_node_killed,
                                     torchrun_node_killed),
    }
    for name, ratio in ratios.items():
        print(f"{name} {ratio:.2f}" if ratio is not None else f"{name} not measured")


def submit(options):
    def muster(_):
        with MusterCluster(options) as cluster:
            start = time.time()
            cluster.submit(*ENDLESS)
            return wait_for("the first step", lambda: cluster.first_step(generation=1)) - start

    def torchrun(_):
        start = time.monotonic()
        with TorchrunJob(options) as job:
            return wait_for("the peer's first collective", job.events)[0][0] - start

    ratio = compare(options, "submission to the first collective", muster, torchrun)
    print(f"submit_ratio {ratio:.2f}" if ratio is not None else "submit_ratio not measured")


def coordinator_restart(options):
    def muster(_):
        with MusterCluster(options) as cluster:
            cluster.submit(*ENDLESS)
            wait_for("training", lambda: cluster.newest_step() >= STEPS_BEFORE)
            cluster.coordinator.kill()
            cluster.coordinator.wait()
            cluster.start_coordinator(cluster.address, cluster.http)
            start = time.monotonic()
            wait_for("the workers' return", lambda: len(cluster.ready_nodes()) == 2)
            attached = time.monotonic() - start
            step = cluster.newest_step()
            wait_for("training", lambda: cluster.newest_step() >= step + STEPS_BEFORE)
            for steps in cluster.steps().values():
                # A step that was done again or left out would show here.
                if steps != list(range(1, len(steps) + 1)):
                    raise RuntimeError(f"steps were lost: {steps}")
            return attached

    show("muster, all workers re-attached after the restart, 0 steps lost", runs(options, muster))


def hang(options):
    def muster(_):
        with MusterCluster(options) as cluster:
            job = cluster.submit(*ENDLESS)
            # By then the coordinator knows how long its steps take.
            wait_for("training", lambda: cluster.newest_step() >= 2 * STEPS_BEFORE)
            start = time.time()
            for pid in cluster.trainer(1):
                os.kill(pid, signal.SIGSTOP)
            events = wait_for("the culprit's name", lambda: [
                event for event in map(json.loads, cluster.muster("events", "--job", job, "--json").splitlines())
                if event["type"] == "Hang"], interval=0.2)
            print(f"  {events[0]['message']}", flush=True)
            if "rank 1 on " not in events[0]["message"] or "state T" not in events[0]["message"]:
                raise RuntimeError("not the rank that was stopped")
            return datetime.datetime.fromisoformat(events[0]["time"].replace("Z", "+00:00")).timestamp() - start

    show("muster, a rank stopped (SIGSTOP), to the event that names it", runs(options, muster))
