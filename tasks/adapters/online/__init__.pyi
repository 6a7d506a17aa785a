from . import (
    booster as booster,
    leaves as leaves,
    prequential as prequential,
    serving as serving,
    store as store,
)
