"""The counted runs: thousands of short-lived processes of two programs, each asked about.

A `Forge` is a program that forks a child for each round; the child opens a socket, says who it is
and exits. Nothing of it is left when the runs that ask late put their question.
"""

from __future__ import annotations

import socket
import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from tests.accuracy.model import Must, Program, Question, Tally, Verdict, judge
from tests.backends.linux.children import packed
from tunowner.core.model import TCP, UDP, FlowKey

if TYPE_CHECKING:
    from tests.accuracy.arena import Arena
    from tests.accuracy.stage import Actor, Address, Stage

SAMPLE = {None: 100, Must.ALL: 10, Must.PLAIN: 1, Must.EBPF: 1}
"""Who is asked in one round of so many: baselines take milliseconds each."""
RESOLVERS = range(9, 13)
"""Where the datagrams go, in turn. The kernel draws their source ports from 28,232: the more of them
go to one address, the more often the same port is drawn again and the answer is `ambiguous`."""
FORGE = """
def say(s):
    start, port = me()['start'], s.getsockname()[1]
    os.write(1, b'%d %d %d %d\\n' % (os.getpid(), start, port, time.monotonic_ns()))
tell(**me())
"""
LATE = """
for line in sys.stdin:
    a, kind = json.loads(line); pid = os.fork()
    if pid == 0:
        s = tcp(a) if kind == 'tcp' else udp()
        if kind == 'tcp': s.send(b'x')
        else: s.sendto(b'x', tuple(a))
        say(s); os._exit(0)
    os.waitpid(pid, 0); os.write(1, b'exited\\n')
"""
REUSE = """
a, l, r = json.loads(sys.argv[1])
def take(kind):
    s = socket.socket(socket.AF_INET, 1 if kind == b't' else 2)
    if kind == b't':
        s.setsockopt(1, socket.SO_REUSEADDR, 1); s.setsockopt(1, 13, b'\\1\\0\\0\\0\\0\\0\\0\\0')
    again(lambda: s.bind(tuple(l)))
    if kind == b's': s.sendto(b'x', tuple(r))
    else: again(lambda: s.connect(tuple(a if kind == b't' else r))); kind == b'c' and s.send(b'x')
    return s
def again(call):
    while True:
        try: return call()
        except OSError as error:
            if error.errno not in (98, 99, 111): raise  # the other program has not let go yet
        os.sched_yield()
while True:
    pid = os.fork()
    if pid == 0: s = take(os.read(0, 1)); say(s); os.read(0, 1); os._exit(0)
    if os.waitpid(pid, 0)[1]: sys.exit()
"""


class Round(NamedTuple):
    """What the child of one round said of itself."""

    program: Program
    port: int
    time_ns: int


class Forge:
    """One of the two programs; `ask` and `hear` are its pipe, unbuffered by rounds."""

    def __init__(self, actor: Actor) -> None:
        process = actor.child.process
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin, self._stdout = process.stdin, process.stdout
        self._path = actor.said["exe"]

    def say(self, word: str) -> None:
        self._stdin.write(word)
        self._stdin.flush()

    def hear(self) -> Round:
        pid, start, port, moment = map(int, self._stdout.readline().split())
        return Round(Program(pid, start, self._path), port, moment)

    def hear_exit(self) -> None:
        assert self._stdout.readline() == "exited\n"


class Run:
    """Counts by contestant. tunowner is asked each time, the others now and then."""

    def __init__(self, arena: Arena, row: str) -> None:
        self._arena = arena
        self._row = row
        self.tallies = {each.name: Tally() for each in arena.contestants}
        self.named = 0
        """Answers with the path of a process that has exited."""
        self.wrong: list[str] = []
        self.why: Counter[str] = Counter()
        """What was said instead of a process, with eBPF."""

    def ask(self, number: int, flow: FlowKey, program: Program, since: float | None = None) -> None:
        question = Question(flow, (program,), since=since)
        for each in self._arena.contestants:
            if number % SAMPLE[each.level]:
                continue
            answer = each.answer(question)
            verdict = judge(question, answer)
            self.named += each.level == Must.EBPF and answer.path is not None
            if each.level == Must.EBPF and answer.pid is None:
                self.why[f"{answer.grade}: {answer.detail}"] += 1
            self.tallies[each.name].add(verdict)
            self._arena.scores.add(self._row, each.name, verdict)
            if verdict is Verdict.WRONG and each.level is not None:
                self.wrong.append(f"round {number}, {flow}: {each.name}: {answer}, not {program}")


def forges(on: Stage, code: str, *arguments: object) -> list[Forge]:
    paths = None, on.other()
    return [Forge(on.start(FORGE + code, *arguments, program=path)) for path in paths]


def exited(arena: Arena, on: Stage, row: str, kind: str, rounds: int) -> Run:
    """Ask about each process when it has sent and exited, the two programs in turn."""
    run = Run(arena, row)
    listener = on.listener()
    protocol = TCP if kind == "tcp" else UDP
    resolvers = [(f"127.0.0.{last}", on.sink[1]) for last in RESOLVERS]
    targets = [listener.getsockname()] if kind == "tcp" else resolvers
    programs = forges(on, LATE)
    for number in range(rounds):
        target = targets[number % len(targets)]
        said = _one_round(programs[number % 2], target, kind)
        if number % 4 == 3:
            drain(listener)
        run.ask(number, flow_of(protocol, said.port, target), said.program)
    return run


def _one_round(forge: Forge, target: Address, kind: str) -> Round:
    forge.say(f'[["{target[0]}", {target[1]}], "{kind}"]\n')
    said = forge.hear()
    forge.hear_exit()
    return said


def flow_of(protocol: int, port: int, target: Address) -> FlowKey:
    return FlowKey(protocol, packed("127.0.0.1"), port, packed(target[0]), target[1])


def reuse(arena: Arena, on: Stage, row: str, rounds: int) -> tuple[Run, list[float]]:
    """Let two programs take one port from each other; also return how soon, in ms.

    In turn by TCP to one remote, by connected UDP, and by datagrams to an address.
    """
    run, gaps = Run(arena, row), []
    listener = on.listener()
    server, local = listener.getsockname(), ("127.0.0.1", free_port())
    programs = forges(on, REUSE, server, local, on.sink)
    for number in range(rounds):
        taker, holder = programs[number % 2], programs[1 - number % 2]
        kind = "tcs"[number // 2 % 3]
        begun = time.monotonic_ns()
        if number:
            holder.say("x")
        taker.say(kind)
        said = taker.hear()
        gaps.append((said.time_ns - begun) / 1e6)
        drain(listener)
        protocol, far = (TCP, server) if kind == "t" else (UDP, on.sink)
        run.ask(number, flow_of(protocol, local[1], far), said.program, begun / 1e9)
    return run, gaps


def free_port() -> int:
    """Return a port below those that the kernel gives out by itself."""
    for port in range(20000, 30000):
        with suppress(OSError), socket.socket() as tcp, socket.socket(type=2) as udp:
            tcp.bind(("127.0.0.1", port))
            udp.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port")


def drain(listener: socket.socket) -> None:
    listener.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            with listener.accept()[0] as accepted, suppress(OSError):
                accepted.setblocking(False)
                accepted.recv(1)  # closing with unread data would send a reset
