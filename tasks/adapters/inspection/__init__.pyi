from . import (
    columns as columns,
    identity as identity,
    labels as labels,
    lints as lints,
    personal as personal,
    proposal as proposal,
    table as table,
    times as times,
    zones as zones,
)
