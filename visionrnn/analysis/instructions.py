"""What a compiled kernel consists of, read from its disassembly: NVIDIA's machine code, or AMD's assembly as the compiler writes it."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from typing import Any

# Columns, and the operations that count for each.
NVIDIA = {
    "tensor": r"(HMMA|IMMA|DMMA|QMMA|OMMA|HGMMA|IGMMA|QGMMA|UTC[A-Z]*MMA)\b",
    "loads": r"(LDG|LDGSTS|UTMALDG)\b",  # asynchronous ones and those of the tensor memory accelerator too
    "stores": r"(STG|UTMASTG|UTMAREDG)\b",
    "shared_accesses": r"(LDS|LDSM|STS|STSM)\b",
    "barriers": r"(BAR|SYNCS)\b",
    "spills": r"(LDL|STL)\b",
    "atomics": r"(ATOM|ATOMG|ATOMS|RED|REDG)\b.*\.(B?F16|F32|F64)",  # on floats
}
AMD = {
    "tensor": r"v_(mfma|wmma|smfmac)",
    "loads": r"(global|buffer|flat)_load",
    "stores": r"(global|buffer|flat)_store",
    "shared_accesses": r"ds_(read|load|write|store)",
    "barriers": r"s_barrier",
    "spills": r"scratch_(load|store)",
    "atomics": r"(global|buffer|flat|ds)_\w*(atomic_(pk_)?add_b?f|add_(rtn_)?f)",
}


def _counted(operations: list[str], table: dict[str, str]) -> dict[str, int]:
    """Occurrences in the code, each once however often it runs; ``instructions``: all of them."""
    found: Counter[str] = Counter()
    for name, pattern in table.items():
        matches = re.compile(pattern).match
        found[name] = sum(1 for operation in operations if matches(operation))
    return {"instructions": len(operations), **found}


def _output(tool: str, *arguments: str) -> str:
    from triton import knobs

    path = getattr(knobs.nvidia, tool).path
    return subprocess.run([path, *arguments], capture_output=True, text=True, check=True).stdout


def nvidia(cubin: bytes) -> dict[str, int]:
    """Registers, bytes of stack and counts of a cubin, by the tools that Triton brings."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = _output("cuobjdump", "-res-usage", file.name)
        code = _output("nvdisasm", "-c", file.name)
    resources = re.search(r"REG:(\d+)\s+STACK:(\d+)\s+SHARED:\d+\s+LOCAL:(\d+)", usage)
    if resources is None:
        raise RuntimeError(f"cuobjdump tells no resources: {usage[-500:]}")
    lines = re.findall(r"^\s*/\*[0-9a-f]{4,}\*/\s*(?:\{\s*)?(.*?);", code, re.MULTILINE)
    operations = [re.sub(r"^@!?U?P\w+\s+", "", line) for line in lines]
    registers, stack, local = map(int, resources.groups())
    return {"registers": registers, "stack": stack + local, **_counted(operations, NVIDIA)}


def amd(assembly: str) -> dict[str, int]:
    """The same of AMD's assembly; registers are vector registers of both kinds."""

    def told(name: str) -> int:
        found = re.search(rf"\.{name}:\s+(\d+)", assembly)
        return int(found[1]) if found else 0

    lines = [line.strip() for line in assembly.splitlines() if line.startswith("\t")]
    counts = _counted([line for line in lines if line and line[0] not in ".;"], AMD)
    counts["spills"] = told("vgpr_spill_count")
    return {"registers": told("vgpr_count"), "stack": told("private_segment_fixed_size"), **counts}


# Per multiprocessor: shared memory, what each program reserves of it, warps, programs; and shared memory of one program at most.
LIMITS: dict[Any, tuple[int, int, int, int, int]] = {
    80: (164 << 10, 1 << 10, 64, 32, 163 << 10),
    90: (228 << 10, 1 << 10, 64, 32, 227 << 10),
    100: (228 << 10, 1 << 10, 64, 32, 227 << 10),
}


def occupancy(architecture: int | str, registers: int, shared: int, warps: int) -> tuple[int, float]:
    """Programs that fit on a multiprocessor at once, by registers, shared memory and warps, and the share of its warps that they fill.

    An estimate. On gfx942 (four units of 512 registers a lane, 64 KB of shared memory, 32 wavefronts) a warp is a wavefront of 64.
    """
    if isinstance(architecture, str):
        by_registers = 4 * min(8, 512 // max(8, -(-registers // 8) * 8)) // warps
        by_shared = (64 << 10) // shared if shared else 64
        programs = min(by_registers, by_shared, 32 // warps)
        return programs, programs * warps / 32
    memory, reserved, most_warps, most_programs, largest = LIMITS[architecture]
    if shared > largest:
        return 0, 0.0
    by_registers = 65536 // (-(-registers * 32 // 256) * 256) // warps
    programs = min(by_registers, memory // (-(-shared // 128) * 128 + reserved), most_warps // warps, most_programs)
    return programs, programs * warps / most_warps
