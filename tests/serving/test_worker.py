"""One thread for everybody: in order, apart from one another, and gone when nobody waits."""

import threading
import time

import pytest

from llmrl.errors import UserError
from llmrl.serving.worker import Done, Tell, Told, Waiting, Worker


def told(worker: Worker, work) -> tuple[list[object], object]:
    said, result = [], None
    for event in worker.stream(work):
        if isinstance(event, Told):
            said.append(event.what)
        elif isinstance(event, Done):
            result = event.result
    return said, result


def test_what_is_told_comes_in_order_and_then_the_result() -> None:
    def work(tell: Tell) -> str:
        for number in range(5):
            tell(number)
        return "end"

    assert told(Worker(), work) == ([0, 1, 2, 3, 4], "end")


def test_everything_is_carried_out_by_one_thread_and_answers_do_not_mix() -> None:
    worker, results, threads = Worker(), {}, set()

    def visit(number: int) -> None:
        def work(tell: Tell) -> int:
            threads.add(threading.get_ident())
            for _ in range(20):
                tell(number)
                time.sleep(0.0005)
            return number

        results[number] = told(worker, work)

    visitors = [threading.Thread(target=visit, args=(number,)) for number in range(20)]
    for each in visitors:
        each.start()
    for each in visitors:
        each.join(20)
    assert results == {number: ([number] * 20, number) for number in range(20)}
    assert len(threads) == 1


def test_closing_the_stream_ends_the_work() -> None:
    worker, steps = Worker(), []

    def work(tell: Tell) -> None:
        for number in range(1000):
            tell(number)
            steps.append(number)
            time.sleep(0.01)

    stream = worker.stream(work)
    assert isinstance(next(stream), Told)
    stream.close()
    assert worker.result(lambda tell: "next") == "next"
    assert len(steps) < 100


def test_work_that_was_cancelled_while_it_waited_is_never_begun() -> None:
    worker, begun, release = Worker(), [], threading.Event()
    first = worker.stream(lambda tell: release.wait(10))
    second = worker.stream(lambda tell: begun.append("second"))
    assert isinstance(next(second), Waiting)
    second.close()
    release.set()
    assert [event for event in first if isinstance(event, Done)]
    assert worker.result(lambda tell: "third") == "third"
    assert begun == []


def test_how_many_are_before_is_told_and_too_many_are_refused() -> None:
    worker, release = Worker(most_waiting=2), threading.Event()
    started = threading.Event()
    first = worker.stream(lambda tell: (started.set(), release.wait(10)))
    assert started.wait(5)
    second, third = worker.stream(lambda tell: None), worker.stream(lambda tell: None)
    assert next(second) == Waiting(1)
    assert next(third) == Waiting(2)
    with pytest.raises(UserError, match="2 requests are waiting already"):
        worker.stream(lambda tell: None)
    release.set()
    for stream in (first, second, third):
        assert isinstance(list(stream)[-1], Done)


def test_an_error_is_the_visitors_and_the_next_is_served() -> None:
    worker = Worker()

    def fail(tell: Tell) -> None:
        raise UserError("no such model")

    with pytest.raises(UserError, match="no such model"):
        worker.result(fail)
    assert worker.result(lambda tell: 1) == 1


def test_long_work_lets_short_work_through_and_no_other_long_work() -> None:
    """One at a time, and none that nobody waits for any more."""
    worker, order, waiting = Worker(), [], threading.Event()

    def long(name: str):
        def work(tell: Tell) -> None:
            waiting.wait(5)
            for step in range(2):
                order.append(f"{name} {step}")
                tell.let_others()

        return work

    def short(name: str):
        def work(tell: Tell) -> None:
            order.append(name)
            tell.let_others()

        return work

    first, second = worker.stream(long("a"), long=True), worker.stream(long("b"), long=True)
    gone = worker.stream(short("gone"))
    assert isinstance(next(gone), Waiting)
    gone.close()
    others = [worker.stream(short("c")), worker.stream(short("d")), worker.stream(short("e"))]
    waiting.set()
    for stream in (first, second, *others):
        assert isinstance(list(stream)[-1], Done)
    assert order == ["a 0", "c", "a 1", "d", "b 0", "e", "b 1"]
