from . import (
    haproxy as haproxy,
    protocol as protocol,
    sagemaker as sagemaker,
    split_store as split_store,
)
from .split_store import (
    read_split as read_split,
    write_split as write_split,
)
