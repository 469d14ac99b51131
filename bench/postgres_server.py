"""A PostgreSQL server on a unix socket in a temporary folder, with its usual durability."""
import os
import pathlib
import shutil
import subprocess
import tempfile

from muster_cluster import wait_for


class PostgresServer:
    def __init__(self):
        # Debian keeps the programs out of PATH, a folder for each version.
        programs = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        if not programs:
            raise RuntimeError("PostgreSQL is missing: apt-get install postgresql")
        self.programs = programs[-1].parent
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="muster-bench-postgres-"))
        self.server = None
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise

    def command(self, program, *arguments):
        # It refuses to run as root.
        user = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"] if os.geteuid() == 0 else []
        return [*user, self.programs / program, *arguments]

    def start(self):
        if os.geteuid() == 0:
            shutil.chown(self.folder, "postgres", "postgres")
        subprocess.run(self.command("initdb", "--auth=trust", "--username=muster", "--encoding=UTF8", "--no-locale", "-D",
                                    self.folder / "data"), check=True, capture_output=True)
        self.server = subprocess.Popen(
            self.command("postgres", "-D", self.folder / "data", "-k", self.folder, "-c", "listen_addresses="),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for("PostgreSQL's start", lambda: subprocess.run(
            [self.programs / "pg_isready", "-q", "-h", self.folder]).returncode == 0, interval=0.1)
        self.url = f"postgresql:///postgres?user=muster&host={self.folder}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.server is not None:
            self.server.terminate()
            self.server.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
