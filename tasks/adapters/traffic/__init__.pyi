from . import (
    answers as answers,
    apply as apply,
    haproxy as haproxy,
    protocol as protocol,
    sagemaker as sagemaker,
    split_store as split_store,
)
from .apply import (
    apply_split as apply_split,
    control_of as control_of,
)
from .split_store import (
    read_split as read_split,
    write_split as write_split,
)
