"""What the kernel was asked: the bytes of every request are flushed before its answer is written, in every thread."""

from __future__ import annotations

import re
import shutil
import subprocess
import time

import pytest
from crashes import start_load
from durable import open_funded, request_id, url_of

COMMANDS = 12
CALLS = "fsync,fdatasync,write,pwrite64,pwritev,writev"
_LINE = re.compile(r"(?:\[pid +)?(\d+)\]? +(.*)")
_CALL = re.compile(r"(?:<\.\.\. )?(\w+)(?:\((\d+)<([^>]*)>| resumed>)")


def strace_or_skip():
    tracer = shutil.which("strace")
    if tracer is None:
        pytest.skip("strace is not installed (Debian: apt-get install strace)")
    tried = subprocess.run([tracer, "-o", "/dev/null", "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"strace may not trace here: {tried.stderr.strip()}")
    return tracer


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    """Run the load of several threads under strace: (calls in order as (name, file, text, begun, ended), acknowledged numbers, base)."""
    tracer = strace_or_skip()
    folder = tmp_path_factory.mktemp("trace")
    url, base_us, output = url_of(folder), time.time_ns() // 1000, folder / "strace.txt"
    open_funded(url).close()
    options = ("-f", "-y", "-xx", "-s", "1000000", "-e", f"trace={CALLS}", "-e", "signal=none", "-o", str(output))
    process = start_load(url, base_us, 0, COMMANDS, before=(tracer, *options))
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    numbers = [int(line.split()[0]) for line in out.decode().splitlines() if line != "ready"]
    return parse(output.read_text()), numbers, base_us


def parse(text):
    """Return the calls of a trace with the lines at which each began and ended; calls of other threads may stand in between."""
    calls, begun = [], {}
    for place, line in enumerate(text.splitlines()):
        thread, rest = _LINE.match(line).groups()
        found = _CALL.match(rest)
        if found is None:
            continue
        name, _, file = found.groups()
        file = unescaped(file) if file else file
        if file is None:
            name, file, data, start = begun.pop(thread)
            calls.append((name, file, data, start, place))
        elif rest.endswith("<unfinished ...>"):
            begun[thread] = (name, file, rest, place)
        else:
            calls.append((name, file, rest, place, place))
    return calls


def unescaped(text):
    """Turn a name that strace wrote as \\x2f\\x74... back into itself."""
    return bytes.fromhex(text.replace("\\x", "")).decode() if text.startswith("\\x") else text


def escaped(data):
    return "".join(f"\\x{byte:02x}" for byte in data)


def test_every_answer_comes_after_the_flush_of_its_bytes(trace):
    calls, numbers, base_us = trace
    assert len(numbers) == 5 * COMMANDS, "five threads ask, one writes snapshots"
    log_writes = [call for call in calls if call[0].startswith("pwrite") and call[1].endswith(".db-wal")]
    flushes = [call for call in calls if call[0] in {"fsync", "fdatasync"} and call[1].endswith(".db-wal")]
    answers = [call for call in calls if call[0] == "write" and call[1].startswith("pipe:")]
    assert log_writes
    assert flushes
    for number in numbers:
        identity = escaped(bytes.fromhex(request_id(number, base_us).replace("-", "")))
        stored = min((call[4] for call in log_writes if identity in call[2]), default=None)
        assert stored is not None, f"the bytes of {number} were never written"
        line = escaped(f"{number} ".encode())
        told = next(call[3] for call in answers if f'"{line}' in call[2] or f"\\x0a{line}" in call[2])
        flushed = [call for call in flushes if call[3] > stored and call[4] < told]
        assert flushed, f"{number} was answered at line {told} of the trace, written at {stored}, and not flushed in between"


def test_threads_share_flushes(trace):
    calls, numbers, _ = trace
    flushes = [call for call in calls if call[0] in {"fsync", "fdatasync"} and call[1].endswith(".db-wal")]
    assert len(flushes) < len(numbers), "fewer flushes than commands"


def test_the_reading_of_a_trace_sees_a_missing_flush():
    """The judge itself: a trace in which the answer comes before the flush has ended."""
    text = (
        '7 pwrite64(5</x/books.db-wal>, "\\x01", 1, 0) = 1\n'
        "7 fdatasync(5</x/books.db-wal> <unfinished ...>\n"
        '8 write(1<pipe:[1]>, "\\x35\\x20", 2) = 2\n'
        "7 <... fdatasync resumed>) = 0\n"
    )
    write, answer, flush = parse(text)
    assert (write[0], answer[0], flush[0]) == ("pwrite64", "write", "fdatasync")
    assert (write[4], flush[3], answer[3], flush[4]) == (0, 1, 2, 3)
    assert flush[4] > answer[3], "not in time"
