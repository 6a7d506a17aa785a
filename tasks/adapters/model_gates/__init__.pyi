from . import (
    clean_process as clean_process,
    error_tree as error_tree,
    fairness as fairness,
    faults as faults,
    malformed as malformed,
    measure as measure,
    packaged as packaged,
    program as program,
    stored_files as stored_files,
)
