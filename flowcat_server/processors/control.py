"""What is done with one call besides talking: to wait, to press keys, to be passed on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from flowcat_server.core.agent import Agent
from flowcat_server.core.control import Progress
from flowcat_server.core.conversation import Conversation
from flowcat_server.core.dtmf import KeyPresses
from flowcat_server.core.events import Notice
from flowcat_server.core.graph import TransferTarget
from flowcat_server.core.interfaces import LanguageModel
from flowcat_server.core.playout import Playout
from flowcat_server.core.templates import names, render
from flowcat_server.processors.call import Call
from flowcat_server.processors.hold import Hold
from flowcat_server.processors.summary import SUMMARY, summary

KEYS_WAIT_MS = 20_000
KEYS_LOOK_MS = 20
"""Keys wait so long for the agent to finish what it is saying."""

Relink = Callable[[bool, bool], None]
"""Links the stages anew: whether the caller is deaf to the agent's stages, and hears a sound."""


class CallControl:
    """One call's."""

    def __init__(
        self,
        call: Call,
        agent: Agent | None,
        playout: Playout,
        conversation: Conversation,
        hold: Hold,
        models: Sequence[LanguageModel],
        relink: Relink,
        tools_after_ms: int,
        rescue: TransferTarget | None = None,
    ) -> None:
        """Begin with nobody waiting.

        Args:
            call: The owner.
            agent: Where the call is in the graph; None: it is an echo.
            playout: The ledger.
            conversation: What was said so far.
            hold: What a caller hears who waits.
            models: Who may sum up the conversation.
            relink: Links the stages anew.
            tools_after_ms: A tool that runs for longer is waited for with the sound; 0: never.
            rescue: To whom a call goes that the agent cannot go on with.
        """
        self._call = call
        self._agent = agent
        self._playout = playout
        self._conversation = conversation
        self._hold = hold
        self._models = models
        self._relink = relink
        self._tools_after_ms = tools_after_ms
        self._rescue = rescue
        self.press: Callable[[KeyPresses], object] = lambda keys: None
        """Has keys follow what is being said."""
        self.deaf = False
        """The caller is not listened to."""
        self._pressing = asyncio.Lock()
        self._waits: asyncio.Handle | None = None
        """A tool runs, and after some time the caller hears that."""
        self._tasks: set[asyncio.Task[None]] = set()

    # --- passing on -------------------------------------------------------------------------

    def targets(self) -> dict[str, TransferTarget]:
        """To whom the call may be passed on, by name: all that the file names."""
        nodes = self._agent.graph.nodes.values() if self._agent is not None else ()
        found = {self._rescue.name: self._rescue} if self._rescue is not None else {}
        return found | {target.name: target for node in nodes for target in node.transfers}

    def progress(self) -> Progress:
        """Where the conversation stands."""
        agent = self._agent
        if agent is None:
            return Progress()
        messages = tuple(self._conversation.messages())
        return Progress(agent.node.id, dict(agent.variables), messages)

    def introduction(self, target: TransferTarget) -> asyncio.Future[str]:
        """What is said first to a person who takes over the call."""
        written: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        agent = self._agent
        if agent is None or SUMMARY not in names(target.introduce):
            written.set_result(self.render(target.introduce))
            return written
        messages = self._conversation.messages()

        async def write() -> None:
            text = await summary(self._call, agent, messages, self._models)
            if not written.done():
                written.set_result(render(target.introduce, {**agent.variables, SUMMARY: text}))

        self._spawn("summary", write())
        return written

    # --- waiting ----------------------------------------------------------------------------

    def hold(self, *, wanted: bool) -> bool:
        """Have the caller wait, or not any longer; says whether that changed anything."""
        if wanted == self.deaf:
            return False
        self.deaf = wanted
        self._sound(on=wanted)
        code, text = ("hold", "The caller waits.") if wanted else ("hold_ended", "It goes on.")
        self._call.publish(Notice(self._call.now_ms(), "info", code, text))
        return True

    def tool_runs(self, running: bool) -> None:
        """One of the file's own tools begins or ends."""
        if self._waits is not None:
            self._waits.cancel()
            self._waits = None
        if self.deaf:
            return
        if running and self._tools_after_ms:
            at_ms = self._call.now_ms() + self._tools_after_ms
            self._waits = self._call.call_at(at_ms, lambda: self._sound(on=True))
        elif self._hold.on:
            self._sound(on=False)

    def _sound(self, *, on: bool) -> None:
        if on:
            self._relink(self.deaf, True)
            self._hold.begin()
        else:
            self._hold.end()
            self._relink(self.deaf, False)

    # --- keys -------------------------------------------------------------------------------

    def send_keys(self, keys: str) -> None:
        """Press keys when what is being said has been heard."""
        self._spawn("keys", self._send_keys(keys))

    async def _send_keys(self, keys: str) -> None:
        async with self._pressing:
            for _ in range(KEYS_WAIT_MS // KEYS_LOOK_MS):
                if self._playout.active() is None:
                    break
                await asyncio.sleep(KEYS_LOOK_MS / 1000)
            sent = await self._call.press(keys)
            self.press(KeyPresses(keys, audible=not sent))
            reply = self._playout.active()
            if reply is not None:
                self._playout.protect(reply)

    # --- inside -----------------------------------------------------------------------------

    def close(self) -> None:
        """The call is over: know nobody any more, as `CallLine.close` has it."""
        if self._waits is not None:
            self._waits.cancel()
        self._hold.close()
        vars(self).clear()

    def render(self, text: str) -> str:
        """Fill the call's variables into a text."""
        return self._agent.render(text) if self._agent is not None else text

    def _spawn(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = self._call.spawn(name, work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
