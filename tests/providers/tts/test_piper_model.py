"""The cut voice against the whole one."""

from __future__ import annotations

import multiprocessing
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcat_server.providers.tts._onnx_cut import CutError, OnnxGraph


@given(st.binary(max_size=200))
def test_any_bytes_are_a_model_or_a_cut_error(content: bytes) -> None:
    with pytest.raises(CutError):
        OnnxGraph(content)


def _compare(results: Any) -> None:
    """Runs in a process of its own, as the voice does."""
    from flowcat_server.providers.assets import verify
    from flowcat_server.providers.tts._piper_model import PiperModel
    from flowcat_server.providers.tts.piper import MODEL, MODEL_CONFIG

    # Without noise the model gives the same sound every time.
    model = PiperModel(verify(MODEL), verify(MODEL_CONFIG), (0.0, 1.0, 0.0))
    text = "Thanks for calling, how can I help you today?"
    sentence = model.plan(text)[0]
    encoded = model.encode(sentence, None)
    whole = model.decode(encoded, 0, encoded.frames, None)
    pieces = [
        model.decode(encoded, at, min(at + 17, encoded.frames), None)
        for at in range(0, encoded.frames, 17)
    ]

    import onnxruntime as ort

    original = ort.InferenceSession(str(verify(MODEL)), providers=["CPUExecutionProvider"])
    ids = np.array([sentence.ids], dtype=np.int64)
    expected = original.run(
        None,
        {
            "input": ids,
            "input_lengths": np.array([ids.shape[1]]),
            "scales": np.array([0, 1, 0], dtype=np.float32),
        },
    )[0].reshape(-1)

    from piper import PiperVoice

    reference = PiperVoice.load(verify(MODEL))
    results.put(
        {
            "same_length": len(whole) == len(expected),
            "whole": float(np.abs(whole - expected).max()),
            "pieces": float(np.abs(np.concatenate(pieces) - expected).max()),
            "loudest": float(np.abs(expected).max()),
            "ids": list(sentence.ids),
            "reference_ids": reference.phonemes_to_ids(reference.phonemize(text)[0]),
            "long": [len(part.ids) for part in model.plan("and so on " * 100)],
            "sentences": len(model.plan("One. Two! Three?")),
        }
    )


@pytest.mark.models
def test_windows_give_the_samples_of_the_whole_model() -> None:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    child = context.Process(target=_compare, args=(results,))
    child.start()
    found = results.get(timeout=50)
    child.join(10)
    assert found["same_length"]
    assert found["loudest"] > 0.1
    assert found["whole"] < 1e-4
    assert found["pieces"] < 1e-4
    assert found["ids"] == found["reference_ids"]
    assert max(found["long"]) < 300
    assert len(found["long"]) > 3
    assert found["sentences"] == 3
