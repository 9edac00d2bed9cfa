#!/usr/bin/env python3
"""Generates the Python stubs of the protocol, as one package with one import.

    pip install -r requirements.txt
    python generate.py                # into ./stubs
    PYTHONPATH=stubs python -c 'from tidewire import v1; print(v1.NotifyServiceStub)'
"""

import importlib.resources
import pathlib
import sys

from grpc_tools import protoc

HERE = pathlib.Path(__file__).resolve().parent
PROTO = HERE.parent.parent / "proto"


def main() -> None:
    out = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "stubs"
    out.mkdir(parents=True, exist_ok=True)
    files = sorted(str(file) for file in (PROTO / "tidewire" / "v1").glob("*.proto"))
    google = importlib.resources.files("grpc_tools") / "_proto"
    arguments = ["", f"-I{PROTO}", f"-I{google}", f"--python_out={out}", f"--pyi_out={out}"]
    code = protoc.main([*arguments, f"--grpc_python_out={out}", *files])
    if code != 0:
        sys.exit(f"the compiler failed with status {code}")
    # Every message and every service under one name.
    package = out / "tidewire" / "v1"
    modules = sorted(file.stem for file in package.glob("*_pb2*.py"))
    lines = [f"from tidewire.v1.{module} import *  # noqa: F403" for module in modules]
    (package / "__init__.py").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
