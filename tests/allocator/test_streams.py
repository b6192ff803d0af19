"""AllocateStream: every ask is an Allocate call of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, status_pb2
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from allocator.core.claims import Claim
from allocator.stream_pb2 import EncodedStreamResponse
from allocator.streams import MOST_ASKS, MOST_BYTES, Answering, Streams
from hostport.v1 import allocator_pb2 as pb
from testing.servicekit import Running
from testing.waiting import until

Message = pb.AllocateStreamRequest
Ask = Message.Ask


def port(number: int, request_id: str = "") -> pb.AllocateRequest:
    return pb.AllocateRequest(
        owner=pb.Owner(kind="Pod", namespace="demo", name=f"db-{number}"),
        policy=pb.POLICY_STATIC,
        ports=[pb.PortRequest(container="c", container_port=80, host_port=number)],
        request_id=request_id,
    )


async def test_an_ask_gets_the_answer_of_a_call(service: Running) -> None:
    fine, wrong = port(8080, request_id="r"), pb.AllocateRequest()
    stream = service.stub.AllocateStream()
    await stream.write(Message(asks=[Ask(tag=7, request=fine), Ask(tag=8, request=wrong)]))
    await stream.done_writing()
    answers = {answer.tag: answer async for message in stream for answer in message.answers}

    assert answers[7].response == await service.stub.Allocate(fine)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await service.stub.Allocate(wrong)
    assert answers[8].status == rpc_status.from_call(refused.value)  # type: ignore[arg-type]
    assert sorted(answers) == [7, 8]


def test_what_is_spliced_in_as_bytes_is_the_message_of_the_contract() -> None:
    response, status = pb.AllocateResponse(allocation=pb.Allocation(id="a")), Status(code=5, message="none")
    spliced = EncodedStreamResponse(
        answers=[
            EncodedStreamResponse.Answer(tag=7, response=response.SerializeToString()),
            EncodedStreamResponse.Answer(tag=8, status=status.SerializeToString()),
            EncodedStreamResponse.Answer(response=b""),
        ]
    )
    answer = pb.AllocateStreamResponse.Answer
    told = pb.AllocateStreamResponse(
        answers=[
            answer(tag=7, response=response),
            answer(tag=8, status=status),
            answer(response=pb.AllocateResponse()),
        ]
    )

    assert spliced.SerializeToString() == told.SerializeToString()


async def test_an_ask_whose_time_is_up_is_not_granted(service: Running) -> None:
    stream = service.stub.AllocateStream()
    await stream.write(Message(asks=[Ask(tag=1, timeout=Duration(nanos=1000), request=port(8080))]))
    message = await stream.read()
    assert isinstance(message, pb.AllocateStreamResponse)
    (answer,) = message.answers

    assert (answer.status.code, list(service.engine.ledger.claims)) == (code_pb2.DEADLINE_EXCEEDED, [])
    stream.cancel()


async def test_a_stream_that_is_cancelled_wants_nothing_any_more(service: Running) -> None:
    granted: list[Callable[[], bool]] = []

    def grant(_: Claim, __: object, is_wanted: Callable[[], bool]) -> asyncio.Future[bool]:
        granted.append(is_wanted)
        return asyncio.get_running_loop().create_future()

    setattr(service.journal, "grant", grant)  # noqa: B010 - mypy minds the assignment
    stream = service.stub.AllocateStream()
    await stream.write(Message(asks=[Ask(tag=1, request=port(8080))]))
    await until(lambda: bool(granted) and granted[0]())

    stream.cancel()

    await until(lambda: not granted[0]())


# -- without a network

SLOW, QUICK = pb.AllocateRequest(request_id="slow"), pb.AllocateRequest(request_id="quick")


async def endless(*messages: Message) -> AsyncIterator[Message]:
    for message in messages:
        yield message
    await asyncio.Event().wait()


async def test_an_ask_that_waits_holds_up_no_other() -> None:
    gate = asyncio.Event()
    answers = Streams().answers(
        endless(Message(asks=[Ask(tag=1, request=SLOW), Ask(tag=2, request=QUICK)])), slow(gate)
    )

    assert await tags(answers) == [2]
    gate.set()
    assert await tags(answers) == [1]


async def test_a_stream_that_is_to_finish_gives_the_answers_that_it_owes() -> None:
    gate, streams = asyncio.Event(), Streams()
    answers = streams.answers(endless(Message(asks=[Ask(tag=1, request=SLOW), Ask(tag=2, request=QUICK)])), slow(gate))
    await tags(answers)

    streams.finish()
    gate.set()

    assert await tags(answers) == [1]
    with pytest.raises(StopAsyncIteration):
        await anext(answers)


async def test_a_fault_is_an_answer_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    async def answer(_: pb.AllocateRequest, __: Callable[[], bool]) -> bytes:
        raise ZeroDivisionError

    with caplog.at_level(logging.CRITICAL, logger="allocator.streams"):
        message = await anext(Streams().answers(endless(Message(asks=[Ask(tag=1, request=QUICK)])), answer))

    assert [(each.tag, Status.FromString(each.status).code) for each in message.answers] == [(1, code_pb2.UNKNOWN)]


def slow(gate: asyncio.Event) -> Answering:
    async def answer(request: pb.AllocateRequest, _: Callable[[], bool]) -> pb.AllocateResponse | status_pb2.Status:
        if request == SLOW:
            await gate.wait()
        return b""

    return answer


async def tags(answers: AsyncIterator[EncodedStreamResponse]) -> list[int]:
    return [each.tag for each in (await anext(answers)).answers]


# -- nobody's asks stand before those of others


def many(count: int, first: int = 0) -> Message:
    return Message(asks=[Ask(tag=first + at, request=QUICK) for at in range(count)])


async def test_a_stream_with_many_asks_takes_turns_with_one_that_has_few() -> None:
    begun: list[str] = []

    def answering(name: str) -> Answering:
        async def answer(_: pb.AllocateRequest, __: Callable[[], bool]) -> bytes:
            begun.append(name)
            return b""

        return answer

    streams = Streams()
    flood = asyncio.create_task(tags(streams.answers(endless(many(10_000)), answering("flood"))))
    few = asyncio.create_task(tags(streams.answers(endless(many(3)), answering("few"))))
    await few

    assert begun.count("few") == 3
    assert begun.count("flood") < 300
    flood.cancel()


async def test_no_more_is_read_of_a_stream_that_has_as_many_asks_as_it_may() -> None:
    gate, read = asyncio.Event(), [0]

    async def messages() -> AsyncIterator[Message]:
        while True:
            read[0] += 32
            yield many(32, read[0])

    answers = Streams().answers(messages(), held(gate))
    first = asyncio.create_task(tags(answers))
    await until(lambda: read[0] >= MOST_ASKS)
    for _ in range(100):
        await asyncio.sleep(0)
    assert read[0] == MOST_ASKS

    gate.set()
    await first
    await tags(answers)  # the first answers have been sent now
    await until(lambda: read[0] > MOST_ASKS)


async def test_answers_that_are_not_read_count_by_their_bytes() -> None:
    read, large = [0], pb.AllocateResponse(allocation=pb.Allocation(node="n" * 100_000))

    async def messages() -> AsyncIterator[Message]:
        while True:
            read[0] += 1
            yield many(1, read[0])
            await asyncio.sleep(0)

    async def answer(_: pb.AllocateRequest, __: Callable[[], bool]) -> bytes:
        return large.SerializeToString()

    answers = Streams().answers(messages(), answer)
    await tags(answers)
    for _ in range(1000):
        await asyncio.sleep(0)

    assert MOST_BYTES // 100_000 <= read[0] <= MOST_BYTES // 100_000 + 5


def held(gate: asyncio.Event) -> Answering:
    async def answer(_: pb.AllocateRequest, __: Callable[[], bool]) -> bytes:
        await gate.wait()
        return b""

    return answer
