"""The connection to the records database, and its schema.

SQLite is opened with a write-ahead log, so that readers (the command line, another worker) never
block the writer; with ``secure_delete``, so that what was deleted is gone from the file; and with
``synchronous=NORMAL``: a killed process loses nothing, a power cut may lose the last commits but
never the file (https://sqlite.org/pragma.html#pragma_synchronous).

The schema has one version number. A database without it gets today's tables; an older one is
brought forward step by step inside one transaction; a newer one is refused.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import event, insert, inspect, select, text, update
from sqlalchemy.engine import URL, Connection, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from flowcat_server.errors import RecordsError
from flowcat_server.records.models import metadata, schema_version

SCHEMA_VERSION = 2

MIGRATIONS: dict[int, Sequence[str]] = {
    2: (
        "ALTER TABLE calls ADD COLUMN status VARCHAR(16) NOT NULL DEFAULT ''",
        "ALTER TABLE calls ADD COLUMN dialled_at BIGINT",
        "ALTER TABLE calls ADD COLUMN answered_by VARCHAR(16) NOT NULL DEFAULT ''",
    ),
}
"""Statements that bring a database from the version before the key to the key; plain SQL that
SQLite and PostgreSQL both take."""

BUSY_TIMEOUT_MS = 5_000
_ASYNC_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
}
_LOCK_KEY = 0x666C6F77
"""Names our lock among PostgreSQL's advisory locks: only one process changes the schema."""


def database_url(database: str, directory: Path) -> URL:
    """The URL of `database`: a URL as it is written, or a file relative to `directory`."""
    if "://" not in database:
        path = (directory / database).absolute()
        return URL.create("sqlite+aiosqlite", database=str(path))
    try:
        url = make_url(database)
    except ArgumentError as error:
        raise RecordsError("records.database is neither a file name nor a database URL") from error
    return url.set(drivername=_ASYNC_DRIVERS.get(url.drivername, url.drivername))


def absolute(directory: Path | str) -> Path:
    """The directory, wherever the process goes later."""
    return Path(directory).absolute()


def shown(url: URL) -> str:
    """The URL for messages, without its password."""
    return url.render_as_string(hide_password=True)


def create_engine(url: URL, *, read_only: bool = False) -> AsyncEngine:
    """An engine for `url`; nothing is connected yet."""
    if url.get_backend_name() == "sqlite":
        return _sqlite_engine(url, read_only=read_only)
    options: dict[str, Any] = {"pool_size": 4, "max_overflow": 4, "pool_timeout": 10}
    if url.drivername == "postgresql+asyncpg":
        options["connect_args"] = {"timeout": 10, "command_timeout": 15}
    try:
        return create_async_engine(url, pool_pre_ping=True, **options)
    except ModuleNotFoundError as error:
        raise RecordsError(
            f"{shown(url)} needs the package {error.name!r}"
            + (": pip install 'flowcat-server[postgres]'" if error.name == "asyncpg" else "")
        ) from error
    except SQLAlchemyError as error:
        raise RecordsError(f"records.database {shown(url)} cannot be used: {error}") from error


def _sqlite_engine(url: URL, *, read_only: bool) -> AsyncEngine:
    path = Path(url.database or ":memory:")
    if read_only:
        if not path.is_file():
            raise RecordsError(f"there is no records database at {path}")
        url = url.set(database=f"file:{quote(str(path))}", query={"mode": "ro", "uri": "true"})
    else:
        _create_private(path)
    engine = create_async_engine(url, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000})

    @event.listens_for(engine.sync_engine, "connect")
    def configure(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
        if not read_only:
            cursor.execute("PRAGMA journal_mode=WAL")
            cursor.execute("PRAGMA synchronous=NORMAL")
            cursor.execute("PRAGMA foreign_keys=ON")
            cursor.execute("PRAGMA secure_delete=ON")
        cursor.close()

    return engine


def _create_private(path: Path) -> None:
    """Create the file readable by its owner only; SQLite gives its log the same mode."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise RecordsError(f"records cannot be written at {path}: {error.strerror}") from error


async def prepare(engine: AsyncEngine) -> None:
    """Create the tables, or bring them to today's version.

    Raises:
        RecordsError: the database cannot be reached, or is of a newer version.
    """
    try:
        async with engine.connect() as connection:
            if engine.dialect.name == "sqlite":
                # Take the write lock before looking: two processes may start at once.
                await connection.execute(text("BEGIN IMMEDIATE"))
            elif engine.dialect.name == "postgresql":
                await connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK_KEY})"))
            await connection.run_sync(_migrate)
            await connection.commit()
    except (DBAPIError, OSError, TimeoutError) as error:
        raise RecordsError(f"records database {shown(engine.url)}: {_reason(error)}") from error


async def check(engine: AsyncEngine) -> None:
    """Look whether the database can be read by this version; changes nothing.

    Raises:
        RecordsError: it cannot.
    """
    try:
        async with engine.connect() as connection:
            found = await connection.run_sync(_version)
    except (DBAPIError, OSError, TimeoutError) as error:
        raise RecordsError(f"records database {shown(engine.url)}: {_reason(error)}") from error
    if found != SCHEMA_VERSION:
        raise RecordsError(
            f"records database {shown(engine.url)} has version {found}, this program reads "
            f"version {SCHEMA_VERSION}"
            + ("; start the server once to bring it forward" if found < SCHEMA_VERSION else "")
        )


def _reason(error: BaseException) -> str:
    original = error.orig if isinstance(error, DBAPIError) else error
    return " ".join(str(original).split()) or type(original).__name__


def _version(connection: Connection) -> int:
    if not inspect(connection).has_table(schema_version.name):
        return 0
    return int(connection.execute(select(schema_version.c.version)).scalar_one())


def _migrate(connection: Connection) -> None:
    found = _version(connection)
    if found > SCHEMA_VERSION:
        raise RecordsError(
            f"records database {shown(connection.engine.url)} was written by a newer version of "
            f"flowcat-server (schema {found}, this one knows {SCHEMA_VERSION})"
        )
    if found == 0:
        metadata.create_all(connection)
        connection.execute(insert(schema_version).values(version=SCHEMA_VERSION))
        return
    for version in range(found + 1, SCHEMA_VERSION + 1):
        for statement in MIGRATIONS[version]:
            connection.execute(text(statement))
        connection.execute(update(schema_version).values(version=version))
