from . import chain as chain, copy as copy, files as files, shared as shared, verification as verification
from .chain import (
    HEAD as HEAD,
    Head as Head,
    Verification as Verification,
    append as append,
    entries as entries,
    models as models,
    verify as verify,
)
