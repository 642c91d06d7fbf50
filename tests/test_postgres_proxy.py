"""The proxy before PostgreSQL cuts exactly where it says, and a standby has what it says."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.end_to_end.processes import free_port
from tests.postgres_proxy import Proxy
from tests.postgres_server import Server, Standby

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg import Connection


@pytest.fixture
def proxy(postgres: Server) -> Iterator[Proxy]:
    """A proxy before the tests' server, with an empty table behind it."""
    postgres.run("drop table if exists cut", "create table cut (n int)")
    with Proxy(postgres.port) as made:
        yield made
    postgres.run("drop table cut")


def connected(proxy: Proxy) -> Connection[tuple[object, ...]]:
    """Connects through a proxy."""
    return psycopg.connect(f"postgresql://startflow@127.0.0.1:{proxy.port}/postgres", autocommit=True)


@pytest.mark.parametrize(("how", "rows"), [("before", 0), ("after", 1)])
def test_a_cut_is_before_or_after_the_commit(proxy: Proxy, postgres: Server, how: str, rows: int) -> None:
    """The client loses its connection both times, and cannot tell which it was."""
    with connected(proxy) as conn:
        conn.execute("begin")
        conn.execute("insert into cut values (%s)", (1,))
        proxy.cut(how)
        with pytest.raises(psycopg.OperationalError):
            conn.execute("insert into cut select 2 where false; commit")

        assert conn.broken
    assert [(rows,)] == postgres.run("select count(*) from cut")
    assert [how] == [each.how for each in proxy.cuts]


def test_a_frozen_process_commits_after_its_client_has_gone(proxy: Proxy, postgres: Server) -> None:
    """Until then it holds its locks: whoever needs one of its rows waits for it."""
    postgres.run("insert into cut values (0)")
    with connected(proxy) as conn:
        conn.execute("begin")
        conn.execute("update cut set n = n + 1")
        proxy.cut("frozen", 60)
        with pytest.raises(psycopg.OperationalError):
            conn.execute("commit")

    assert [(0,)] == postgres.run("select n from cut")
    proxy.thaw()
    assert [(2,)] == postgres.run("update cut set n = n + 1 returning n")


def test_an_answer_is_held(proxy: Proxy, postgres: Server) -> None:
    """The server has committed meanwhile."""
    with connected(proxy) as conn:
        conn.execute("begin")
        conn.execute("insert into cut values (1)")
        proxy.cut("held", 0.3)
        committing = threading.Thread(target=conn.execute, args=("commit",))
        committing.start()
        proxy.has_cut.wait()
        while [(1,)] != postgres.run("select count(*) from cut"):
            pass
        committing.join()

        assert [(1,)] == conn.execute("select n from cut").fetchall()


def test_a_cut_waits_for_the_commit_that_it_is_for(proxy: Proxy, postgres: Server) -> None:
    """Others pass through; so does what only speaks of a commit."""
    with connected(proxy) as conn, connected(proxy) as other:
        proxy.cut("before", matching=lambda message: "values (7)" in message)
        other.execute("begin; insert into cut values (1); commit")
        other.execute("select 'commit', 'values (7)'")
        with pytest.raises(psycopg.OperationalError):
            conn.execute("begin; insert into cut values (7); commit")

    assert [(1,)] == postgres.run("select n from cut")


@pytest.mark.longer  # tests/test_promoted.py has the same with a gateway on them
def test_a_server_that_was_killed_starts_again_and_a_standby_takes_over() -> None:
    """A synchronous standby has everything that was committed, one that was paused what was committed before."""
    server = Server(free_port())
    server.start()
    server.run("create table kept (n int)")
    standby = Standby(server, free_port())
    standby.follow()
    standby.synchronise()
    server.run("insert into kept values (1)")
    server.kill()
    server.start()
    standby.synchronise(on=False)
    while [(1,)] != server.run("select count(*) from pg_stat_replication"):
        pass
    standby.pause()
    server.run("insert into kept values (2)")
    server.kill()
    standby.promote()

    assert [(1,), (3,)] == standby.run("insert into kept values (3)", "select n from kept order by n")
    server.stop()
    standby.stop()
