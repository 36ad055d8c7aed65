"""Cuts an ONNX model in two at an inner value, so that its second half can run piece by piece.

Works on the serialized file: a `ModelProto` is copied without the nodes and weights that the
wanted outputs do not need. Field numbers are those of onnx.proto3
(https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3). Only graphs without sub-graphs
(If, Loop, Scan) can be cut; a sub-graph's outer references would not be seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_NAME, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT = 1, 2, 5, 11, 12
_NODE_INPUT, _NODE_OUTPUT, _NODE_ATTRIBUTE = 1, 2, 5
_ATTRIBUTE_GRAPH = 6
_TENSOR_NAME = 8
_VALUE_NAME = 1
_FLOAT = 1


class CutError(ValueError):
    """The file is not an ONNX model that can be cut there."""


@dataclass(frozen=True, slots=True)
class _Node:
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    raw: memoryview


class OnnxGraph:
    """A parsed model; `extract` may be called several times."""

    def __init__(self, model: bytes) -> None:
        """Read the model's outline. Raises `CutError`."""
        self._head: list[memoryview] = []
        self._nodes: list[_Node] = []
        self._initializers: dict[str, memoryview] = {}
        self._inputs: dict[str, memoryview] = {}
        self._outputs: dict[str, memoryview] = {}
        try:
            for number, value, raw in _fields(memoryview(model)):
                if number == _MODEL_GRAPH:
                    self._read_graph(value)
                else:
                    self._head.append(raw)
        except (IndexError, UnicodeDecodeError, StopIteration) as error:
            raise CutError("not an ONNX model") from error
        if not self._nodes:
            raise CutError("no graph in the model")

    def consumers(self, prefix: str) -> list[str]:
        """The values that nodes whose first output begins with `prefix` take from outside."""
        inside = [node for node in self._nodes if node.outputs[0].startswith(prefix)]
        made = {name for node in inside for name in node.outputs}
        constants = set(self._initializers) | self._constants()
        taken = dict.fromkeys(name for node in inside for name in node.inputs)
        return [name for name in taken if name and name not in made and name not in constants]

    def extract(self, inputs: Mapping[str, Sequence[int | str]], outputs: Sequence[str]) -> bytes:
        """The part of the model that makes `outputs`, fed with `inputs` instead of their makers.

        `inputs` names inner values of type float with their shapes (names for free dimensions).
        Inputs of the original model stay inputs where they are needed.
        """
        makers = {name: i for i, node in enumerate(self._nodes) for name in node.outputs}
        kept: set[int] = set()
        seen: set[str] = set()
        ahead = list(outputs)
        while ahead:
            name = ahead.pop()
            if name in seen or name in inputs:
                continue
            seen.add(name)
            if name in makers:
                kept.add(makers[name])
                ahead.extend(self._nodes[makers[name]].inputs)
            elif name and name not in self._initializers and name not in self._inputs:
                raise CutError(f"nothing makes {name!r}")
        graph: list[bytes | memoryview] = [self._nodes[i].raw for i in sorted(kept)]
        graph.append(_field(_GRAPH_NAME, b"part"))
        graph += [raw for name, raw in self._initializers.items() if name in seen]
        graph += [raw for name, raw in self._inputs.items() if name in seen]
        graph += [_field(_GRAPH_INPUT, _float_value(n, shape)) for n, shape in inputs.items()]
        for name in outputs:
            known = self._outputs.get(name)
            graph.append(known or _field(_GRAPH_OUTPUT, _field(_VALUE_NAME, name.encode())))
        return b"".join([*self._head, _field(_MODEL_GRAPH, b"".join(graph))])

    def _read_graph(self, graph: memoryview) -> None:
        for number, value, raw in _fields(graph):
            if number == _GRAPH_NODE:
                self._nodes.append(_read_node(value, raw))
            elif number == _GRAPH_INITIALIZER:
                self._initializers[_name(value, _TENSOR_NAME)] = raw
            elif number == _GRAPH_INPUT:
                self._inputs[_name(value, _VALUE_NAME)] = raw
            elif number == _GRAPH_OUTPUT:
                self._outputs[_name(value, _VALUE_NAME)] = raw

    def _constants(self) -> set[str]:
        return {node.outputs[0] for node in self._nodes if not node.inputs}


def _read_node(node: memoryview, raw: memoryview) -> _Node:
    inputs, outputs = [], []
    for number, value, _ in _fields(node):
        if number == _NODE_INPUT:
            inputs.append(str(value, "utf-8"))
        elif number == _NODE_OUTPUT:
            outputs.append(str(value, "utf-8"))
        elif number == _NODE_ATTRIBUTE and any(n == _ATTRIBUTE_GRAPH for n, _, _ in _fields(value)):
            raise CutError("the model has sub-graphs")
    return _Node(tuple(inputs), tuple(outputs), raw)


def _name(message: memoryview, field: int) -> str:
    return next(str(value, "utf-8") for number, value, _ in _fields(message) if number == field)


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview, memoryview]]:
    """Number, content and whole encoding of each field of a protobuf message."""
    at = 0
    while at < len(message):
        begin = at
        key, at = _varint(message, at)
        wire_type = key & 7
        if wire_type == 2:
            length, at = _varint(message, at)
        elif wire_type == 0:
            length = _varint(message, at)[1] - at
        elif wire_type in (1, 5):
            length = 8 if wire_type == 1 else 4
        else:
            raise CutError(f"protobuf wire type {wire_type}")
        if at + length > len(message):
            raise CutError("the model is cut short")
        yield key >> 3, message[at : at + length], message[begin : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _encode_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, content: bytes) -> bytes:
    return _encode_varint(number << 3 | 2) + _encode_varint(len(content)) + content


def _float_value(name: str, shape: Sequence[int | str]) -> bytes:
    """A `ValueInfoProto` of a float tensor."""
    dimensions = b"".join(
        _field(
            1, _field(2, size.encode()) if isinstance(size, str) else b"\x08" + _encode_varint(size)
        )
        for size in shape
    )
    tensor = b"\x08" + _encode_varint(_FLOAT) + _field(2, dimensions)
    return _field(_VALUE_NAME, name.encode()) + _field(2, _field(1, tensor))
