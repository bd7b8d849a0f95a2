"""The messages of src/training.proto: compiled at start into a description, classes made from that in memory."""

import hashlib
import math
import os
import tempfile

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_tools import protoc

from training import nest

PROTO = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../../src/training.proto"))
PACKAGE = "river.api.v1"
SERVICE = PACKAGE + ".RiverService"
SHOWN_BYTES = 4096      # longer byte strings are described in the log, not shown
SHOWN_VALUES = 65536    # and so are longer columns


def _described():
    with tempfile.TemporaryDirectory(prefix="training-standin-") as folder:
        output = os.path.join(folder, "training.pb")
        if protoc.main(["protoc", "-I" + os.path.dirname(PROTO), "--descriptor_set_out=" + output, PROTO]) != 0:
            raise SystemExit("cannot compile " + PROTO)
        with open(output, "rb") as file:
            return descriptor_pb2.FileDescriptorSet.FromString(file.read())


_pool = descriptor_pool.DescriptorPool()     # of its own: nothing here meets the descriptors of other packages
for _file in _described().file:
    _pool.Add(_file)


class _Messages:
    """schema.m.OptimStepRequest is the class of that message."""

    def __getattr__(self, name):
        made = message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))
        setattr(self, name, made)
        return made


m = _Messages()

# method name → (request class, response class, whether it streams)
METHODS = {
    method.name: (message_factory.GetMessageClass(method.input_type),
                  message_factory.GetMessageClass(method.output_type), method.server_streaming)
    for method in _pool.FindServiceByName(SERVICE).methods
}


def _shown_bytes(data):
    if len(data) <= SHOWN_BYTES:
        return data.hex()
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "head": data[:32].hex()}


def _shown_number(value):
    return value if not isinstance(value, float) or math.isfinite(value) else repr(value)


def _shown_values(values):
    return [_shown_values(value) for value in values] if isinstance(values, list) else _shown_number(values)


def _shown_nest(value):
    if isinstance(value, dict):
        return {key: _shown_nest(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_shown_nest(item) for item in value]
    if isinstance(value, str):
        return value
    if value.dtype == "uint8":
        return _shown_bytes(value.tobytes())
    if value.size > SHOWN_VALUES:
        return {"dtype": str(value.dtype), "shape": list(value.shape)}
    return _shown_values(value.tolist())


def shown_datum(data):
    """A datum in JSON: its keys in order, the columns, their types and shapes; uint8 columns are hex."""
    try:
        value = nest.decode(data)
    except nest.Malformed as problem:
        return {"malformed": str(problem), "data": _shown_bytes(data)}
    if not isinstance(value, dict):
        return {"malformed": "not a dict", "data": _shown_bytes(data)}
    arrays = {key: item for key, item in value.items() if hasattr(item, "dtype")}
    return {
        "keys": list(value), "columns": {key: _shown_nest(item) for key, item in value.items()},
        "dtypes": {key: str(item.dtype) for key, item in arrays.items()},
        "shapes": {key: list(item.shape) for key, item in arrays.items()}, "bytes": len(data),
    }


def _shown(field, value):
    if field.type == field.TYPE_MESSAGE:
        return shown(value)
    if field.type == field.TYPE_BYTES:
        return _shown_bytes(value)
    if field.type == field.TYPE_ENUM:
        named = field.enum_type.values_by_number.get(value)
        return named.name if named else value
    return _shown_number(value)


def shown(message):
    """A message as what JSON can say: bytes as hex, datums with their columns, absent fields absent."""
    if message.DESCRIPTOR.name == "Datum":
        result = {"data": shown_datum(message.data)}
        if message.resolved_image_handles:
            result["resolved_image_handles"] = list(message.resolved_image_handles)
        return result
    result = {}
    for field, value in message.ListFields():
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            inner = field.message_type.fields_by_name["value"]
            result[field.name] = {str(key): _shown(inner, item) for key, item in value.items()}
        elif field.is_repeated:
            result[field.name] = [_shown(field, item) for item in value]
        else:
            result[field.name] = _shown(field, value)
    return result
