"""pipecat as its own examples put it on this wire: FastAPI, its Twilio serializer, a pipeline.

    python pipecat_twilio.py PORT [lean]

Run by an environment of its own (`bench.wire.venv`). Between its transport's two ends stand four
stages that pass frames on and one that says the caller's audio back: with both ends that makes
seven. As it comes, or `lean`: without turn tracking, the RTVI protocol and inserted silence. Both
at 8 kHz, so that nothing is resampled, with output in pieces of 20 ms and logging off.
"""

from __future__ import annotations

import sys

import uvicorn
from fastapi import FastAPI, WebSocket
from loguru import logger
from pipecat.frames.frames import Frame, InputAudioRawFrame, OutputAudioRawFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.runner.utils import parse_telephony_websocket
from pipecat.serializers.twilio import TwilioFrameSerializer
from pipecat.transports.websocket.fastapi import FastAPIWebsocketParams, FastAPIWebsocketTransport
from pipecat.workers.runner import WorkerRunner

LEAN = "lean" in sys.argv[2:]
STAGES = 7


class Pass(FrameProcessor):
    """Does nothing with a frame but pass it on."""

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        await self.push_frame(frame, direction)


class Repeat(FrameProcessor):
    """The caller's audio becomes the agent's."""

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, InputAudioRawFrame):
            frame = OutputAudioRawFrame(frame.audio, frame.sample_rate, frame.num_channels)
        await self.push_frame(frame, direction)


app = FastAPI()


@app.websocket("/media")
async def media(websocket: WebSocket) -> None:
    """One call."""
    await websocket.accept()
    _, data = await parse_telephony_websocket(websocket)
    serializer = TwilioFrameSerializer(
        stream_sid=data["stream_id"],
        call_sid=data["call_id"],
        params=TwilioFrameSerializer.InputParams(auto_hang_up=False),
    )
    transport = FastAPIWebsocketTransport(
        websocket=websocket,
        params=FastAPIWebsocketParams(
            audio_in_enabled=True,
            audio_out_enabled=True,
            audio_out_10ms_chunks=2,
            audio_out_auto_silence=not LEAN,
            add_wav_header=False,
            serializer=serializer,
        ),
    )
    passing = [Pass() for _ in range(STAGES - 3)]
    stages = [transport.input(), *passing, Repeat(), transport.output()]
    worker = PipelineWorker(
        Pipeline(stages),
        params=PipelineParams(audio_in_sample_rate=8000, audio_out_sample_rate=8000),
        enable_turn_tracking=not LEAN,
        enable_rtvi=not LEAN,
        idle_timeout_secs=None,
    )

    @transport.event_handler("on_client_disconnected")
    async def on_client_disconnected(*_: object) -> None:
        await worker.cancel()

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    await runner.run()


if __name__ == "__main__":
    logger.remove()
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        loop="uvloop",
        ws_per_message_deflate=False,
        log_level="error",
        access_log=False,
    )
