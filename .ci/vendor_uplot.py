"""Fetch uPlot anew: `python3 .ci/vendor_uplot.py 1.6.32` writes `tunrex_jax_monitor/_vendor/uplot`. Needs npm."""

import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

TARGET = Path(__file__).parents[1] / "tunrex_jax_monitor" / "_vendor" / "uplot"
FILES = {"package/dist/uPlot.iife.min.js", "package/dist/uPlot.min.css", "package/LICENSE"}


def main(version: str) -> None:
    """Take the files out of npm's archive, whose checksum npm has compared, and note their own."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["npm", "pack", "--silent", f"uplot@{version}"], cwd=folder, check=True)
        with tarfile.open(next(Path(folder).glob("*.tgz"))) as archive:
            contents = {Path(name).name: archive.extractfile(name).read() for name in sorted(FILES)}
    TARGET.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (TARGET / name).write_bytes(content)
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    manifest = {"name": "uPlot", "version": version, "license": "MIT", "sha256": sums}
    (TARGET / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
