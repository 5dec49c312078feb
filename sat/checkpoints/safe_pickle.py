"""Read files in which `torch.save` pickled whole objects, without executing their pickle.

Every class and function that a file may name (exactly those of `_NAMES`) becomes an `InertObject`:
nothing is imported, built or called. Tensors are read from the bytes of their storages. Both
containers are known: the zip of torch >= 1.6 and the older one, which holds module sources too.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import pickletools
import reprlib
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

import torch

RESAVE_HINT = "pass a BEST_checkpoint_*.pth.tar as the tutorial's train.py saved it"
_COPY_AGAIN = "it is truncated or damaged, copy or download it again"
_BIG_ENDIAN = "its numbers are not little endian: save it on a little endian CPU"
_NOT_RUN = (
    "which no tutorial checkpoint needs; it was not loaded and nothing of it was run: "
    "take a file from a source you trust"
)
_STORAGES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
}
_NAMES = {
    "models": "Encoder DecoderWithAttention Attention",
    "torchvision.models.resnet": "BasicBlock Bottleneck",
    "torch.nn.modules.container": "Sequential",
    "torch.nn.modules.conv": "Conv2d",
    "torch.nn.modules.batchnorm": "BatchNorm2d",
    "torch.nn.modules.activation": "ReLU Softmax Sigmoid",
    "torch.nn.modules.pooling": "MaxPool2d AdaptiveAvgPool2d",
    "torch.nn.modules.linear": "Linear",
    "torch.nn.modules.sparse": "Embedding",
    "torch.nn.modules.dropout": "Dropout",
    "torch.nn.modules.rnn": "LSTMCell",
    "torch.nn.parameter": "Parameter",
    "torch.nn.backends.thnn": "_get_thnn_function_backend",
    "torch.optim.adam": "Adam",
    "torch._utils": "_rebuild_tensor_v2 _rebuild_parameter",
    "torch": " ".join(_STORAGES),
    "collections": "OrderedDict defaultdict",
    "__builtin__": "set dict",
}
# All that protocol 2 writes. INST, OBJ, STACK_GLOBAL and EXT, which also name things, are not here.
_OPCODES = (
    "PROTO STOP MARK GLOBAL NEWOBJ REDUCE BUILD BINPERSID EMPTY_DICT EMPTY_LIST EMPTY_TUPLE TUPLE "
    "TUPLE1 TUPLE2 TUPLE3 SETITEM SETITEMS APPEND APPENDS NONE NEWTRUE NEWFALSE BININT BININT1 "
    "BININT2 LONG1 BINFLOAT BINUNICODE BINPUT LONG_BINPUT BINGET LONG_BINGET"
)


class UnsafeCheckpointError(ValueError):
    """Reason and remedy, as the end of a sentence that starts with the path of the file."""


def require(condition: bool, sentence: str) -> None:
    """Raise `UnsafeCheckpointError` with the sentence unless `condition`."""
    if not condition:
        raise UnsafeCheckpointError(sentence)


class InertObject:
    """Stand-in for an object of the file: its arguments, items and state.

    Each allowed global is a subclass of its own, so calling it (NEWOBJ, REDUCE) only makes another
    inert object. Slots, and `__setstate__` on the class, keep BUILD from setting attributes.
    """

    __slots__ = ("arguments", "items", "state")
    arguments: tuple[Any, ...]
    items: dict[Any, Any]
    state: Any

    def __new__(cls, *arguments: Any) -> InertObject:
        inert = super().__new__(cls)
        inert.arguments, inert.items, inert.state = arguments, {}, {}
        return inert

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value

    def __setstate__(self, state: Any) -> None:
        self.state = state


INERT_TYPES: dict[tuple[str, str], type[InertObject]] = {
    (module, name): type(name, (InertObject,), {"__slots__": ()})
    for module, names in _NAMES.items()
    for name in names.split()
}
_DTYPES = {INERT_TYPES["torch", name]: dtype for name, dtype in _STORAGES.items()}
_TENSOR = INERT_TYPES["torch._utils", "_rebuild_tensor_v2"]
_PARAMETER = INERT_TYPES["torch._utils", "_rebuild_parameter"]
_PARAMETER_OF_0_4 = INERT_TYPES["torch.nn.parameter", "Parameter"]


class Storage(NamedTuple):
    """The storage behind a tensor; its original device is ignored."""

    key: str
    dtype: torch.dtype
    numel: int
    nbytes: int


ReadStorage = Callable[[Storage], bytes]


class _Reader(pickle.Unpickler):
    """Unpickler that makes plain values and inert objects, and collects the named storages."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> type[InertObject]:
        full_name = f"{module}.{name}"[:100]
        require((module, name) in INERT_TYPES, f"it names {full_name!r}, {_NOT_RUN}")
        return INERT_TYPES[module, name]

    def persistent_load(self, identifier: Any) -> type[InertObject] | Storage:
        match identifier:
            case ("module", type() as kind, _, _):  # the rest: its source file and text
                return kind
            case ("storage", type() as kind, str(key), _, int(numel), *views):
                known = kind in _DTYPES and numel >= 0 and views in ([], [None])
                require(known, f"storage {key[:20]!r} is of a form unknown here: {RESAVE_HINT}")
                dtype = _DTYPES[kind]
                storage = Storage(key, dtype, numel, numel * dtype.itemsize)
                same = self.storages.setdefault(key, storage) == storage
                require(same, f"storage {key[:20]!r} is described in two ways: {_COPY_AGAIN}")
                return storage
        raise UnsafeCheckpointError(
            f"its pickle points to {reprlib.repr(identifier)}, no storage: {RESAVE_HINT}"
        )


def _unpickle(file: BinaryIO) -> tuple[Any, dict[str, Storage]]:
    """Unpickle the next value of `file`; returns it and the storages that it names."""
    start, known = file.tell(), frozenset(_OPCODES.split())
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        require(opcode.name in known, f"its pickle uses {opcode.name}, {_NOT_RUN}")
        # For a far memo slot the unpickler would allocate all slots before it.
        far = opcode.name in ("BINPUT", "LONG_BINPUT") and int(argument or 0) > count
        require(not far, f"its pickle jumps to memo slot {argument}, {_NOT_RUN}")
    size = file.tell() - start
    file.seek(start)
    reader = _Reader(file.read(size))
    return reader.load(), reader.storages


def _open_zip(file: BinaryIO) -> tuple[Any, ReadStorage]:
    archive = zipfile.ZipFile(file)
    for entry in archive.infolist():
        stored = entry.compress_type == zipfile.ZIP_STORED  # else a small file could unpack huge
        require(stored, f"its entry {entry.filename[:100]!r} is compressed: {RESAVE_HINT}")
    names = archive.namelist()
    pickles = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
    require(len(pickles) == 1, f"it is a zip with {len(pickles)} data.pkl, not 1: {RESAVE_HINT}")
    folder = pickles[0].removesuffix("data.pkl")
    order = archive.read(f"{folder}byteorder") if f"{folder}byteorder" in names else b"little"
    require(order == b"little", _BIG_ENDIAN)

    def read(storage: Storage) -> bytes:
        return archive.read(f"{folder}data/{storage.key}")

    return _unpickle(io.BytesIO(archive.read(pickles[0])))[0], read


def _open_old(file: BinaryIO) -> tuple[Any, ReadStorage]:
    # Magic number, version, system, value, keys of the storages; then the bytes of the storages.
    _, _, (system, _), (value, storages), (keys, _) = (_unpickle(file) for _ in range(5))
    require(system["little_endian"] is True, _BIG_ENDIAN)
    places, length = {}, os.fstat(file.fileno()).st_size
    for key in keys:
        numel = int.from_bytes(file.read(8), "little")
        same = storages[key].numel == numel
        require(same, f"storage {key[:20]!r} is not of the stated size: {_COPY_AGAIN}")
        places[key] = file.tell()
        file.seek(places[key] + storages[key].nbytes)
    require(file.tell() <= length, f"it has {length} of {file.tell()} bytes: {_COPY_AGAIN}")

    def read(storage: Storage) -> bytes:
        file.seek(places[storage.key])
        return file.read(storage.nbytes)

    return value, read


_OPENERS = {
    b"PK\x03\x04": _open_zip,
    b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.": _open_old,  # torch's magic number, pickled
}


def open_container(file: BinaryIO) -> tuple[Any, ReadStorage]:
    """The pickled value, as plain values and inert objects, and a reader of its storages.

    Raises `UnsafeCheckpointError` when the file is no such container or names anything else. A
    damaged file may raise any error of pickle and zipfile. The reader needs the file open.
    """
    opener = find_opener(file)
    if opener is None:
        raise UnsafeCheckpointError(f"it starts unlike any file of torch.save: {RESAVE_HINT}")
    return opener(file)


def find_opener(file: BinaryIO) -> Callable[[BinaryIO], tuple[Any, ReadStorage]] | None:
    """The function that opens the container with which the file starts; None if unknown."""
    start = file.read(max(map(len, _OPENERS)))
    file.seek(0)
    return next((opener for magic, opener in _OPENERS.items() if start.startswith(magic)), None)


def read_tensor(name: str, value: Any, read: ReadStorage) -> torch.Tensor:
    """Copy the tensor or parameter that `value` describes; errors call it `name`.

    Raises `UnsafeCheckpointError` unless the tensor lies within its storage and the file holds the
    whole storage.
    """
    if type(value) in (_PARAMETER, _PARAMETER_OF_0_4) and value.arguments:
        value = value.arguments[0]
    kind = type(value).__name__
    require(type(value) is _TENSOR, f"its {name} is {kind}, no tensor: {RESAVE_HINT}")
    storage, offset, size, stride = value.arguments[:4]
    inside = (
        all(type(number) is int and number >= 0 for number in (offset, *size, *stride))
        and len(size) == len(stride)
        and 1 <= math.prod(size) <= storage.numel
        and offset + sum((cells - 1) * step for cells, step in zip(size, stride)) < storage.numel
    )
    view = reprlib.repr({"size": size, "stride": stride, "offset": offset})
    require(inside, f"its {name} is {view} of {storage.numel} numbers: {_COPY_AGAIN}")
    data = read(storage)
    require(len(data) == storage.nbytes, f"its {name} is not of the stated size: {_COPY_AGAIN}")
    flat = torch.frombuffer(bytearray(data), dtype=storage.dtype)
    return flat.as_strided(size, stride, offset).clone(memory_format=torch.contiguous_format)
