from . import (
    delivery as delivery,
    event_ordering as event_ordering,
    events as events,
    requeue as requeue,
    retry_conditions as retry_conditions,
    run_identity as run_identity,
    runs as runs,
    server as server,
    stage as stage,
)
