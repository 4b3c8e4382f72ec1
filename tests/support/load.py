"""A process that keeps a ledger busy and tells of every answer after it has it, to be killed or traced from outside.

    python load.py URL BASE_TIME_US FIRST_NUMBER COMMANDS_PER_THREAD SNAPSHOT_PATH_OR_EMPTY

Every command follows from its number, so whoever reads the acknowledgements can ask for the very same one again. An acknowledgement is a
line "number index position" on standard output, written with one system call.
"""

from __future__ import annotations

import os
import random
import sys
import threading
from typing import Any

from durable import ACCOUNTS, request_id, transfer

from ledger import Ledger, LedgerError
from ledger.state import FIRST_ACCOUNT_NUMBER
from stockledger.v1.common_pb2 import LegColumns
from stockledger.v1.transfers_pb2 import TransferBatchRequest

THREADS = ("single", "single", "many", "packed", "batch", "snapshot")
NUMBERS_PER_THREAD = 1_000_000


def command_of(number: int, base_us: int) -> Any:
    """Return the command of a number; units go round in a ring, so nobody runs out."""
    identity = request_id(number, base_us)
    turn = number % len(ACCOUNTS)
    if THREADS[number // NUMBERS_PER_THREAD % len(THREADS)] != "batch":
        return transfer(turn, (turn + 1) % len(ACCOUNTS), 1 + number % 3, request_id=identity)
    sources = [FIRST_ACCOUNT_NUMBER + (turn + leg) % len(ACCOUNTS) for leg in range(20)]
    destinations = [FIRST_ACCOUNT_NUMBER + (turn + leg + 1) % len(ACCOUNTS) for leg in range(20)]
    legs = LegColumns(instrument="AAPLx", sources=sources, destinations=destinations, units=[1] * 20)
    return TransferBatchRequest(request_id=identity, legs=[legs])


def acknowledge(numbers: list[int], answers: Any) -> None:
    """Write down what was answered; a refusal would be a mistake of this program."""
    lines = []
    for number, answer in zip(numbers, answers, strict=True):
        if isinstance(answer, LedgerError):
            raise answer
        lines.append(f"{number} {answer.booking.index} {answer.booking.position}\n")
    os.write(1, "".join(lines).encode())


def work(books: Ledger, kind: str, first: int, count: int, base_us: int) -> None:
    """Ask for one command after the other, or for some at once."""
    chance = random.Random(first)
    number, last = first, first + count
    while number < last:
        if kind == "snapshot":
            books.write_snapshot()
            number += max(count // 4, 1)
            continue
        together = chance.randrange(1, 60) if kind in {"many", "packed"} else 1
        numbers = list(range(number, min(number + together, last)))
        commands = [command_of(each, base_us) for each in numbers]
        if kind in {"many", "packed"}:
            acknowledge(numbers, books.execute_many(commands, pack=kind == "packed"))
        else:
            acknowledge(numbers, [books.execute(commands[0])])
        number = numbers[-1] + 1


def main() -> None:
    url, base_us, first, count = sys.argv[1], *map(int, sys.argv[2:5])
    with Ledger.open(url, snapshot=sys.argv[5] or None) as books:
        os.write(1, b"ready\n")
        threads = [
            threading.Thread(target=work, args=(books, kind, first + place * NUMBERS_PER_THREAD, count, base_us))
            for place, kind in enumerate(THREADS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main()
