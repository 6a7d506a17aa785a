from . import (
    incremental as incremental,
    race as race,
    strategies as strategies,
)
