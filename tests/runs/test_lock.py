"""One process at a time trains in a bucket, a dead one is none, and one that slept is stopped."""

import json
import threading
import time

import pytest

from recalign.errors import UserError
from recalign.files import locate
from recalign.runs import lock
from recalign.runs.lock import find_holder, lock_folder
from tests.buckets import muting, refusing

FOLDER = locate("gs://bucket/run")


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(lock, "LEASE", 1.2)
    monkeypatch.setattr(lock, "BEAT", 0.25)


@pytest.fixture
def dead(bucket):
    """The lease of a process that was killed."""
    content = json.dumps({"holder": "process 7 on elsewhere", "token": "x"})
    bucket.write("run/.lock-4", content.encode())


def test_one_at_a_time_for_as_long_as_it_likes(bucket):
    with lock_folder(FOLDER) as check:
        time.sleep(lock.LEASE)
        assert find_holder(FOLDER).startswith("process ")
        with pytest.raises(UserError, match=r"gs://bucket/run: another process trains here \(proc"):
            lock_folder(FOLDER).__enter__()
        check()
    assert find_holder(FOLDER) is None
    with lock_folder(FOLDER):
        pass
    assert bucket.names() == ["run/.lock-2"]


def test_a_dead_process_is_waited_for_and_is_none(dead, bucket, caplog):
    begin = time.monotonic()
    with lock_folder(FOLDER) as check:
        assert time.monotonic() - begin >= lock.LEASE
        check()
        assert bucket.names() == ["run/.lock-5"]
    assert "another process (process 7 on elsewhere) trains here, or was killed" in caplog.text


def test_of_two_that_wait_for_a_dead_one_one_trains(dead, bucket):
    ended, won, told = threading.Event(), [], []

    def contend():
        try:
            with lock_folder(FOLDER):
                won.append(1)
                ended.wait(30)
        except UserError as error:
            told.append(str(error))

    threads = [threading.Thread(target=contend) for _ in range(2)]
    for thread in threads:
        thread.start()
    while len(won) + len(told) < 2 and any(thread.is_alive() for thread in threads):
        time.sleep(0.05)
    ended.set()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert "another process trains here" in told[0]


def test_one_that_slept_is_stopped_and_leaves_the_other_alone(bucket, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 1000.0)
    with lock_folder(FOLDER) as check:
        monkeypatch.setattr(lock, "BEAT", 0.25)
        with lock_folder(FOLDER) as other:
            with pytest.raises(UserError, match="gave no sign of life for 1 seconds"):
                check()
            other()
            lease = bucket.read("run/.lock-2")
    assert bucket.names() == ["run/.lock-2"]
    assert lease


def at_upload(bucket, name, act):
    """A fault: just before an object is written something else happens, once."""
    todo = [act]

    def fault(request):
        if request.is_upload and request.object == name and todo:
            todo.pop()()
        return False

    return bucket.failing(fault)


OTHER = json.dumps({"holder": "process 9 on elsewhere", "token": "y"}).encode()


def test_one_that_is_taken_over_as_it_wakes_up_is_stopped(bucket, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 1000.0)
    with (
        lock_folder(FOLDER) as check,
        at_upload(bucket, "run/.lock-1", lambda: bucket.write("run/.lock-2", OTHER)),
    ):
        time.sleep(lock.LEASE / 2 + 0.1)
        with pytest.raises(UserError, match=r"another one trains here by now \(process 9 on"):
            check()
    assert bucket.names() == ["run/.lock-2"]


def test_one_that_wakes_up_as_it_is_taken_over_is_left_alone(dead, bucket):
    with (
        at_upload(bucket, "run/.lock-5", lambda: bucket.write("run/.lock-4", OTHER)),
        pytest.raises(UserError, match=r"another process trains here \(process 9 on elsewhere\)"),
        lock_folder(FOLDER),
    ):
        pass
    assert bucket.names() == ["run/.lock-4"]


def test_one_that_comes_late_leaves_the_one_that_was_faster_alone(bucket):
    with (
        at_upload(bucket, "run/.lock-1", lambda: bucket.write("run/.lock-2", OTHER)),
        pytest.raises(UserError, match=r"another process trains here \(process 9 on elsewhere\)"),
        lock_folder(FOLDER),
    ):
        pass
    assert bucket.names() == ["run/.lock-2"]


def test_a_bucket_that_falters_loses_no_lease(bucket):
    with bucket.failing(muting(1)), lock_folder(FOLDER) as check:
        with bucket.failing(refusing(3)) as struck:
            time.sleep(lock.LEASE)
        assert len(struck) == 3
        check()


def test_a_bucket_that_is_gone_stops_the_training(bucket):
    with lock_folder(FOLDER) as check, bucket.failing(refusing(10**6, 403)):
        time.sleep(lock.LEASE / 2 + 0.5)
        with pytest.raises(UserError, match=r"could not be written to for \d seconds \(Forb"):
            check()


def test_a_bucket_that_is_not_ours_is_told(bucket):
    with (
        bucket.failing(refusing(10**6, 403)),
        pytest.raises(
            UserError, match="MODEL_DIR is gs://bucket/run, where no run can be written: Forb"
        ),
        lock_folder(FOLDER),
    ):
        pass


def test_what_is_no_bucket_is_told(bucket):
    """Google's interface says no more than the path that it was asked for."""
    wrong = "MODEL_DIR is gs://none/run, where no run can be written: there is no such bucket"
    with pytest.raises(UserError, match=wrong), lock_folder(locate("gs://none/run")):
        pass


def test_leases_that_may_not_be_removed_are_told(dead, bucket):
    removals = refusing(10**6, 401, lambda request: request.command == "DELETE")
    with (
        bucket.failing(removals),
        pytest.raises(UserError, match="where no run can be written: "),
        lock_folder(FOLDER),
    ):
        pass
