"""How many browsers one core holds, ours beside stock aiortc: ``python -m bench.webrtc``."""
