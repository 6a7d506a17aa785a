from . import (
    calendar_parts as calendar_parts,
    derived as derived,
    numbers as numbers,
    target_encoding as target_encoding,
)
