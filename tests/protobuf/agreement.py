"""What Google's protobuf makes of the messages of everything2.proto, everything3.proto and the training service.

    agreement.py make SEED COUNT FOLDER    random messages: lines of "type hex dump" in FOLDER/messages
    agreement.py check FOLDER              reads "type hex again" (again: what Lua made of it), prints what differs
    agreement.py dump FOLDER               reads "type hex", prints the dump of each; "-": it is no message

A dump says which values a table has, in one order: see dump() here and in support.lua.
"""
import math
import os
import random
import struct
import sys
import tempfile

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import FieldDescriptor as F
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet
from grpc_tools import protoc

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCES = [(HERE, "everything3.proto"), (HERE, "everything2.proto"), (HERE + "/../../src", "training.proto")]


def compile_all():
    pool = descriptor_pool.DescriptorPool()
    with tempfile.TemporaryDirectory() as folder:
        for place, name in SOURCES:
            out = os.path.join(folder, name + ".bin")
            if protoc.main(["protoc", "-I" + place, "--descriptor_set_out=" + out, name]) != 0:
                sys.exit("protoc failed")
            with open(out, "rb") as file:
                for one in descriptor_pb2.FileDescriptorSet.FromString(file.read()).file:
                    pool.AddSerializedFile(one.SerializeToString())
    return pool


POOL = compile_all()


def class_of(name):
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(name))


TYPES = ["test.v3.Everything", "test.v2.Everything", "test.v3.Lookalike"] + sorted(
    m.full_name for m in POOL.FindFileByName("training.proto").message_types_by_name.values())

# ---- random messages -----------------------------------------------------------------------------------------

EDGES = [0, 1, -1, 127, 128, 255, 300, 16383, 16384, 2**31 - 1, -2**31, 2**32 - 1, 2**53 + 1, 2**63 - 1, -2**63, 2**64 - 1]


def random_int(rng, low, high):
    if rng.random() < 0.4:
        return rng.choice([n for n in EDGES if low <= n <= high])
    n = rng.getrandbits(rng.randint(1, 64))
    return low + n % (high - low + 1)


def random_text(rng):
    pieces = []
    for _ in range(rng.choice([0, 1, 3, 20])):
        code = rng.randint(0, rng.choice([0x7f, 0x7ff, 0xffff, 0x10ffff]))
        pieces.append(chr(code if not 0xd800 <= code < 0xe000 else 65))
    return "".join(pieces)


def random_float(rng, code):
    kind = rng.random()
    if kind < 0.3:
        return rng.choice([0.0, -0.0, 1.0, math.inf, -math.inf, math.nan, 1e-45, 5e-324, -1.5])
    size = 4 if code == "f" else 8
    value = struct.unpack("<" + code, rng.randbytes(size))[0]
    return value if value == value else 0.25


def random_scalar(rng, field):
    t = field.type
    if t in (F.TYPE_INT32, F.TYPE_SINT32, F.TYPE_SFIXED32):
        return random_int(rng, -2**31, 2**31 - 1)
    if t in (F.TYPE_INT64, F.TYPE_SINT64, F.TYPE_SFIXED64):
        return random_int(rng, -2**63, 2**63 - 1)
    if t in (F.TYPE_UINT32, F.TYPE_FIXED32):
        return random_int(rng, 0, 2**32 - 1)
    if t in (F.TYPE_UINT64, F.TYPE_FIXED64):
        return random_int(rng, 0, 2**64 - 1)
    if t == F.TYPE_FLOAT:
        return struct.unpack("<f", struct.pack("<f", random_float(rng, "f")))[0]
    if t == F.TYPE_DOUBLE:
        return random_float(rng, "d")
    if t == F.TYPE_BOOL:
        return rng.random() < 0.5
    if t == F.TYPE_ENUM:
        if field.file.name != "everything2.proto" and rng.random() < 0.2:   # enums of proto2 are closed
            return random_int(rng, -2**31, 2**31 - 1)
        return rng.choice(field.enum_type.values).number
    if t == F.TYPE_STRING:
        return random_text(rng)
    return rng.randbytes(rng.choice([0, 1, 5, 40]))


def is_map(field):
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def is_repeated(field):
    return field.is_repeated


def fill(rng, message, depth):
    fields = message.DESCRIPTOR.fields
    density = rng.choice([0.1, 0.3, 1.0]) / (1 + 3 * depth)
    for field in fields:
        if not field.is_required and rng.random() > density:
            continue
        if is_map(field):
            value_field = field.message_type.fields_by_name["value"]
            key_field = field.message_type.fields_by_name["key"]
            target = getattr(message, field.name)
            for _ in range(rng.choice([1, 2, 7 if depth == 0 else 3])):
                key = random_scalar(rng, key_field)
                if value_field.message_type is None:
                    target[key] = random_scalar(rng, value_field)
                else:
                    fill(rng, target[key], depth + 1)
        elif is_repeated(field):
            target = getattr(message, field.name)
            for _ in range(rng.choice([1, 2, 7 if depth == 0 else 3])):
                if field.message_type is not None:
                    if depth < 3:
                        fill(rng, target.add(), depth + 1)
                else:
                    target.append(random_scalar(rng, field))
        elif field.message_type is not None:
            if depth < 3 or field.is_required:
                getattr(message, field.name).SetInParent()
                fill(rng, getattr(message, field.name), depth + 1)
        else:
            setattr(message, field.name, random_scalar(rng, field))


# ---- what a table has ----------------------------------------------------------------------------------------

def dump_scalar(field, value, in_list=False):
    if field.type in (F.TYPE_FLOAT, F.TYPE_DOUBLE):
        return "nan" if value != value else "f" + struct.pack(">d", value).hex()
    if field.type == F.TYPE_BOOL:
        return "true" if value else "false"
    if field.type == F.TYPE_ENUM:
        known = [v for v in field.enum_type.values if v.number == value]
        return "s" + known[0].name.encode().hex() if known else "i%d" % value
    if field.type == F.TYPE_STRING:
        return "s" + value.encode().hex()
    if field.type == F.TYPE_BYTES:
        return "s" + value.hex()
    if value >= 2**63:   # what Lua's integers cannot hold is a text of digits; in an array it is its bits
        return "i%d" % (value - 2**64) if in_list else "s" + str(value).encode().hex()
    return "i%d" % value


def dump_table(items):
    return "{" + ",".join(sorted("%s=%s" % item for item in items)) + "}"


def dump(message):
    items = []
    for field in message.DESCRIPTOR.fields:
        name = "s" + field.name.encode().hex()
        value = getattr(message, field.name)
        if is_map(field):
            key_field = field.message_type.fields_by_name["key"]
            value_field = field.message_type.fields_by_name["value"]
            pairs = [(dump_scalar(key_field, k), dump(value[k]) if value_field.message_type else
                      dump_scalar(value_field, value[k])) for k in value]
            items.append((name, dump_table(pairs)))
        elif is_repeated(field):
            whole = [dump(v) if field.message_type else dump_scalar(field, v, True) for v in value]
            items.append((name, dump_table([("i%d" % (i + 1), v) for i, v in enumerate(whole)])))
        elif field.message_type is not None:
            if message.HasField(field.name):
                items.append((name, dump(value)))
        elif not field.has_presence or message.HasField(field.name) or field.has_default_value:
            items.append((name, dump_scalar(field, value)))
    return dump_table(items)


def is_odd(message):
    """Whether it has an entry of a map with an unknown field inside, which upb does not put into the map."""
    numbers = {field.number for field in message.DESCRIPTOR.fields if is_map(field)}
    if any(one.field_number in numbers and one.wire_type == 2 for one in UnknownFieldSet(message)):
        return True
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if is_map(field):
            inner = value.values() if field.message_type.fields_by_name["value"].message_type else []
        else:
            inner = value if is_repeated(field) else [value]
        if any(is_odd(one) for one in inner):
            return True
    return False


def with_defaults(message):
    """Defaults of proto2 are in the tables of Lua, so they come back as values."""
    for field in message.DESCRIPTOR.fields:
        if is_map(field):
            if field.message_type.fields_by_name["value"].message_type is not None:
                for inner in getattr(message, field.name).values():
                    with_defaults(inner)
        elif field.message_type is not None:
            if is_repeated(field):
                for inner in getattr(message, field.name):
                    with_defaults(inner)
            elif message.HasField(field.name):
                with_defaults(getattr(message, field.name))
        elif field.has_default_value and not is_repeated(field) and not message.HasField(field.name):
            setattr(message, field.name, field.default_value)
    return message


def main():
    mode, folder = sys.argv[1], sys.argv[-1]
    if mode == "make":
        rng = random.Random(int(sys.argv[2]))
        with open(folder + "/messages", "w") as out:
            for i in range(int(sys.argv[3])):
                name = TYPES[i % 3] if i % 2 == 0 else rng.choice(TYPES)
                message = class_of(name)()
                fill(rng, message, 0)
                out.write("%s %s %s\n" % (name, message.SerializeToString(deterministic=True).hex() or "-", dump(message)))
        return
    with open(folder + "/lines") as lines:
        for number, line in enumerate(lines, 1):
            parts = [p if p != "-" else "" for p in line.rstrip("\n").split(" ")]
            if mode == "check":
                kind = class_of(parts[0])
                want = with_defaults(kind.FromString(bytes.fromhex(parts[1]))).SerializeToString(deterministic=True)
                again = bytes.fromhex(parts[2])
                # entries of maps may have another order
                same = len(again) == len(want) and kind.FromString(again).SerializeToString(deterministic=True) == want
                if not same:
                    print("line %d, %s:\n%s\n%s" % (number, parts[0], want.hex(), parts[2]))
                continue
            try:
                message = class_of(parts[0]).FromString(bytes.fromhex(parts[1]))
                print("odd" if is_odd(message) else dump(message))
            except DecodeError:
                print("-")


main()
