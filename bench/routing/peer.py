"""pipecat's part of `bench.routing`, run by its own environment: microseconds a frame, then memory.

    python peer.py [lean]

Seven stages that pass frames on, between the pipeline's own two ends; a frame of mu-law is
decoded, pushed in front, awaited behind the last stage, and encoded. Prints JSON.
"""

from __future__ import annotations

import asyncio
import audioop
import gc
import json
import os
import sys
import time
from pathlib import Path

import uvloop
from loguru import logger
from pipecat.frames.frames import Frame, InputAudioRawFrame, OutputAudioRawFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.workers.runner import WorkerRunner

LEAN = "lean" in sys.argv[1:]
STAGES, BATCH, BATCHES, CALLS = 7, 200, 10, 40
MULAW = bytes([0xFF]) * 160


class Pass(FrameProcessor):
    """Does nothing with a frame but pass it on."""

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        await self.push_frame(frame, direction)


class End(FrameProcessor):
    """Tells when a frame has come through."""

    def __init__(self) -> None:
        super().__init__()
        self.came = asyncio.Event()
        self.audio = b""

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, InputAudioRawFrame):
            out = OutputAudioRawFrame(frame.audio, frame.sample_rate, frame.num_channels)
            self.audio = audioop.lin2ulaw(out.audio, 2)
            self.came.set()
        else:
            await self.push_frame(frame, direction)


async def call() -> tuple[PipelineWorker, End, asyncio.Task[None]]:
    """One pipeline that runs."""
    end = End()
    worker = PipelineWorker(
        Pipeline([*(Pass() for _ in range(STAGES - 1)), end]),
        params=PipelineParams(audio_in_sample_rate=8000, audio_out_sample_rate=8000),
        enable_turn_tracking=not LEAN,
        enable_rtvi=not LEAN,
        idle_timeout_secs=None,
    )
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    task = asyncio.create_task(runner.run())
    await asyncio.sleep(0.3)
    return worker, end, task


def rss_kb() -> int:
    """Memory of this process."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGESIZE") // 1024


async def main() -> None:
    worker, end, task = await call()
    times = []
    for _ in range(BATCHES):
        begun = time.process_time_ns()
        for _ in range(BATCH):
            frame = InputAudioRawFrame(audioop.ulaw2lin(MULAW, 2), 8000, 1)
            end.came.clear()
            await worker.queue_frame(frame)
            await end.came.wait()
        times.append((time.process_time_ns() - begun) / BATCH / 1000)
    before = rss_kb()
    calls = [await call() for _ in range(CALLS)]
    grown = (rss_kb() - before) / CALLS
    print(json.dumps({"us": min(times), "kb": grown}), flush=True)
    for _, _, other in [(worker, end, task), *calls]:
        other.cancel()
    os._exit(0)


if __name__ == "__main__":
    logger.remove()
    uvloop.run(main())
