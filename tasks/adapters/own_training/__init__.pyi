from . import (
    command as command,
    flow as flow,
    function as function,
    imports as imports,
    output as output,
    pipeline as pipeline,
    pool as pool,
    snapshot_files as snapshot_files,
    trainer as trainer,
)
