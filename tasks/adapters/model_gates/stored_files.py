"""Refuse model files that could run code when they are loaded, before anything loads them.

Boosters are data in their library's own format, and skops builds only types that were recorded at training. A pickle, under
whatever name, and an array of Python objects are programs.
"""

import io
import zipfile
from collections.abc import Iterator, Mapping

from tasks.adapters.models.files import trusted_packages, types_of

PICKLE_ENDINGS = (".pkl", ".pickle", ".joblib", ".cloudpickle", ".dill")
PICKLE_PROTOCOLS = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))
"""First bytes of a pickle (PEP 307, PEP 3154, PEP 574); the older protocols are text and known by their file's name only."""
OBJECTS = b"'descr': '|O'"
"""Header of a NumPy file whose values are pickled."""
ZIP = b"PK\x03\x04"


def code_in_files(files: Mapping[str, bytes]) -> list[str]:
    """Return the names of the files, and of files in archives, that hold code."""
    return [name for name, content in _opened(files) if _is_code(name, content)]


def untrusted_types(files: Mapping[str, bytes], trusted: tuple[str, ...], imported: tuple[str, ...]) -> list[str]:
    """Return the types in skops files that training did not record, or that are of other packages."""
    packages = trusted_packages(imported)
    found = types_of(dict(files))
    return sorted(name for name in found if name not in trusted or name.partition(".")[0] not in packages)


def _opened(files: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
    for name, content in files.items():
        yield name, content
        if content.startswith(ZIP):
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                for member in archive.namelist():
                    yield f"{name}:{member}", archive.read(member)


def _is_code(name: str, content: bytes) -> bool:
    return (
        name.lower().endswith(PICKLE_ENDINGS)
        or content.startswith(PICKLE_PROTOCOLS)
        or (content.startswith(b"\x93NUMPY") and OBJECTS in content[:200])
    )
