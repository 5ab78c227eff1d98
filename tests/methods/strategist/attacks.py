"""Programs that try to get out, or to take more than their share; and harmless ones that must run.

`LANGUAGE` must be refused by the language or end in its worker without an effect. `KERNEL` goes to the worker as it is,
as if the language had a hole: it finds the interpreter's modules first, then tries one thing; each returns a value only
if it succeeded.
"""

from __future__ import annotations

import textwrap


def skill(body: str, before: str = "") -> str:
    return f"{before}def evaluate_state(state):\n{textwrap.indent(textwrap.dedent(body).strip(), '    ')}\n"


_DONE = "return (1, 2), {}"
LANGUAGE: dict[str, str] = {
    "import os": skill(_DONE, "import os\n"),
    "import inside": skill(f"import subprocess\n{_DONE}"),
    "from import": skill(_DONE, "from os import system\n"),
    "star import": skill(_DONE, "from os import *\n"),
    "__import__": skill(f"__import__('os').system('true')\n{_DONE}"),
    "subclasses walk": skill("return (len(().__class__.__base__.__subclasses__()), 0), {}"),
    "mro walk": skill("return (len([].__class__.mro()), 0), {}"),
    "class through string": skill("return (''.__class__.__name__, 0), {}"),
    "globals of a function": skill("def f():\n    return 1\nreturn (f.__globals__, 0), {}"),
    "closure cell": skill("x = 1\ndef f():\n    return x\nreturn (f.__closure__[0].cell_contents, 0), {}"),
    "code object": skill("return ((lambda: 1).__code__.co_consts, 0), {}"),
    "replace code": skill("f = lambda: 1\nf.__code__ = (lambda: 2).__code__\nreturn (f(), 0), {}"),
    "generator frame": skill("g = (x for x in [1])\nreturn (g.gi_frame.f_globals, 0), {}"),
    "generator back frame": skill("g = (x for x in [1])\nreturn (g.gi_frame.f_back, 0), {}"),
    "str.format": skill("return ('{0.__class__}'.format(1), 0), {}"),
    "format_map": skill("return ('{a}'.format_map({'a': 1}), 0), {}"),
    "f-string attribute": skill("return (f'{(1).__class__}', 0), {}"),
    "exec": skill(f"exec('import os')\n{_DONE}"),
    "eval": skill("return (eval('1'), 0), {}"),
    "compile": skill(f"compile('1', '', 'eval')\n{_DONE}"),
    "open": skill(f"open('/etc/passwd')\n{_DONE}"),
    "getattr": skill("return (getattr([], 'append'), 0), {}"),
    "setattr": skill(f"setattr(state, 'x', 1)\n{_DONE}"),
    "type": skill("return (type(1), 0), {}"),
    "type with three arguments": skill("return (type('X', (), {})(), 0), {}"),
    "vars": skill("return (vars(), 0), {}"),
    "globals": skill("return (globals(), 0), {}"),
    "locals": skill("return (locals(), 0), {}"),
    "dir": skill("return (dir(), 0), {}"),
    "input": skill("return (input(), 0), {}"),
    "print": skill(f"print('x' * 10**6)\n{_DONE}"),
    "breakpoint": skill(f"breakpoint()\n{_DONE}"),
    "memoryview": skill("return (memoryview(b'x'), 0), {}"),
    "object": skill("return (object(), 0), {}"),
    "super": skill("return (super(), 0), {}"),
    "underscore name": skill("__builtins__ = 1\nreturn (1, 0), {}"),
    "fuel itself": skill("_burn = len\nreturn (1, 0), {}"),
    "fuel as argument": skill("f = lambda _burn: 1\nreturn (f(1), 0), {}"),
    "class": skill("class A:\n    pass\nreturn (1, 0), {}"),
    "class with hooks": skill("class A(dict):\n    def __len__(self): return 1\nreturn (1, 0), {}"),
    "decorator": skill("@len\ndef f(): return 1\nreturn (1, 0), {}"),
    "try around everything": skill("try:\n    x = 1 / 0\nexcept Exception as e:\n    x = e\nreturn (x, 0), {}"),
    "raise": skill("raise ValueError('x')"),
    "with": skill("with state as s:\n    pass\nreturn (1, 0), {}"),
    "global": skill("global x\nx = 1\nreturn (x, 0), {}"),
    "nonlocal": skill("x = 0\ndef f():\n    nonlocal x\n    x = 1\nf()\nreturn (x, 0), {}"),
    "yield": skill("yield 1"),
    "async": "async def evaluate_state(state):\n    return (1, 2), {}\n",
    "await": skill("await state\nreturn (1, 2), {}"),
    "match": skill("match state:\n    case _:\n        return (1, 2), {}"),
    "power": skill("return (9 ** 9 ** 9, 0), {}"),
    "shift": skill("return (1 << 10 ** 12, 0), {}"),
    "shift in place": skill("x = 1\nx <<= 10 ** 12\nreturn (x, 0), {}"),
    "matrix product": skill("return (state @ state, 0), {}"),
    "call of a call": skill("return ((lambda: len)()([1]), 0), {}"),
    "call of an item": skill("return ([len][0]([1]), 0), {}"),
    "bytes": skill("return (b'x', 0), {}"),
    "huge number": skill("return (1" + "0" * 400 + ", 0), {}"),
    "kept list": skill("seen.append(1)\nreturn (len(seen), 0), {}", "seen = []\n"),
    "kept default": skill("return (f(), 0), {}", "def f(x=[]):\n    x.append(1)\n    return len(x)\n\n"),
    "set attribute": skill("state.x = 1\nreturn (1, 0), {}"),
    "os through a name": skill("return (os.getpid(), 0), {}"),
    "two entries": skill(_DONE) + skill(_DONE),
    "statement outside": skill(_DONE) + "x = [len(c) for c in 'ab']\n",
    "deep brackets": skill("return (" + "(" * 400 + "1" + ")" * 400 + ", 0), {}"),
    "deep minus": skill("return (" + "-" * 5000 + "1, 0), {}"),
    "null byte": skill("return (1, 0), {}") + "\0",
    "endless loop": skill("while True:\n    pass"),
    "endless recursion": skill("def f(n):\n    return f(n + 1)\nreturn (f(0), 0), {}"),
    "recursion in lambdas": skill("f = lambda g: g(g)\nreturn (f(f), 0), {}"),
    "endless comprehension": skill("return (sum(1 for _ in range(1000000000000)), 0), {}"),
    "endless map": skill("return (sum(map(lambda x: 1, range(1000000000000))), 0), {}"),
    "loop in C": skill("return (sum(range(10000000000000)), 0), {}"),
    "list bomb": skill("return (len([0] * 1000000000000), 0), {}"),
    "doubling": skill("x = [0]\nwhile True:\n    x = x + x\nreturn (1, 0), {}"),
    "text bomb": skill("return (len(f'{1:>1000000000}'), 0), {}"),
    "number bomb": skill("x = 3\nfor _ in range(10000):\n    x = x * x\nreturn (x, 0), {}"),
    "huge sort": skill("return (sorted(range(100000000))[0], 0), {}"),
    "not a number": skill("x = 1e308 * 10\nreturn (x - x, 0), {}"),
    "infinity": skill("return (1e308 * 10, 0), {}"),
    "text as value": skill("return ('1', 0), {}"),
    "one value": skill("return (1,), {}"),
    "nothing": skill("return None"),
    "missing key": skill("return (state['nothing'], 0), {}"),
}  # fmt: skip

_FIND = """
def evaluate_state(state):
    found = [c for c in ().__class__.__base__.__subclasses__() if c.__name__ == '_wrap_close'][0]
    space = found.__init__.__globals__
    os, sys = space['sys'].modules['os'], space['sys']
    builtins = sys.modules['builtins']
    {}
    return (1, 2), {{}}
"""
KERNEL: dict[str, str] = {
    name: _FIND.format(body)
    for name, body in {
        "open a file": "os.open('/etc/passwd', os.O_RDONLY)",
        "write a file": "os.open('escaped', os.O_WRONLY | os.O_CREAT)",
        "builtin open": "builtins.open('/etc/hostname').read()",
        "list a folder": "os.listdir('/')",
        "stat": "os.stat('/')",
        "shell": "os.system('true')",
        "fork": "os.fork()",
        "exec": "os.execv('/bin/true', ['true'])",
        "spawn": "os.posix_spawn('/bin/true', ['true'], {})",
        "kill the parent": "os.kill(os.getppid(), 0)",
        "kill itself": "os.kill(os.getpid(), 9)",
        "pipe": "os.pipe()",
        "duplicate a descriptor": "os.dup(1)",
        "change folder": "os.chdir('/')",
        "make a link": "os.symlink('/etc/passwd', 'link')",
        "user id": "os.setuid(0)",
        "environment of the parent": "os.open('/proc/1/environ', os.O_RDONLY)",
        "memory file": "os.memfd_create('x')",
        "priority": "os.nice(-5)",
        "random device": "os.urandom(8)",
        "send a file": "os.sendfile(1, 0, 0, 10)",
        "import from disk": "builtins.__import__('socket')",
        "executable memory": "mmap = sys.modules['mmap']; mmap.mmap(-1, 4096, prot=7)",
        "limits": "r = sys.modules['resource']; r.setrlimit(r.RLIMIT_AS, (-1, -1))",
        "sleep": "sys.modules['time'].sleep(0.01)",
    }.items()
}

_FORGE = """struct, frame, shared = sys.modules['struct'], sys._getframe(1), None
    while frame is not None:
        shared, frame = frame.f_locals.get('shared', shared), frame.f_back
    content = {}
    shared[:len(content)] = content
    os.write(1, b'd' + struct.pack('=i', len(content)))"""
FORGED: dict[str, str] = {  # answers that a worker without the language could write into its pipe, for one state
    name: _FIND.format(_FORGE.format(content))
    for name, content in {
        "no number of values": "b'12'",
        "fewer values than it says": "struct.pack('=i', 2)",
        "deep notes": "struct.pack('=i', 2) + b'\\0' * 16 + b'[' * 100000",
        "endless number": "struct.pack('=i', 2) + b'\\0' * 16 + b'[{\"a\": ' + b'9' * 400 + b'}]'",
        "notes that are no text": "struct.pack('=i', 2) + b'\\0' * 16 + b'\\xff\\xfe'",
        "notes of nobody": "struct.pack('=i', 2) + b'\\0' * 16 + b'[]'",
    }.items()
}

HARMLESS: dict[str, str] = {
    "sorted match": skill(
        """
        wins = 0
        prizes = sorted(state["deck"] + [state["to_play"]])
        for prize, a, b in zip(prizes, sorted(state["hand0"]), sorted(state["hand1"])):
            wins += prize if a > b else -prize if b > a else 0
        total = sum(prizes) / 2
        return (state["score0"] + total + wins / 2, state["score1"] + total - wins / 2), {"wins": wins}
        """
    ),
    "nested function": skill(
        """
        def strength(hand):
            return sum(pow_(card, 1.5) for card in hand)
        a, b = strength(state["hand0"]), strength(state["hand1"])
        share = a / (a + b) if a + b else 0.5
        left = sum(state["deck"]) + state["to_play"]
        return (state["score0"] + left * share, state["score1"] + left * (1 - share)), {"share": share}
        """
    ),
    "typed, with a docstring": (
        'HIGH = 4\n\n\ndef evaluate_state(state: dict) -> tuple:\n    """Count high cards."""\n'
        "    high0: int = len([c for c in state['hand0'] if c >= HIGH])\n"
        "    high1: int = len(list(filter(lambda c: c >= HIGH, state['hand1'])))\n"
        "    return (state['score0'] + high0, state['score1'] + high1), {'high0': high0, 'high1': high1}\n"
    ),
    "the paper's nine values": skill(
        """
        prizes, bids0, bids1, to_play, score0, score1, deck, hand0, hand1 = state
        mean0 = mean(hand0) if hand0 else 0
        mean1 = mean(hand1) if hand1 else 0
        return (score0 + mean0, score1 + mean1), {"mean0": mean0}
        """
    ),
    "by position": skill("return (state[4] + len(state[7]), state[5] + max(state[8] + [0])), {'n': len(state[6])}"),
    "while and break": skill(
        """
        left, i = list(state["hand0"]), 0
        while left:
            if left.pop() < 3:
                break
            i += 1
        return (state["score0"] + i, state["score1"]), {"i": i}
        """
    ),
    "dicts and sets": skill(
        """
        owners = {card: 0 for card in state["hand0"]}
        owners.update({card: 1 for card in state["hand1"]})
        only0 = set(state["hand0"]).difference(state["hand1"])
        counts = {}
        for owner in owners.values():
            counts[owner] = counts.get(owner, 0) + 1
        notes = {f"n{k}": v for k, v in counts.items()}
        return (state["score0"] + len(only0), state["score1"] + counts.get(1, 0)), notes
        """
    ),
    "any, all, min, abs": skill(
        """
        lead = any(a > b for a in state["hand0"] for b in state["hand1"])
        safe = all(a >= b for a, b in zip(state["hand0"], state["hand1"]))
        gap = abs(min(state["hand0"] + [0]) - min(state["hand1"] + [0]))
        return (state["score0"] + lead + safe, state["score1"] + gap), {"gap": gap}
        """
    ),
    "reversed, enumerate, round": skill(
        """
        value = 0.0
        for rank, card in enumerate(reversed(sorted(state["hand0"]))):
            value += card / (rank + 1)
        return (round(state["score0"] + value, 3), float(state["score1"])), {"value": value}
        """
    ),
    "walrus and slices": skill(
        """
        top = (cards := sorted(state["hand0"]))[-2:]
        return (state["score0"] + sum(top), state["score1"] + len(cards)), {"top": sum(top)}
        """
    ),
    "lambda key": skill(
        """
        best = max(state["hand0"], key=lambda c: c % 3) if state["hand0"] else 0
        return (state["score0"] + best, state["score1"]), {"best": best}
        """
    ),
    "returns values by player": skill("return {0: state['score0'] + 1, 1: state['score1'] + sum(state['deck'])}, {}"),
}  # fmt: skip
