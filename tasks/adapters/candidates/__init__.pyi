from . import (
    bases as bases,
    incremental as incremental,
    race as race,
    strategies as strategies,
)
