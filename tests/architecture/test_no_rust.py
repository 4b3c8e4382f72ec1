"""An exchange embeds the ledger without Rust and without a network: nothing of either is in the process after importing all of it.

Rust is recognised by the ELF section `.comment`, in which its compiler leaves "rustc version", of every library that a fresh
interpreter has mapped.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/maps")

FOREIGN = ("cryptography", "grpc", "nats", "pydantic", "pydantic_core", "requests", "solders", "urllib3", "web3")

# Runs in the fresh interpreter: import the package in argv[1] with every module in it, then tell what is mapped and loaded.
PROBE = """
import importlib, json, os, pkgutil, sys
package = importlib.import_module(sys.argv[1])
if sys.argv[1] == "ledger":
    for module in pkgutil.walk_packages(package.__path__, "ledger."):
        importlib.import_module(module.name)
with open("/proc/self/maps") as maps:
    mapped = {line.split(maxsplit=5)[5].rstrip("\\n") for line in maps if len(line.split(maxsplit=5)) == 6}
print(json.dumps({"mapped": sorted(path for path in mapped if os.path.isfile(path)), "modules": sorted(sys.modules)}))
"""


def probe(package: str) -> tuple[list[Path], set[str]]:
    """Import `package` in a fresh, isolated interpreter; return the files it mapped and the modules it loaded."""
    done = subprocess.run([sys.executable, "-I", "-c", PROBE, package], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    return [Path(path) for path in answer["mapped"]], set(answer["modules"])


def elf_section(image: bytes, wanted: bytes) -> bytes:
    """Return the content of a section of an ELF file of 64 bits, little endian; nothing if there is none.

    Source: System V ABI, chapter 4: the header names the table of sections (e_shoff at 40) and its width, count and
    name section (from 58); a section's header holds its name's offset, and at 24 its own offset and size.
    """
    if image[:6] != b"\x7fELF\x02\x01":
        return b""
    (table,) = struct.unpack_from("<Q", image, 40)
    width, count, names_index = struct.unpack_from("<HHH", image, 58)
    if table == 0 or count == 0:
        return b""

    def header(index: int) -> tuple[int, int, int, int]:
        name, kind = struct.unpack_from("<II", image, table + index * width)
        offset, size = struct.unpack_from("<QQ", image, table + index * width + 24)
        return name, kind, offset, size

    _, _, names, _ = header(names_index)
    for index in range(count):
        name, _, offset, size = header(index)
        if image[names + name : image.index(b"\0", names + name)] == wanted:
            return image[offset : offset + size]
    return b""


def with_rust(mapped: list[Path]) -> list[Path]:
    return [path for path in mapped if b"rustc version" in elf_section(path.read_bytes(), b".comment")]


def test_the_ledger_maps_no_rust_and_loads_no_network():
    mapped, modules = probe("ledger")
    libraries = [path for path in mapped if elf_section(path.read_bytes(), b".comment")]
    assert libraries, "the reader of ELF files must be able to read at least the interpreter"
    assert any("google/_upb" in str(path) for path in mapped), "the probe must see the ledger's own libraries"
    assert with_rust(mapped) == []
    assert sorted(modules & set(FOREIGN)) == []


def test_the_detector_sees_rust():
    pytest.importorskip("cryptography")
    mapped, modules = probe("cryptography.hazmat.bindings._rust")
    assert "cryptography" in modules
    assert [path for path in with_rust(mapped) if "cryptography" in str(path)] != []
