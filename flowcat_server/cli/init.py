"""``flowcat-server init``: write an agent file to start from."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from flowcat_server.errors import ConfigError

_AGENT = """\
# yaml-language-server: $schema=./flowcat.schema.json
# (flowcat-server schema -o flowcat.schema.json writes that file; editors then complete and check)
#
# Run it:    flowcat-server            then open the address it prints and press Start
# Check it:  flowcat-server check
#
# ${NAME} is an environment variable, read at start.  {{name}} is a call variable, filled in per
# call. Durations are written 300ms, 8s, 10m. Every block but agent may be left out.

agent:
  name: receptionist
  greeting: "Hello, this is {{company}}. How can I help you?"   # exact first words
  prompt: |
    You are the receptionist of {{company}}. Answer in one or two short sentences.
    When the caller has what they need, say goodbye and end the call.
  seed_vars:
    company: Example Ltd

  # More than one step? Use a graph instead of the prompt:
  # graph_inline:
  #   nodes:
  #     - { id: start, type: startCall, data: { prompt: "Find out what the caller needs." } }
  #     - { id: done,  type: endCall,   data: { prompt: "Say goodbye." } }
  #   edges:
  #     - { source: start, target: done, label: Wrap up, data: { condition: The caller is done } }

# What the agent knows. Callers' questions are matched against the wordings.
knowledge:
  - questions: ["When are you open?", "What are your opening hours?"]
    answer: We are open Monday to Friday, nine to five.

# Without this block everything runs on this machine, with no key: speech to text by whisper,
# answers by intents, speech by piper. One line each swaps in a hosted provider, its key taken
# from the environment (OPENAI_API_KEY, DEEPGRAM_API_KEY, ...).
# topology:
#   llm: openai/gpt-6-luna
#   stt: deepgram/nova-3
#   tts: { provider: cartesia, voice: 79a125e8-cd45-4c13-8a67-188112f4dd22 }

# turn:
#   endpointing:  { min_delay: 400ms, max_delay: 1200ms }   # silence that ends the caller's turn
#   interruption: { enabled: true, min_speech: 250ms }      # speech that cuts the agent off
#   idle:         { after: 12s, say: "Are you still there?", times: 2 }

# limits: { max_calls: 50, max_call: 30m }
# records: { dir: ./calls, keep: 30d, redact: [card_number] }
"""

_TWILIO = """
server:
  bind: "0.0.0.0:6210"
  # This server's address as Twilio reaches it (a tunnel or a reverse proxy with TLS).
  public_url: "${FLOWCAT_PUBLIC_URL:?set it to this server's https:// address}"
  # trusted_proxies: [127.0.0.1]    # whose X-Forwarded-* headers to believe

# In Twilio's console, under the phone number, set "A call comes in" to
# <public_url>/telephony/answer/twilio with HTTP POST.
carriers:
  twilio:
    account_sid: "${TWILIO_ACCOUNT_SID:-}"   # to hang up and to transfer
    auth_token: "${TWILIO_AUTH_TOKEN:?see Account info in the Twilio console}"
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser("init", help="write an agent.yaml to start from")
    parser.add_argument("dir", nargs="?", default=".", metavar="DIR", help="where (default: here)")
    parser.add_argument("--twilio", action="store_true", help="with what a Twilio number needs")
    parser.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the file; one that exists is left alone."""
    path = Path(arguments.dir) / "agent.yaml"
    text = _AGENT + (_TWILIO if arguments.twilio else "")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        print(f"flowcat-server: {path} exists already; it is left as it is", file=sys.stderr)
        return 1
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
    print(path)
    print(f"Run it with: flowcat-server {path}", file=sys.stderr)
    return 0
