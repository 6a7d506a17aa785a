"""What can go wrong that a person can mend.

    PerennialError
    ├── ModelConfigError     deployments/model_config.py   a model's YAML file
    ├── SourceError          tasks/adapters/schemas.py     new rows cannot be read
    ├── LakeError            tasks/adapters/parquet_file.py stored rows cannot be read or written
    ├── RegistryError        tasks/adapters/registry.py    no champion, a corrupted model, a move that failed
    ├── ModelFileError       tasks/adapters/model_files.py a model's files were changed or are missing
    ├── FeatureError         tasks/adapters/encoding.py    rows lack a column that the model reads
    ├── EstimatorError       tasks/adapters/estimators.py  an estimator or parameter that cannot be used
    ├── TrainingRefused      tasks/training.py             too little or leaking training data
    ├── MoveFailed           tasks/adapters/alias_move.py  a move of aliases that was put back
    ├── PromotionRefused     tasks/promotion.py            a move that the evidence or the registry does not allow
    ├── LedgerError          tasks/adapters/object_store.py the chain or a lease cannot be read or extended
    ├── LeaseHeld            tasks/adapters/lease.py       another run of the model writes
    ├── FencedOut            tasks/adapters/lease.py       this process fell silent and another one took over
    ├── TimeAhead            flows/parameters.py           a live model is asked about a time that has not come
    ├── NothingToPromote     tasks/policy/errors.py        no challenger has been judged
    ├── AccessRefused        tasks/policy/errors.py        somebody may not do this
    └── WorkspaceError       tasks/adapters/workspace.py   the workspace cannot be written to

Every message says where, what was found, what was expected and what to do. Everything else is a defect of ours.
"""


class PerennialError(Exception):
    """Base of the errors whose message is all a person needs."""


class NothingToPromote(PerennialError):
    """No challenger has been judged yet."""


class AccessRefused(PerennialError):
    """The model's file does not let this principal do this. Nothing was done."""


class PromotionRefused(PerennialError):
    """The evidence, a person, or what the registry holds does not allow this move. Nothing was moved."""
