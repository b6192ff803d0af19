"""Asks that share a stream, and what becomes of them when it cannot be had. An allocator that does not know the stream
answers in test_shim_client.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import NoReturn

import grpc
import pytest
from google.rpc import code_pb2
from standin import Context, StandIn, Streaming, serving
from test_shim_client import NOW, Outcome, connected

from hostport.v1.allocator_pb2 import (
    AllocateRequest,
    AllocateResponse,
    AllocateStreamRequest,
    AllocateStreamResponse,
    Allocation,
)
from shim.client import LARGEST_ASK
from shim.outcomes import Unreachable

Asks = AsyncIterator[AllocateStreamRequest]
Answers = AsyncIterator[AllocateStreamResponse]


def response(request: AllocateRequest) -> AllocateResponse:
    return AllocateResponse(allocation=Allocation(id=request.request_id))


async def answering(asks: Asks, _: Context) -> Answers:
    async for message in asks:
        yield AllocateStreamResponse(
            answers=[AllocateStreamResponse.Answer(tag=ask.tag, response=response(ask.request)) for ask in message.asks]
        )


async def breaking(asks: Asks, context: Context) -> Answers:
    await anext(asks)
    await context.abort(grpc.StatusCode.UNAVAILABLE, "going away")
    yield AllocateStreamResponse()


async def ending(asks: Asks, _: Context) -> Answers:
    await anext(asks)
    return
    yield


async def unavailable(asks: Asks, _: Context) -> Answers:
    async for message in asks:
        for ask in message.asks:
            answer = AllocateStreamResponse.Answer(tag=ask.tag)
            answer.status.code = code_pb2.UNAVAILABLE
            yield AllocateStreamResponse(answers=[answer])


async def silent(asks: Asks, _: Context) -> Answers:
    async for _message in asks:
        pass
    yield AllocateStreamResponse()


async def never(_: AllocateRequest, __: Context) -> NoReturn:
    raise AssertionError("asked by a call of its own")


async def ask(servicer: StandIn, *requests: AllocateRequest, patience: float = 5.0) -> list[Outcome]:
    async with serving(servicer) as address, connected(address) as client:
        deadline = NOW().time() + patience
        return await asyncio.gather(*(client.allocate(request, deadline=deadline) for request in requests))


async def test_asks_that_gather_travel_together() -> None:
    messages = []

    async def stream(asks: Asks, context: Context) -> Answers:
        async def counted() -> Asks:
            async for message in asks:
                messages.append(len(message.asks))
                yield message

        async for answers in answering(counted(), context):
            yield answers

    requests = [AllocateRequest(request_id=f"r{number}") for number in range(100)]
    outcomes = await ask(StandIn(never, stream=stream), *requests)

    assert outcomes == [response(request) for request in requests]
    assert (sum(messages), max(messages)) == (100, 32)


@pytest.mark.parametrize("stream", [breaking, ending, unavailable])
async def test_what_a_stream_leaves_open_is_asked_by_a_call_with_the_same_id(stream: Streaming) -> None:
    servicer = StandIn(stream=stream)
    outcomes = await ask(servicer, AllocateRequest(request_id="r"))

    assert [type(outcome) for outcome in outcomes] == [AllocateResponse]
    assert [request.request_id for request in servicer.asked] == ["r"]


async def test_a_large_ask_goes_by_itself() -> None:
    servicer = StandIn(stream=silent)
    await ask(servicer, AllocateRequest(request_id="x" * LARGEST_ASK))

    assert len(servicer.asked) == 1


async def test_a_stream_that_is_silent_is_given_up_at_the_deadline() -> None:
    (outcome,) = await ask(StandIn(never, stream=silent), AllocateRequest(), patience=0.3)

    assert isinstance(outcome, Unreachable)
    assert "DEADLINE_EXCEEDED" in outcome.message
