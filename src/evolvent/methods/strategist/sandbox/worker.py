"""L2, the worker: a clean interpreter that limits and locks itself, then maps states to numbers until its pipe closes.

Run as a script with bare Python (`-S -s -B`), never imported by the library. Arguments: the descriptor of the shared
memory and its size, the limit of memory in MB, fuel a state, "strict" or "language", and the folder of seccomp.py.

Standard input brings (length) of the skill's source, then again and again the (length) of marshalled states that lie in
the shared memory. Answers on standard output: a letter, then a length; values (states x players doubles) and the notes
as JSON lie in the shared memory.
"""

import json
import marshal
import mmap
import os
import resource
import struct
import sys
from itertools import repeat
from types import FunctionType
from typing import Any

READY, DONE, FAILED = b"r", b"d", b"f"
NO_LOCK = 70  # exit code where the kernel refuses the filter; the parent knows it


def main() -> None:
    """Lock, load the skill, answer until the pipe closes."""
    descriptor, size, memory_mb, fuel = map(int, sys.argv[1:5])
    strict = sys.argv[5] == "strict"
    shared = mmap.mmap(descriptor, size) if descriptor >= 0 else None
    assert shared is not None
    os.close(descriptor)
    names = _language()
    megabyte = 1 << 20
    if strict:
        resource.setrlimit(resource.RLIMIT_AS, (memory_mb * megabyte, memory_mb * megabyte))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        sys.path.insert(0, sys.argv[6])
        import seccomp  # type: ignore[import-not-found]  # its folder is put on the path above

        try:
            seccomp.lock()
        except OSError:
            os._exit(NO_LOCK)
    length = struct.unpack("=i", _read(4))[0]
    source = _read(length).decode()
    try:
        scope = {"__builtins__": {}, **names}
        exec(compile(source, "<skill>", "exec"), scope)
        evaluate = scope["evaluate_state"]
    except BaseException as error:
        _answer(FAILED, shared, _said(error))
        return
    _answer(READY, shared, b"")
    while True:
        length = struct.unpack("=i", _read(4))[0]
        states = marshal.loads(shared[:length])
        kind, answer = _evaluate(evaluate, scope, states, fuel)
        _answer(kind, shared, answer)


def _evaluate(evaluate: FunctionType, scope: dict[str, Any], states: list[Any], fuel: int) -> tuple[bytes, bytes]:
    values: list[float] = []
    notes: list[dict[str, float]] = []
    try:
        for number, state in enumerate(states):
            tank = repeat(None, fuel)
            scope["_burn"] = tank.__next__
            try:
                result = evaluate(state)
            except BaseException as error:
                spent = not tank.__length_hint__()
                said = f"more than {fuel} loop passes and calls".encode() if spent else _said(error)
                return FAILED, b"state %d: " % number + said
            if not tank.__length_hint__():
                return FAILED, b"state %d: more than %d loop passes and calls" % (number, fuel)
            _number(result, values, notes)
        return DONE, struct.pack("=i", len(values)) + struct.pack(f"={len(values)}d", *values) + json.dumps(
            notes, allow_nan=False
        ).encode()
    except BaseException as error:
        return FAILED, b"result: " + _said(error)


def _number(result: object, values: list[float], notes: list[dict[str, float]]) -> None:
    """Take (values, notes) apart; nothing of the skill's own classes can be in it, for it cannot make any."""
    if type(result) is not tuple or len(result) != 2:
        raise ValueError("expected (values, notes)")
    found, noted = result
    if type(found) is dict:
        if sorted(found) != list(range(len(found))):
            raise ValueError("expected one value for each player, keys 0 to n - 1")
        found = [found[i] for i in range(len(found))]
    if type(found) not in (tuple, list):
        raise ValueError("expected values as a tuple, or a dict by player")
    for value in found:
        if type(value) not in (int, float, bool):
            raise ValueError("a value is not a number")
        values.append(float(value))
    kept: dict[str, float] = {}
    if type(noted) is dict:
        for name, value in noted.items():
            if type(name) is str and type(value) in (int, float, bool) and len(kept) < 64 and abs(value) < 1e12:
                kept[name[:60]] = float(value)
    notes.append(kept)


def _language() -> dict[str, Any]:
    import builtins

    allowed = (
        "len sum min max abs sorted range enumerate zip any all set list dict tuple int float bool round reversed map "
        "filter frozenset isinstance"
    )

    def mean(values: object) -> float:
        listed = list(values)  # type: ignore[call-overload]
        return sum(listed) / len(listed) if listed else 0.0

    def pow_(base: float, exponent: float) -> float:
        result: float = float(base) ** max(-64.0, min(64.0, float(exponent)))
        return result

    return {**{name: getattr(builtins, name) for name in allowed.split()}, "mean": mean, "pow_": pow_}


def _said(error: BaseException) -> bytes:
    """Kind of an error, the line of the skill, and its first words."""
    line, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<skill>":
            line = trace.tb_lineno
        trace = trace.tb_next
    try:
        words = str(error)[:200]
    except BaseException:
        words = ""
    return f"{type(error).__name__}: {words} (line {line} of the skill with fuel)".encode(errors="replace")


def _read(length: int) -> bytes:
    parts = b""
    while len(parts) < length:
        part = os.read(0, length - len(parts))
        if not part:
            os._exit(0)
        parts += part
    return parts


def _answer(kind: bytes, shared: mmap.mmap, content: bytes) -> None:
    if len(content) > len(shared):
        kind, content = FAILED, b"the answer is larger than the shared memory"
    shared[: len(content)] = content
    os.write(1, kind + struct.pack("=i", len(content)))


if __name__ == "__main__":
    main()
