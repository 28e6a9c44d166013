"""PostgreSQL without set-up: a small supervisor over the programs of a wheel or of the system.

    server      EmbeddedPostgres: start, attach, stop, databases, connection strings
    roles       what the owner does inside it: the application's role, databases
    folder      what lies in the data directory: locks, secrets, the server's own status file
    launch      under which identity PostgreSQL's programs run
    shim        the program that takes that identity on and becomes PostgreSQL
    binaries    where the programs are

Several processes may share one server through its socket. Two locks make that safe: the start lock
is held while somebody starts or stops the server; the server lock is inherited by PostgreSQL and
all its children, so that it is free exactly when no process uses the data any more, whatever was
killed and whoever got its process id.
"""

from paymaster.db.embedded.binaries import PostgresBinaries, find_binaries
from paymaster.db.embedded.failure import EmbeddedPostgresError
from paymaster.db.embedded.server import APP_ROLE, OWNER_ROLE, EmbeddedPostgres

__all__ = [
    "APP_ROLE",
    "OWNER_ROLE",
    "EmbeddedPostgres",
    "EmbeddedPostgresError",
    "PostgresBinaries",
    "find_binaries",
]
