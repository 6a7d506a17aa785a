from . import (
    dask_cluster as dask_cluster,
    device as device,
    external_memory as external_memory,
    mapped_rows as mapped_rows,
    row_batches as row_batches,
)
