"""A PostgreSQL server for tests and measurements: a fresh data folder, a free port on loopback, gone at the end."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PASSWORD = "s3cret/p@ss:word"  # with what has to be quoted in an address
QUOTED = "s3cret%2Fp%40ss%3Aword"


def programs() -> Path | None:
    """The folder of PostgreSQL's own programs, which Debian keeps out of PATH; none: it is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    path = found[-1] if found else shutil.which("pg_ctl")
    return Path(path).resolve().parent if path else None


class Server:
    """One server, with one user who has a password."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._databases = 0

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        self._run("pg_ctl", "-D", self.folder / "data", "-w", "-l", self.folder / "log", "-o", options, "start")

    def stop(self, mode: str = "immediate") -> None:
        """Stop it: `immediate`, as if the machine had failed, or `fast`."""
        self._run("pg_ctl", "-D", self.folder / "data", "-w", "-m", mode, "stop")

    def init(self) -> None:
        """Make the data folder."""
        (self.folder / "password").write_text(PASSWORD)
        if os.geteuid() == 0:
            shutil.chown(self.folder, "postgres")
            shutil.chown(self.folder / "password", "postgres")
        secret = f"--pwfile={self.folder / 'password'}"
        self._run("initdb", "-D", self.folder / "data", "-A", "scram-sha-256", "-U", "tester", secret, "--no-sync")

    def new_database(self) -> str:
        """The address of an empty database."""
        import psycopg

        self._databases += 1
        name = f"studies{self._databases}"
        with psycopg.connect(
            host="127.0.0.1", port=self.port, user="tester", password=PASSWORD, dbname="postgres", autocommit=True
        ) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return f"postgresql+psycopg://tester:{QUOTED}@127.0.0.1:{self.port}/{name}"

    def _run(self, program: str, *arguments: object) -> None:
        folder = programs()
        assert folder is not None
        # PostgreSQL refuses to run as root.
        user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        subprocess.run(
            [*user, str(folder / program), *map(str, arguments)],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self.folder,
        )


@contextmanager
def server() -> Iterator[Server]:
    """A server that runs until the context ends."""
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:
        made = Server(Path(folder))
        made.init()
        made.start()
        try:
            yield made
        finally:
            made.stop()
