from . import (
    notice as notice,
    store as store,
    training as training,
)
