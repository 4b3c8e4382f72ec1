"""Generate the Python code of protos/, or check that what is committed is what would be generated.

Each file gets `_pb2.py` and `_pb2.pyi`; one that declares a service gets `_pb2_grpc.py` and `_pb2_grpc.pyi` too. Generated
files whose source is gone are removed, and are drift when checking.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

PROTOS = Path(__file__).resolve().parent.parent / "protos"
INCLUDE = Path(grpc_tools.__file__).parent / "_proto"  # google/protobuf
GENERATED = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")
SERVICE = re.compile(r"^service ", re.MULTILINE)


def generate(target: Path) -> None:
    """Generate everything into `target`, which is laid out as protos/ is."""
    sources = sorted(PROTOS.rglob("*.proto"))
    with_service = [source for source in sources if SERVICE.search(source.read_text(encoding="utf-8"))]
    run([f"--python_out={target}", f"--mypy_out=quiet:{target}"], sources)
    if with_service:
        run([f"--grpc_python_out={target}", f"--mypy_grpc_out=quiet:{target}"], with_service)


def run(outputs: list[str], sources: list[Path]) -> None:
    names = [source.relative_to(PROTOS).as_posix() for source in sources]
    if protoc.main(["protoc", f"--proto_path={PROTOS}", f"--proto_path={INCLUDE}", *outputs, *names]) != 0:
        sys.exit("protoc refused the sources (see above)")


def generated_files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for pattern in GENERATED for path in root.rglob(pattern)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the committed files differ")
    check: bool = parser.parse_args().check
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        wanted = generated_files(Path(folder))
    present = generated_files(PROTOS)
    drift = sorted(name for name in wanted.keys() | present.keys() if wanted.get(name) != present.get(name))
    if check and drift:
        sys.exit(f"protos: generated code differs from its sources, run `make protos`: {', '.join(drift)}")
    for name in drift:
        if name in wanted:
            (PROTOS / name).write_bytes(wanted[name])
        else:
            (PROTOS / name).unlink()
    print(f"protos: {len(wanted)} generated files, {len(drift)} {'differ' if check else 'written or removed'}")


if __name__ == "__main__":
    main()
