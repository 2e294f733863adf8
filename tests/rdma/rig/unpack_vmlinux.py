"""Takes the ELF kernel out of a bzImage: unpack_vmlinux.py BZIMAGE VMLINUX.

Layout of a bzImage: the kernel's Documentation/arch/x86/boot.rst (setup_sects, payload_offset, payload_length).
"""

import lzma
import struct
import subprocess
import sys
import zlib
from pathlib import Path

SECTOR_BYTES = 512
SETUP_SECTORS_AT = 0x1F1
PAYLOAD_AT = 0x248


def unpacked(image: bytes) -> bytes:
    """The payload of a bzImage, decompressed."""
    offset, length = struct.unpack_from("<II", image, PAYLOAD_AT)
    start = ((image[SETUP_SECTORS_AT] or 4) + 1) * SECTOR_BYTES + offset
    payload = image[start : start + length]
    if payload.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMADecompressor().decompress(payload)  # what follows is its size
    if payload.startswith(b"\x1f\x8b"):
        return zlib.decompressobj(31).decompress(payload)
    if payload.startswith(b"\x28\xb5\x2f\xfd"):
        return subprocess.run(["zstd", "-dcq"], input=payload[:-4], stdout=subprocess.PIPE, check=True).stdout
    sys.exit(f"a kernel compressed in a way that is not known here: {payload[:6].hex()}")


def main() -> None:
    """Unpack the file named by the first argument to the second."""
    vmlinux = unpacked(Path(sys.argv[1]).read_bytes())
    if not vmlinux.startswith(b"\x7fELF"):
        sys.exit("what was unpacked is no ELF file")
    Path(sys.argv[2]).write_bytes(vmlinux)


main()
