"""The errors that a person can fix, all in one tree.

Every message says where, what was found, what was expected and what to do. Any other exception is a defect of ours.
"""


class PerennialError(Exception):
    """Base of the errors whose message is all a person needs."""


# a model's file, and what it names


class ModelConfigError(PerennialError, ValueError):
    """A model's YAML file is missing, unreadable or says something that is not accepted."""


class EstimatorError(PerennialError):
    """The YAML names an estimator or a parameter that cannot be used."""


class UnknownPolicy(PerennialError):
    """A policy that the back-test does not know by this name."""


class SuiteError(PerennialError, ValueError):
    """A suite cannot be read, or holds an expectation that Great Expectations does not know."""


class TimeAhead(PerennialError):
    """The requested time of a live model is in the future. Nothing was read."""


# data


class SourceError(PerennialError, ValueError):
    """A source of rows is missing, cannot be read, or holds something else than the model's YAML says."""


class SourceUnreachable(SourceError):
    """A host, bucket or database did not answer; trying again may help."""


class SourceEmpty(SourceError):
    """No row of the window is there (yet)."""


class LakeError(PerennialError, RuntimeError):
    """Stored rows are missing, are not what was stored, or cannot be stored as asked."""


class FeatureError(PerennialError):
    """Rows lack a column that the model reads, or hold it in a type it cannot read."""


class MatrixError(PerennialError, ValueError):
    """A performance matrix that cannot be simulated; says what was found and what is expected."""


class NothingToReplay(PerennialError):
    """No model was chosen whose recorded history has an end."""


# training


class TooEarly(PerennialError):
    """There is nothing yet that a model could learn from."""


class TrainingRefused(PerennialError):
    """These rows must not be trained on; trying again with the same rows changes nothing."""


# registry


class RegistryError(PerennialError):
    """The registry cannot be reached, or holds no such version."""


class NoChampion(RegistryError):
    """No version of the model serves yet."""


class VersionGone(RegistryError):
    """The registry holds no such version, or another one under its number."""


class ModelFileError(PerennialError):
    """A model's files are missing, altered, or of types that nobody vouched for."""


# rollout


class NothingToPromote(PerennialError):
    """No challenger has been judged yet."""


class PromotionRefused(PerennialError):
    """The evidence, a person, or what the registry holds does not allow this move. Nothing was moved."""


class MoveFailed(PerennialError):
    """The aliases were not moved, or moved and put back because what then served did not answer."""


class AccessRefused(PerennialError):
    """The model's file does not let this principal do this. Nothing was done."""


class BackfillRefused(PerennialError):
    """The range holds no window, or more than was allowed. Nothing was done."""


class ReplayRefused(PerennialError):
    """The workspace already knows the future of what should be replayed."""


# storage


class WorkspaceError(PerennialError, RuntimeError):
    """The workspace cannot be written to or read from."""


class LedgerError(PerennialError):
    """The chain cannot be read or extended."""


class LeaseHeld(PerennialError):
    """Another run of this model writes, and went on renewing its lease. Nothing was written."""


class FencedOut(PerennialError):
    """This process fell silent past its lease and another one took over. It has written nothing since."""


class AwsProfileError(PerennialError):
    """The keys of a profile cannot be had."""


# deployments


class DeploymentError(PerennialError, RuntimeError):
    """The definitions cannot be deployed, or Prefect refused them."""


class PoolError(PerennialError, ValueError):
    """A place or a pool is named that nothing describes."""


class LogInError(PerennialError, ValueError):
    """The file with the log-in cannot be used."""
