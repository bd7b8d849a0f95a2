"""The NEST codec of datums and of per-token results: a reader that checks everything, and a writer."""

import struct

import numpy
import xxhash

SEED = 0x4E455354
HEADER = b"NEST\x01\x00\x00\x00"
DTYPES = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64")
STRING = 11
MAX_DEPTH = 64


class Malformed(ValueError):
    pass


def checksum(raw):
    return xxhash.xxh64_intdigest(raw, seed=SEED)


class _Reader:
    def __init__(self, data):
        self.data, self.at = memoryview(data), 0

    def take(self, count):
        if count > len(self.data) - self.at:
            raise Malformed(f"{count} bytes wanted at {self.at}, {len(self.data) - self.at} are there")
        self.at += count
        return self.data[self.at - count:self.at]

    def number(self, shape):
        return struct.unpack("<" + shape, self.take(struct.calcsize(shape)))[0]

    def checked(self, count_of):
        """The bytes after a checksum and the pad."""
        size, wanted = count_of, self.number("Q")
        pad = -self.at % 8
        if any(self.take(pad)):
            raise Malformed(f"pad bytes at {self.at - pad} are not zero")
        raw = self.take(size)
        if checksum(raw) != wanted:
            raise Malformed(f"checksum {wanted:016x} at {self.at}, {checksum(raw):016x} is right")
        return raw

    def array(self):
        code, dims = self.number("B"), self.number("B")
        if code == STRING:
            if dims:
                raise Malformed("a string with dimensions")
            raw = self.checked(self.number("I"))
            try:
                return str(raw, "utf-8")
            except UnicodeDecodeError as problem:
                raise Malformed(f"a string that is not UTF-8: {problem}") from problem
        if code >= len(DTYPES):
            raise Malformed(f"element type {code}")
        shape = tuple(self.number("Q") for _ in range(dims))
        dtype = numpy.dtype(DTYPES[code]).newbyteorder("<")
        size = dtype.itemsize
        for dim in shape:
            size *= dim
        return numpy.frombuffer(self.checked(size), dtype).reshape(shape)

    def value(self, depth=0):
        if depth > MAX_DEPTH:
            raise Malformed("nested too deeply")
        tag = self.number("B")
        if tag == 0:
            return self.array()
        if tag == 1:
            result = {}
            for _ in range(self.number("I")):
                key = self.take(self.number("H"))
                try:
                    key = str(key, "utf-8")
                except UnicodeDecodeError as problem:
                    raise Malformed(f"a key that is not UTF-8: {problem}") from problem
                if key in result:
                    raise Malformed(f"the key {key} twice")
                result[key] = self.value(depth + 1)
            return result
        if tag == 2:
            return [self.value(depth + 1) for _ in range(self.number("I"))]
        raise Malformed(f"tag {tag} at {self.at - 1}")


def decode(data):
    """Dicts, lists, strings and read-only arrays; raises Malformed."""
    if bytes(data[:8]) != HEADER:
        raise Malformed("no NEST header of version 1")
    reader = _Reader(data)
    reader.at = 8
    value = reader.value()
    if reader.at != len(data):
        raise Malformed(f"{len(data) - reader.at} bytes after the end")
    return value


def _write(out, value):
    if isinstance(value, dict):
        out += struct.pack("<BI", 1, len(value))
        for key, item in value.items():
            key = key.encode()
            out += struct.pack("<H", len(key)) + key
            _write(out, item)
    elif isinstance(value, list):
        out += struct.pack("<BI", 2, len(value))
        for item in value:
            _write(out, item)
    else:
        if isinstance(value, str):
            raw = value.encode()
            out += struct.pack("<BBBI", 0, STRING, 0, len(raw))
        else:
            raw = value.tobytes()
            out += struct.pack(f"<BBB{value.ndim}Q", 0, DTYPES.index(value.dtype.name), value.ndim, *value.shape)
        out += struct.pack("<Q", checksum(raw))
        out += bytes(-len(out) % 8)
        out += raw


def encode(value):
    out = bytearray(HEADER)
    _write(out, value)
    return bytes(out)
