from . import (
    atomic_files as atomic_files,
    aws_profile as aws_profile,
    lease as lease,
    links as links,
    object_store as object_store,
    relocation as relocation,
    table_cache as table_cache,
    workspace as workspace,
)
