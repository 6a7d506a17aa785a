"""What can go wrong that a person can fix.

    PerennialError
    ├── ModelConfigError     deployments/config/model.py   a model's YAML file
    ├── SourceError          tasks/adapters/lake/schemas.py     new rows cannot be read
    ├── LakeError            tasks/adapters/delta/parquet_file.py stored rows cannot be read or written
    ├── RegistryError        tasks/adapters/registry/versions.py    no champion, a corrupted model, a move that failed
    ├── ModelFileError       tasks/adapters/models/files.py a model's files were changed or are missing
    ├── FeatureError         tasks/adapters/models/encoding.py    rows lack a column that the model reads
    ├── EstimatorError       tasks/adapters/models/estimators.py  an estimator or parameter that cannot be used
    ├── TrainingRefused      tasks/training/train.py             too little or leaking training data
    ├── MoveFailed           tasks/adapters/evaluation/alias_transaction.py  a move of aliases that was put back
    ├── PromotionRefused     tasks/rollout/promotion.py            a move that the evidence or the registry does not allow
    ├── LedgerError          tasks/adapters/storage/object_store.py the chain or a lease cannot be read or extended
    ├── LeaseHeld            tasks/adapters/storage/lease.py       another run of the model writes
    ├── FencedOut            tasks/adapters/storage/lease.py       this process fell silent and another one took over
    ├── TimeAhead            flows/parameters.py           a live model is asked about a time that has not come
    ├── NothingToPromote     tasks/policy/records/errors.py        no challenger has been judged
    ├── AccessRefused        tasks/policy/records/errors.py        somebody may not do this
    └── WorkspaceError       tasks/adapters/storage/workspace.py   the workspace cannot be written to

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
