"""Look into the sdist and the wheel in a folder: everything that belongs there, nothing that does not, not too big.

Usage: ``python .ci/check_packages.py dist``
"""

from __future__ import annotations

import platform
import sys
import tarfile
import zipfile
from pathlib import Path

WHEEL_LIMIT = 5_000_000
#: Kernels of precision tiers that x86 does without: it has faster ones.
TIERS = ("/_baseline_w8a8.", "/_baseline_w8.", "/_baseline_w16.", "/_baseline_bf16.")
SOURCES = {".pyx", ".pxi", ".pxd", ".h"}
FOLDERS = {
    "src/gatestep": "gatestep",
    "engine": "gatestep/engine",
    "kernels": "gatestep/kernels",
    "importers": "gatestep/importers",
    "benchmarks": "gatestep/benchmarks",
}


def tree_files(root: Path) -> dict[str, str]:
    """Every source file of the package, by its place in the tree: its place under site-packages."""
    return {
        path.relative_to(root).as_posix(): f"{target}/{path.relative_to(root / folder).as_posix()}"
        for folder, target in FOLDERS.items()
        for path in (root / folder).rglob("*")
        if path.suffix in SOURCES | {".py", ".pyi"} or path.name == "py.typed"
    }


def check_wheel(path: Path, files: dict[str, str]) -> list[str]:
    """Faults of a wheel."""
    with zipfile.ZipFile(path) as archive:
        held = set(archive.namelist())
        top = archive.read(next(name for name in held if name.endswith("/top_level.txt"))).decode().split()
    code = {name for name in held if ".dist-info/" not in name}
    expected = {target for source, target in files.items() if Path(source).suffix not in SOURCES}
    foreign = TIERS if platform.machine().lower() in ("x86_64", "amd64") else ("/_avx",)
    compiled = {
        target.removesuffix(".pyx")
        for target in files.values()
        if target.endswith(".pyx") and not any(name in target for name in foreign)
    }
    built = {name.split(".")[0] for name in code if name.endswith((".so", ".pyd"))}
    faults = [f"not in the wheel: {name}" for name in sorted(expected - code)]
    faults += [f"not compiled into the wheel: {name}" for name in sorted(compiled - built)]
    faults += [
        f"must not be in the wheel: {name}" for name in sorted(code - expected) if not name.endswith((".so", ".pyd"))
    ]
    if top != ["gatestep"]:
        faults.append(f"top-level modules {top}")
    if path.stat().st_size > WHEEL_LIMIT:
        faults.append(f"{path.stat().st_size} bytes, more than {WHEEL_LIMIT}")
    return faults


def check_sdist(path: Path, files: dict[str, str]) -> list[str]:
    """Faults of an sdist."""
    with tarfile.open(path) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    faults = [f"not in the sdist: {name}" for name in sorted({*files, "setup.py", "LICENSE", "README.md"} - held)]
    compiled = {name.removesuffix(".pyx") for name in held if name.endswith(".pyx")}
    generated = [name for name in held if name.endswith((".so", ".pyc")) or name.removesuffix(".c") in compiled]
    return faults + [f"must not be in the sdist: {name}" for name in sorted(generated)]


def main(folder: str) -> int:
    """Check the one wheel and the one sdist in `folder`; print what is wrong, and return the exit code."""
    files = tree_files(Path(__file__).resolve().parent.parent)
    (wheel,), (sdist,) = Path(folder).glob("*.whl"), Path(folder).glob("*.tar.gz")
    faults = [f"{wheel.name}: {fault}" for fault in check_wheel(wheel, files)]
    faults += [f"{sdist.name}: {fault}" for fault in check_sdist(sdist, files)]
    print("\n".join(faults) or f"{wheel.name} ({wheel.stat().st_size} bytes) and {sdist.name}: as they should be")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
